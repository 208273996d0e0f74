package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who may not become root is told before the tests begin, and what to do about it.
func TestNewcomersWithoutRootAreToldSo(t *testing.T) {
	bash, err := exec.LookPath("bash")
	require.NoError(t, err)
	askRoot := func(commands map[string]string) (string, error) {
		bin := t.TempDir()
		for name, does := range commands {
			require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!"+bash+"\n"+does+"\n"), 0o700))
		}
		c := exec.Command(bash, "../../.ci/root")
		c.Env = []string{"PATH=" + bin}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	out, err := askRoot(map[string]string{"id": "echo 0"})
	require.NoError(t, err)
	require.Empty(t, out)
	out, err = askRoot(map[string]string{"id": "echo 1000", "sudo": "exit 0"})
	require.NoError(t, err)
	require.Empty(t, out)
	out, err = askRoot(map[string]string{"id": "echo 1000"})
	require.Error(t, err)
	require.Contains(t, out, "install sudo, or run make as root")
	out, err = askRoot(map[string]string{"id": "echo 1000", "sudo": "exit 1"})
	require.Error(t, err)
	require.Contains(t, out, "`sudo -v` first")
}
