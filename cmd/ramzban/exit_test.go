package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The help, the README and the systemd unit know every exit status; the unit starts again only after those that this can
// mend.
func TestExitStatusesAreDocumented(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), ramzban, "serve", "--help").Output()
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	unit, err := os.ReadFile("deploy/ramzban.service")
	require.NoError(t, err)
	var final []string
	for _, e := range exits {
		require.Contains(t, string(help), fmt.Sprintf("  %2d  %s\n", e.status, e.means))
		require.Contains(t, string(readme), fmt.Sprintf("\n| %d | %s |\n", e.status, e.means))
		if e.status > exitFailure {
			final = append(final, fmt.Sprint(e.status))
		}
	}
	require.Contains(t, string(unit), "\nRestartPreventExitStatus="+strings.Join(final, " ")+"\n")
}
