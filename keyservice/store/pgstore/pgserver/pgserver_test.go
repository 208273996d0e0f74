package pgserver

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// childVariable makes this binary start a server, print its folder, and wait to be killed.
const childVariable = "RAMZBAN_TEST_PGSERVER_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	s, err := New(Options{Parent: Memory()})
	if err != nil {
		os.Stdout.WriteString("failed: " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString(s.dir + "\n")
	select {}
}

// TestTCPAsksForThePassword: others on this machine reach the port.
func TestTCPAsksForThePassword(t *testing.T) {
	port, err := FreePort()
	require.NoError(t, err)
	s, err := New(Options{Parent: Memory(), Port: port, Password: "geheim"})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Stop()); require.NoDirExists(t, s.Dir()) }()
	for dsn, good := range map[string]bool{
		s.DSN("postgres"): true, s.TCP("postgres"): false,
		s.TCP("postgres") + " password=falsch": false, s.TCP("postgres") + " password=geheim": true,
	} {
		conn, err := pgx.Connect(context.Background(), dsn)
		require.Equal(t, good, err == nil, "%s: %v", dsn, err)
		if good {
			require.NoError(t, conn.Close(context.Background()))
		}
	}
}

// TestServerThatCannotStartLeavesNothing: its folder goes too.
func TestServerThatCannotStartLeavesNothing(t *testing.T) {
	parent, err := os.MkdirTemp(Memory(), "ramzban-test-")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(parent)) }()
	require.NoError(t, os.Chmod(parent, 0o755)) // another account's server passes through
	_, err = New(Options{Parent: parent, Settings: []string{"no_such_setting = 1"}})
	require.ErrorContains(t, err, "no_such_setting")
	left, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestServerDiesWithItsStarter: a process that is killed leaves no server, and the next one removes its folder.
func TestServerDiesWithItsStarter(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.Command(self)
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	buffer := make([]byte, 1000)
	n, err := out.Read(buffer)
	require.NoError(t, err)
	dir := strings.TrimSpace(string(buffer[:n]))
	left, err := processesIn(dir + "/data")
	require.NoError(t, err)
	require.NotZero(t, left, dir)
	require.NoError(t, child.Process.Signal(syscall.SIGKILL))
	_ = child.Wait() // it was killed
	require.Eventually(t, func() bool {
		left, err := processesIn(dir + "/data")
		return err == nil && left == 0
	}, stopLimit, 10*time.Millisecond)
	require.NoError(t, sweep(Memory()))
	require.NoDirExists(t, dir)
}
