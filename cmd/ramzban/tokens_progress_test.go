package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal of 30 lines of 110 characters: what it shows, and where a program writes to it.
func terminal(t testing.TB) (shows, writes *os.File) {
	t.Helper()
	shows, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = shows.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(shows.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(shows.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(shows.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 110}))
	writes, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return shows, writes
}

// On a terminal a bar is drawn, and it ends whether the batch came to its end or not.
func TestProgressOnATerminal(t *testing.T) {
	for steps, last := range map[int]string{60: "100 of 100 tokens", 20: "60 of 100 tokens"} {
		shows, writes := terminal(t)
		p := newProgress(writes, 100, 40)
		for range steps {
			p.add()
		}
		p.end()
		require.NoError(t, writes.Close())
		drawn, _ := io.ReadAll(shows) // ends with an error when nobody writes any more
		require.Contains(t, string(drawn), last)
		require.Contains(t, string(drawn), "==")
	}
}

// Elsewhere a line says now and then how far it is, and at the end.
func TestProgressInALog(t *testing.T) {
	var log bytes.Buffer
	p := newProgress(&log, 1000, 0)
	for range 500 {
		p.add()
	}
	require.Empty(t, log.String(), "five seconds have not passed")
	lines, is := p.(*progressLines)
	require.True(t, is)
	lines.said = lines.said.Add(-progressEvery)
	p.add()
	require.Equal(t, "501 of 1000 tokens\n", log.String())
	p.add()
	p.end()
	require.Equal(t, "502 of 1000 tokens", strings.Split(log.String(), "\n")[1])
}
