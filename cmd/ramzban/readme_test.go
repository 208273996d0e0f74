package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The README's commands run as written, one after another in one shell, and once more as it says, against the service as
// `make run` starts it. Only the addresses are others, so that a service already running on this machine is left alone.
func TestREADMECommandsRunAsWritten(t *testing.T) {
	s := startService(t)
	top := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(top, "bin"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(top, "var"), 0o755))
	require.NoError(t, os.Symlink(s.dir, filepath.Join(top, "var", "dev")))
	wrapper := "#!/bin/sh\ncase \"$1 $2\" in 'audit verify'|'audit receipt'|'approvals sign') ;; 'device activate'|'device sync'|'device remove'|'tokens '*|'audit '*|'backup --out'|'officers '*|'approvals '*|'keys '*|'rotations '*) set -- \"$@\" --url https://" + s.api + ";; esac\nexec " + ramzban + " \"$@\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(top, "bin", "ramzban"), []byte(wrapper), 0o755))

	shell := exec.Command("bash", "-euo", "pipefail", "-s")
	shell.Dir = top
	shell.Stdin = strings.NewReader(strings.NewReplacer("127.0.0.1:8443", s.api, "127.0.0.1:9090", s.ops).Replace(readmeCommands(t) + "\n" + readmeCommands(t)))
	out, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 6, strings.Count(string(out), `"result": "accepted"`), "the password, its retry, and the SMS password: %s", out)
	require.Equal(t, 2, strings.Count(string(out), `"bound": true`), "%s", out)
	require.Equal(t, 2, strings.Count(string(out), `"reason": "already_used"`), "%s", out)
	require.NotContains(t, string(out), `"code":`, "no call met a problem")
	require.Contains(t, string(out), `"status": "suspended"`)
	require.Equal(t, 2, strings.Count(string(out), "Nothing is missing"), "both restores are complete: %s", out)
	require.Contains(t, string(out), "otp.verify", "the auditor sees the verification")
}

// readmeCommands returns every shell block of the README but those that run make.
func readmeCommands(t *testing.T) string {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		if !strings.HasPrefix(block[1], "make ") {
			commands = append(commands, block[1])
		}
	}
	require.GreaterOrEqual(t, len(commands), 7)
	return strings.Join(commands, "\n")
}
