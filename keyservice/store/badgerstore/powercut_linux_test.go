package badgerstore

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/storetest"
)

// A killed process loses nothing that it wrote, synced or not: the page cache survives. A power cut is shown here by
// a copy of a file system's image, taken while a writer is in the midst of its batches: it has only what was written
// back. Mounting the copy replays the file system's journal.

// TestPowerCut: everything acknowledged before the cut is there.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for range storetest.Scaled(2, 10) {
		acks, disk := cutPower(t)
		copied := mount(t, disk)
		n := requireAcknowledged(t, filepath.Join(copied.dir, "db"), acks)
		require.Greater(t, n, 300)
		t.Logf("%d acknowledged commits survived", n)
		copied.unmount(t)
	}
}

// TestPowerCutWithoutSync shows that the test above can see: without syncing, acknowledged commits are lost.
func TestPowerCutWithoutSync(t *testing.T) {
	t.Parallel()
	for range storetest.Scaled(1, 10) {
		acks, disk := cutPower(t, childNoSync+"=1")
		copied := mount(t, disk)
		s, err := Open(crashOptions(filepath.Join(copied.dir, "db")))
		if errors.Is(err, ErrCorrupt) {
			t.Logf("nothing can be opened: %v", err)
			copied.unmount(t)
			continue
		}
		require.NoError(t, err)
		n, lost := storetest.Lost(t, s, acks)
		t.Logf("%d of %d acknowledged commits lost", lost, n)
		require.NotZero(t, lost)
		require.NoError(t, s.Close())
		copied.unmount(t)
	}
}

// cutPower runs a writer on a file system and returns what it had acknowledged at some moment, and the image as it was
// then.
func cutPower(t *testing.T, env ...string) (acks []byte, disk string) {
	t.Helper()
	image := newImage(t)
	m := mount(t, image)
	writer := startChild(t, filepath.Join(m.dir, "db"), env...)
	waitForAcks(t, writer, 300+rand.IntN(8000))
	stop(t, writer.cmd.Process.Pid)
	acks = writer.acknowledged(t)
	disk = copyImage(t, image, m.device)
	writer.kill()
	m.unmount(t)
	return acks, disk
}

// stop halts all threads of the process, wherever they are in a batch: the copy of the image must show one moment, as
// a power cut does, and not blocks of different moments.
func stop(t *testing.T, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Eventually(t, func() bool {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		require.NoError(t, err)
		for _, path := range stats {
			b := string(read(t, path))
			if !strings.HasPrefix(b[strings.LastIndexByte(b, ')')+1:], " T") {
				return false
			}
		}
		return len(stats) > 0
	}, 30*time.Second, time.Millisecond)
}

// copyImage copies the image, again if the kernel wrote something back meanwhile.
func copyImage(t *testing.T, image, device string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.img")
	for range 50 {
		before := written(t, device)
		require.NoError(t, copyFile(path, image))
		if written(t, device) == before {
			return path
		}
	}
	t.Fatal("the kernel writes all the time")
	return ""
}

// written returns the requests and sectors that the device has written and those in flight.
func written(t *testing.T, device string) string {
	t.Helper()
	fields := strings.Fields(string(read(t, "/sys/block/"+device+"/stat")))
	require.GreaterOrEqual(t, len(fields), 9)
	require.Equal(t, "0", fields[8], "requests in flight")
	return fields[4] + " " + fields[6]
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
