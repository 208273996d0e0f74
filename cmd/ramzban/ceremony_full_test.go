package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallDisk is a file system with room for so many pages, on which a folder's content is put.
func smallDisk(t *testing.T, dir string, pages int) {
	t.Helper()
	away := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(away, "x"), os.DirFS(dir)))
	asRoot(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=700,uid=%d", pages*os.Getpagesize(), os.Getuid()), "tmpfs", dir)
	t.Cleanup(func() { asRoot(t, "umount", dir) })
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join(away, "x"))))
}

// fill leaves room for so many pages on the disk of dir.
func fill(t *testing.T, dir string, pages int) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	_ = os.Remove(filler)
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	page := bytes.Repeat([]byte{1}, os.Getpagesize())
	written := 0
	for err == nil {
		if _, err = f.Write(page); err == nil {
			written++
		}
	}
	require.NoError(t, f.Close())
	require.NoError(t, os.Truncate(filler, int64(max(0, written-pages)*os.Getpagesize())))
}

// A token that is really full: the disk under SoftHSM has room for fewer keys than are planned, for any number of them.
// Nothing is left of what fitted, and with room the same plan is held.
func TestCeremonyOnAFullToken(t *testing.T) {
	h := newHall(t)
	disk := filepath.Join(h.tok.Dir, "tokens")
	smallDisk(t, disk, 64)
	args := h.args("--execute")
	for room := 0; ; room++ {
		fill(t, disk, room)
		before := h.everything()
		err := runCeremony(t, args)
		if err == nil {
			require.GreaterOrEqual(t, room, 10, "nine keys, of one of them both halves")
			break
		}
		require.ErrorContains(t, err, "HSM: create key ramzban/")
		require.ErrorContains(t, err, "the HSM may be full: make room in it")
		require.NotContains(t, err.Error(), "NOT undone")
		require.Equal(t, before, h.everything(), strconv.Itoa(room))
		require.Less(t, room, 16)
	}
	h.opens()
}

// The disk for the transcript and the known answers is full: the keys that were made are destroyed again.
func TestCeremonyThatCannotBeWrittenDown(t *testing.T) {
	h := newHall(t)
	out := h.path("out")
	require.NoError(t, os.Mkdir(out, 0o700))
	smallDisk(t, out, 32)
	h.plan.Output.Transcript, h.plan.Output.KnownAnswers = filepath.Join(out, "one.json"), filepath.Join(out, "known-answer")
	args := h.args("--execute")
	for room := 0; ; room++ {
		require.Less(t, room, 32)
		fill(t, out, room)
		before := h.everything()
		var err error
		if err = runCeremony(t, args); err == nil {
			break
		}
		require.ErrorContains(t, err, "no space left on device")
		require.ErrorContains(t, err, "destroyed again")
		require.Equal(t, before, h.everything(), strconv.Itoa(room))
	}
}

// runCeremony runs the real binary; the error is the one line that it says.
func runCeremony(t *testing.T, args []string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ramzban, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if cmd.Run() == nil {
		return nil
	}
	requireOneLine(t, stderr.String())
	return errors.New(stderr.String())
}
