package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

// TestRealDiskFillsUp: on a small disk the store refuses in time, lives, reads, and goes on when there is space. Without
// the reserve the process would die of SIGBUS.
func TestRealDiskFillsUp(t *testing.T) {
	t.Parallel()
	m := mount(t, newImage(t))
	ballast := filepath.Join(m.dir, "ballast")
	overwrite(t, ballast, make([]byte, 24<<20))
	o := crashOptions(filepath.Join(m.dir, "db"))
	s := openTest(t, o)
	accepted, err := fill(s, 0)
	requireFailed(t, err)
	require.ErrorIs(t, err, store.ErrNoSpace)
	require.NotZero(t, accepted)
	require.NoError(t, s.Err())
	require.Len(t, value(t, s, fillKey(0, 0)), fillSize)
	require.Len(t, value(t, s, fillKey(accepted-1, fillRows-1)), fillSize)

	require.NoError(t, os.Remove(ballast))
	require.Eventually(t, func() bool { // the file system frees blocks a little later
		_, err := s.Commit(context.Background(), change("again", "v"))
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	more, err := fill(s, accepted)
	require.ErrorIs(t, err, store.ErrNoSpace)
	require.Greater(t, more, accepted)
	require.NoError(t, s.Close())

	overwrite(t, ballast, make([]byte, freeOn(t, m.dir)-crashReserve/2)) // closing had tidied up
	require.ErrorIs(t, openError(t, o.Dir), store.ErrNoSpace, "nor does it open, where Badger would die")
	require.NoError(t, os.Remove(ballast))
	s = openTest(t, o)
	require.EqualValues(t, more+1, s.commits.next)
	require.Len(t, value(t, s, fillKey(more-1, fillRows-1)), fillSize)
	require.NoError(t, s.Close())
}

func freeOn(t *testing.T, dir string) uint64 {
	free, err := FreeSpace(dir)
	require.NoError(t, err)
	return free
}

const (
	fillSize = 32 << 10
	fillRows = 6
)

func fillKey(i, row int) store.Key { return store.Key(fmt.Sprintf("fill/%d/%d", i, row)) }

// fill commits the i-th change and its successors until the store refuses one, and returns which.
func fill(s *Store, i int) (int, error) {
	noise := rand.NewChaCha8([32]byte{})
	for ; i < imageSize/fillSize/fillRows; i++ {
		c := store.Change{Entry: []byte("e")}
		for row := range fillRows {
			value := make([]byte, fillSize)
			if _, err := noise.Read(value); err != nil {
				return i, err
			}
			c.Put = append(c.Put, store.Put{Key: fillKey(i, row), Value: value})
		}
		if _, err := s.Commit(context.Background(), c); err != nil {
			return i, err
		}
	}
	return i, errors.New("the disk does not fill up")
}

func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	image := newImage(t)
	m := mount(t, image)
	dir := filepath.Join(m.dir, "db")
	s := openTest(t, Options{Dir: dir, Reserve: 1, Sequencer: storetest.Sequencer()})
	mustCommit(t, s, change("k", "v"))
	require.NoError(t, s.Close())
	m.unmount(t)

	m = mount(t, image, "-o", "ro")
	dir = filepath.Join(m.dir, "db")
	require.ErrorIs(t, openError(t, dir), ErrNotWritable)
	require.ErrorContains(t, openError(t, dir), "not read-only")
	require.ErrorIs(t, openError(t, filepath.Join(m.dir, "new")), ErrNotWritable)
}
