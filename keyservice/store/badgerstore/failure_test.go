package badgerstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

var errDisk = errors.New("the disk\nis on fire")

// TestEngineErrorStopsWriting: whether or not the failed batch reached the disk, nobody is told something false.
func TestEngineErrorStopsWriting(t *testing.T) {
	t.Parallel()
	for name, reaches := range map[string]bool{"nothing was written": false, "everything was written": true} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			var failing atomic.Bool
			commitAt := func(txn *badger.Txn, ts uint64) error {
				if failing.Load() && !reaches {
					g.reached <- ts
					return <-g.pass
				}
				return g.commitAt(txn, ts)
			}
			o := Options{Dir: t.TempDir(), Sequencer: storetest.Sequencer(), commitAt: commitAt}
			s := openTest(t, o)
			before := submit(context.Background(), s, change("before", "v"))
			<-g.reached
			g.pass <- nil
			require.NoError(t, receive(t, before).err)

			failing.Store(true)
			inFlight := submit(context.Background(), s, change("in flight", "v"))
			<-g.reached
			stale := submit(context.Background(), s, change("queued", "v", store.Require{Key: "queued"}))
			waitQueued(t, s, 1)
			g.pass <- errDisk
			require.ErrorIs(t, receive(t, inFlight).err, store.ErrUnknown)
			requireFailed(t, receive(t, stale).err)
			<-s.Failed()
			require.ErrorContains(t, s.Err(), "the disk is on fire")
			_, err := s.Commit(context.Background(), change("later", "v"))
			requireFailed(t, err)
			require.Equal(t, "v", value(t, s, "before"))
			require.Empty(t, value(t, s, "in flight"), "reads show what was durable before")
			require.NoError(t, s.Close())

			o.commitAt = nil
			s = openTest(t, o)
			defer s.Close()
			require.NoError(t, s.Err())
			next := uint64(1)
			if reaches {
				require.Equal(t, "v", value(t, s, "in flight"))
				next = 2
			}
			require.Empty(t, value(t, s, "queued")+value(t, s, "later"))
			require.Equal(t, next, mustCommit(t, s, change("after", "v")))
		})
	}
}

func requireFailed(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, store.ErrFailed)
	require.NotErrorIs(t, err, store.ErrUnknown)
	require.NotErrorIs(t, err, store.ErrConflict)
}

// TestRefusedMembersOfAFailedBatch: they were not written, but the rival they lost to may not be durable.
func TestRefusedMembersOfAFailedBatch(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	submit(context.Background(), s, change("other", "v"))
	<-g.reached
	winner := submit(context.Background(), s, change("card", "1", store.Require{Key: "card"}))
	waitQueued(t, s, 1)
	loser := submit(context.Background(), s, change("card", "2", store.Require{Key: "card"}))
	waitQueued(t, s, 2)
	g.pass <- nil
	<-g.reached
	g.pass <- errDisk
	require.ErrorIs(t, receive(t, winner).err, store.ErrUnknown)
	requireFailed(t, receive(t, loser).err)
}

// TestBadgerItselfFails: errors of the real engine, of a write and of a read.
func TestBadgerItselfFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]store.Change{
		"in the write": change("k", "v"),
		"in a read":    change("k", "v", store.Require{Key: "k"}),
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, Options{Dir: t.TempDir()})
			require.NoError(t, s.db.Close())
			_, err := s.Commit(context.Background(), c)
			require.Error(t, err)
			require.NotErrorIs(t, err, store.ErrConflict)
			<-s.Failed()
			require.Error(t, s.Err())
			require.NoError(t, s.Close())
		})
	}
}

func TestFailureIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := openTest(t, Options{
		Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil)),
		commitAt: func(*badger.Txn, uint64) error { return errDisk },
	})
	_, err := s.Commit(context.Background(), change("k", "secret value"))
	require.ErrorIs(t, err, store.ErrUnknown)
	require.NoError(t, s.Close())
	require.Contains(t, log.String(), "level=ERROR")
	require.Contains(t, log.String(), "the disk is on fire")
	require.NotContains(t, log.String(), "secret")
}

// fakeDisk has as much free space as a test says.
type fakeDisk struct {
	free atomic.Uint64
	err  atomic.Pointer[error]
}

func (d *fakeDisk) freeSpace(string) (uint64, error) {
	if err := d.err.Load(); err != nil {
		return 0, *err
	}
	return d.free.Load(), nil
}

func TestReserveIsKept(t *testing.T) {
	t.Parallel()
	disk := &fakeDisk{}
	disk.free.Store(DefaultReserve)
	o := Options{Node: "a", Dir: t.TempDir(), Sequencer: storetest.Sequencer(), FreeSpace: disk.freeSpace}
	s := openTest(t, o)
	mustCommit(t, s, change("k", "v"))

	disk.free.Store(DefaultReserve - 1)
	for range 3 {
		_, err := s.Commit(context.Background(), change("k", "w"))
		requireFailed(t, err)
		require.ErrorIs(t, err, store.ErrNoSpace)
		require.ErrorContains(t, err, o.Dir)
	}
	require.Equal(t, "v", value(t, s, "k"))
	require.NoError(t, s.Err(), "that is no failure of the engine")

	gone := fmt.Errorf("statfs: %w", os.ErrNotExist)
	disk.err.Store(&gone)
	_, err := s.Commit(context.Background(), change("k", "w"))
	requireFailed(t, err)
	require.NotErrorIs(t, err, store.ErrNoSpace)
	disk.err.Store(nil)

	disk.free.Store(DefaultReserve)
	require.EqualValues(t, 1, mustCommit(t, s, change("k", "x")), "service resumes by itself, refused changes took no index")
	require.NoError(t, s.Close())

	disk.free.Store(DefaultReserve - 1)
	_, err = Open(o)
	require.ErrorIs(t, err, store.ErrNoSpace)
	require.NotContains(t, err.Error(), "\n")
	disk.free.Store(DefaultReserve)
	s = openTest(t, o)
	require.Equal(t, "x", value(t, s, "k"))
	require.NoError(t, s.Close())
}

func TestFreeSpaceOfARealDisk(t *testing.T) {
	t.Parallel()
	free, err := FreeSpace(t.TempDir())
	require.NoError(t, err)
	require.NotZero(t, free)
	_, err = FreeSpace("/does/not/exist")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestDiskUseIsBounded overwrites and deletes the same rows again and again: what they were is dropped from the disk.
func TestDiskUseIsBounded(t *testing.T) {
	t.Parallel()
	const memTable, rounds, rows, size, together = 1 << 20, 80, 32, 16 << 10, 4
	const written, live = rounds * rows * size * 2 / 3, rows * size
	const bound = levelZeroStall*memTable + 8*live
	require.Greater(t, written, 2*bound)
	o := Options{Dir: t.TempDir(), memTable: memTable}
	s := openTest(t, o)
	for round := range rounds {
		for row := 0; row < rows; row += together {
			c := store.Change{Entry: []byte("e")}
			for i := row; i < row+together; i++ {
				key := store.Key(fmt.Sprintf("row/%d", i))
				if (i+round)%3 == 0 {
					c.Delete = append(c.Delete, key)
				} else {
					c.Put = append(c.Put, store.Put{Key: key, Value: make([]byte, size)})
				}
			}
			mustCommit(t, s, c)
		}
		if round%20 == 19 {
			require.NoError(t, s.Close())
			s = openTest(t, o)
		}
	}
	require.NoError(t, s.Close())
	require.Less(t, diskUse(t, o.Dir), int64(bound), "of %d bytes written", written)
}

// diskUse returns the bytes that the files of a directory occupy.
func diskUse(t *testing.T, dir string) int64 {
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	var sum int64
	for _, f := range files {
		var stat unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(dir, f.Name()), &stat))
		sum += stat.Blocks * 512
	}
	return sum
}
