package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// seat is a terminal at which a ceremony is held.
type seat struct {
	t     *testing.T
	cmd   *exec.Cmd
	types *os.File
	shows *bufio.Reader // what the terminal shows
	shown *bytes.Buffer // what of it was read
	tty   *os.File
}

func (h *hall) sitDown(args ...string) *seat {
	h.t.Helper()
	types, tty := terminal(h.t)
	s := &seat{t: h.t, types: types, tty: tty, shows: bufio.NewReader(types), shown: &bytes.Buffer{}}
	s.cmd = exec.CommandContext(h.t.Context(), ramzban, args...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(h.t, s.cmd.Start())
	late := time.AfterFunc(startLimit, func() { _ = s.cmd.Process.Kill(); _ = tty.Close() }) // ends every read
	h.t.Cleanup(func() { late.Stop(); _ = tty.Close() })
	return s
}

// until reads on, what the terminal shows, until it ends with text.
func (s *seat) until(text string) {
	s.t.Helper()
	for {
		b, err := s.shows.ReadByte()
		require.NoError(s.t, err, "waiting for %q: %s", text, s.shown)
		s.shown.WriteByte(b)
		if strings.HasSuffix(s.shown.String(), text) {
			return
		}
	}
}

func (s *seat) echoes() bool {
	s.t.Helper()
	settings, err := unix.IoctlGetTermios(int(s.tty.Fd()), readTermios)
	require.NoError(s.t, err)
	return settings.Lflag&unix.ECHO != 0
}

func (s *seat) enter(line string) {
	s.t.Helper()
	_, err := s.types.WriteString(line + "\n")
	require.NoError(s.t, err)
}

// At a terminal custodians type unseen, may try again after a slip, and the terminal is as it was afterwards.
func TestComponentsAreTypedUnseen(t *testing.T) {
	h := newHall(t)
	lines := h.components()
	s := h.sitDown(h.args("--execute")...)
	s.until("component 1 of 2: leila types it (not shown): ")
	require.False(t, s.echoes())
	s.enter(lines[1])
	s.until("once more\r\nramzban/wrap/1, component 1 of 2: leila types it (not shown): ")
	for i, line := range lines {
		s.enter(line)
		if i < len(lines)-1 {
			s.until("types it (not shown): ")
		}
	}
	s.until("one.json\r\n")
	require.NoError(t, s.cmd.Wait())
	require.True(t, s.echoes())
	h.opens()
	for _, line := range lines {
		require.NotContains(t, s.shown.String(), line[:8])
	}
}

// An interruption while somebody types leaves the terminal as it was, and nothing else.
func TestAnInterruptionWhileSomebodyTypes(t *testing.T) {
	h := newHall(t)
	h.components()
	args := h.args("--execute")
	before := h.everything()
	s := h.sitDown(args...)
	s.until("types it (not shown): ")
	require.False(t, s.echoes())
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	require.Error(t, s.cmd.Wait())
	require.Equal(t, exitFailure, s.cmd.ProcessState.ExitCode())
	require.True(t, s.echoes())
	require.Equal(t, before, h.everything())
	s.until("interrupted: interrupt signal received\r\n")
}

// Components are drawn in the HSM and shown once each; what is printed at the end completes a plan, and what the custodians
// wrote down makes its key.
func TestComponentsAreDrawnForTheirCustodians(t *testing.T) {
	h := newHall(t)
	args := h.args("--label", "seal", "--custodian", "leila", "--custodian", "reza: a \"name\"")
	args = append([]string{"ceremony", "components"}, args[1:]...)
	before := h.everything()
	s := h.sitDown(args...)
	var written []string
	for range 2 {
		s.until("press Enter to see your component. ")
		s.enter("")
		s.shown.Reset()
		s.until("Press Enter to clear the screen. ")
		text, _, found := strings.Cut(s.shown.String(), "key check value")
		require.True(t, found)
		written = append(written, strings.Join(strings.Fields(text), ""))
		s.enter("")
		s.until(clearScreen)
	}
	s.shown.Reset()
	require.NoError(t, s.cmd.Wait())
	s.until(`{custodian: "reza`)
	s.until("\"}\r\n")
	require.Equal(t, before, h.everything())
	require.Len(t, written[0], 128)
	require.NotEqual(t, written[0], written[1])

	_, entry, _ := strings.Cut(s.shown.String(), "under keys:")
	b, err := yaml.Marshal(h.plan)
	require.NoError(t, err)
	seal := "- label: seal\n  version: 1\n  origin: generate\n"
	require.Contains(t, string(b), seal)
	for line := range strings.Lines(entry) {
		require.LessOrEqual(t, len(line), 80)
	}
	plan := strings.Replace(string(b), seal, strings.ReplaceAll(strings.ReplaceAll(strings.TrimPrefix(entry, "\r\n"), "\r", ""), "\n  ", "\n")[2:], 1)
	path := writeFile(t, "plan.yaml", plan)
	cmd := exec.CommandContext(t.Context(), ramzban, "ceremony", "--plan", path, "--execute")
	cmd.Stdin = strings.NewReader(strings.Join(written, "\n"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, plan)
	h.opens()

	_, stderr := runFailing(t, exitFailure, nil, args...)
	requireOneLine(t, stderr, "components are shown at a terminal only")
}
