package badgerstore

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/storetest"
)

// The crash tests run this binary again as a process that commits until it dies.
const (
	childDir    = "RAMZBAN_TEST_STORE_DIR"
	childNoSync = "RAMZBAN_TEST_STORE_NO_SYNC"
)

// Sizes for crash tests: small tables, so that flushes and compactions are in progress when the lights go out.
const (
	crashTable   = 2 << 20
	crashReserve = 48 << 20
)

func crashOptions(dir string) Options {
	return Options{
		Dir: dir, Node: "a", Sequencer: storetest.Sequencer(), Reserve: crashReserve, memTable: crashTable,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, "writer:", writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled is the child. Acknowledgements go to standard output, a file.
func writeUntilKilled(dir string) error {
	o := crashOptions(dir)
	if os.Getenv(childNoSync) != "" {
		o.noSync = true
		o.memTable = memTableSize // so large that nothing is flushed, which would sync it
	}
	s, err := Open(o)
	if err != nil {
		return err
	}
	return storetest.WriteUntilKilled(s, os.Stdout)
}

// child is a writer process.
type child struct {
	cmd   *exec.Cmd
	acks  *os.File
	ended chan error
}

// startChild starts a writer on the directory; it is killed at the end of the test at the latest.
func startChild(t testing.TB, dir string, env ...string) *child {
	t.Helper()
	acks, err := os.CreateTemp(t.TempDir(), "acks")
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	c := &child{cmd: exec.Command(self), acks: acks, ended: make(chan error, 1)}
	c.cmd.Env = append(append(os.Environ(), childDir+"="+dir), env...)
	c.cmd.Stdout, c.cmd.Stderr = acks, os.Stderr
	require.NoError(t, c.cmd.Start())
	go func() { c.ended <- c.cmd.Wait() }()
	t.Cleanup(func() {
		c.kill()
		acks.Close()
	})
	return c
}

// kill ends the process with SIGKILL and waits for it; a second call does nothing.
func (c *child) kill() {
	if c.ended == nil {
		return
	}
	_ = c.cmd.Process.Kill() // it may have ended by itself: the caller sees it in the acknowledgements
	<-c.ended
	c.ended = nil
}

// acknowledged returns the lines written so far.
func (c *child) acknowledged(t testing.TB) []byte { return read(t, c.acks.Name()) }
