package faultmodule_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// newToken makes a SoftHSM token in a folder of this test and returns the path of SoftHSM's module.
func newToken(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\n", dir), 0o600))
	t.Setenv("SOFTHSM2_CONF", conf)
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", pin).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return "/usr/lib/softhsm/libsofthsm2.so"
}
