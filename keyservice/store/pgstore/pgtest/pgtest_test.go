package pgtest

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

// childVariable makes this binary start a server, print its folder and its pid, and wait to be killed.
const childVariable = "RAMZBAN_TEST_PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(Run(m))
	}
	s, err := start(memory(), nil)
	if err != nil {
		os.Stdout.WriteString("failed: " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString(s.dir + "\n")
	select {}
}

func TestDatabasesAreSeparate(t *testing.T) {
	ctx := context.Background()
	for _, dsn := range []string{Database(t), Database(t)} {
		conn, err := pgx.Connect(ctx, dsn)
		require.NoError(t, err)
		_, err = conn.Exec(ctx, "CREATE TABLE mine ()")
		require.NoError(t, err)
		require.NoError(t, conn.Close(ctx))
	}
}

func TestServerComesBackAfterKill(t *testing.T) {
	s := Start(t, "work_mem = '5MB'")
	s.Exec(t, "CREATE TABLE kept AS SELECT current_setting('work_mem') AS it")
	require.NoError(t, s.Kill())
	require.NoError(t, s.Start())
	conn, err := pgx.Connect(context.Background(), s.DSN("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var kept, fsync string
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT it, current_setting('fsync') FROM kept").Scan(&kept, &fsync))
	require.Equal(t, "5MB on", kept+" "+fsync)
}

// TestServerDiesWithTheTest: a test process that is killed leaves no server, and the next one removes its folder.
func TestServerDiesWithTheTest(t *testing.T) {
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
	require.NoError(t, sweep(memory()))
	require.NoDirExists(t, dir)
}
