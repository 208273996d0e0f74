package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// demonstration runs `ramzban dev cluster-demo` with a folder for temporary files of its own, under this process's
// account (nil) or another. Nothing may be left in the folder.
func demonstration(t *testing.T, account *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ramzban-test-")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	require.NoError(t, os.Chmod(dir, 0o755)) // other accounts pass through
	temporary, program := filepath.Join(dir, "tmp"), filepath.Join(dir, "ramzban")
	require.NoError(t, os.Mkdir(temporary, 0o755))
	if account != nil {
		require.NoError(t, os.Chown(temporary, int(account.Uid), int(account.Gid)))
	}
	binary, err := os.ReadFile(ramzban)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, binary, 0o755))

	demo := exec.Command(program, "dev", "cluster-demo")
	demo.Dir, demo.Env = temporary, append(os.Environ(), "TMPDIR="+temporary)
	demo.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	out, err := demo.CombinedOutput()
	require.NoError(t, err, "%s", out)
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left)
	return string(out)
}

func TestClusterDemonstration(t *testing.T) {
	out := demonstration(t, nil)
	require.Equal(t, clusterRounds, strings.Count(out, "accepted                 refused: already_used")+
		strings.Count(out, "refused: already_used    accepted"), out)
	for _, want := range []string{"connection refused", "done (tehran)", "accepted (mashhad)", "agrees with the audit log"} {
		require.Contains(t, out, want)
	}
	require.Less(t, strings.Count(out, "\n"), 110, "it should be read")
	for line := range strings.Lines(out) {
		require.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, line)
	}
}

// PostgreSQL refuses root, and runs as whoever else starts it.
func TestClusterDemonstrationWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		return // the other test was that already
	}
	nobody, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.Atoi(nobody.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(nobody.Gid)
	require.NoError(t, err)
	require.Contains(t, demonstration(t, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}), "everything they made is deleted")
}

// A demonstration that is told to stop ends its services and its server first. Only the services' logs are left.
func TestClusterDemonstrationIsInterrupted(t *testing.T) {
	dir, err := os.MkdirTemp("", "ramzban-test-")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(dir)) }()
	require.NoError(t, os.Chmod(dir, 0o755))
	demo := exec.Command(ramzban, "dev", "cluster-demo")
	demo.Env = append(os.Environ(), "TMPDIR="+dir)
	demo.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := demo.StdoutPipe()
	require.NoError(t, err)
	var said, errs strings.Builder
	demo.Stderr = &errs
	require.NoError(t, demo.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "2. The same password") {
			require.NoError(t, demo.Process.Signal(syscall.SIGINT))
		}
	}
	require.Error(t, demo.Wait())
	requireOneLine(t, errs.String(), "interrupt", "logs are in "+dir)
	require.NotContains(t, errs.String(), "the service ended with")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Contains(t, left[0].Name(), "ramzban-demo-")
	addresses := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindAllString(said.String(), -1)
	require.Len(t, addresses, 2)
	for _, a := range addresses {
		_, err := net.Dial("tcp", a)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}
