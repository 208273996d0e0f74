package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// TestCachedRowsNeedNoBadger: written, deleted, read and absent rows and preconditions on them, with Badger closed.
func TestCachedRowsNeedNoBadger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Dir: dir})
	for _, key := range []store.Key{"read", "required", "untouched"} {
		mustCommit(t, s, change(key, "v"))
	}
	require.NoError(t, s.Close())

	s = openTest(t, Options{Dir: dir})
	mustCommit(t, s, change("written", "v", store.Require{Key: "required", Version: 2}, store.Require{Key: "new"}))
	mustCommit(t, s, store.Change{Put: []store.Put{{Key: "empty"}}, Delete: []store.Key{"deleted"}, Entry: []byte("e")})
	keys := []store.Key{"read", "required", "written", "empty", "deleted", "new", "absent"}
	before, err := s.Get(context.Background(), keys...)
	require.NoError(t, err)
	require.NoError(t, s.db.Close())
	after, err := s.Get(context.Background(), keys...)
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = s.Get(context.Background(), "read", "untouched")
	require.Error(t, err)
	_, err = s.Commit(context.Background(), change("read", "w", store.Require{Key: "absent", Version: 7}))
	require.ErrorIs(t, err, store.ErrConflict)
	require.NoError(t, s.Close())
	_, err = s.Get(context.Background(), "read")
	require.ErrorIs(t, err, ErrClosed)
}

// TestCacheShowsOnlyDurableRows: a batch on its way to the disk is not seen, nor is one that failed.
func TestCacheShowsOnlyDurableRows(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	keys := []store.Key{"kept", "overwritten", "deleted", "made"}
	first := store.Change{Entry: []byte("e")}
	for _, k := range keys[:3] {
		first.Put = append(first.Put, store.Put{Key: k, Value: []byte("old")})
	}
	done := submit(context.Background(), s, first)
	<-g.reached
	g.pass <- nil
	require.NoError(t, receive(t, done).err)
	before, err := s.Get(context.Background(), keys...)
	require.NoError(t, err)

	done = submit(context.Background(), s, store.Change{
		Put:    []store.Put{{Key: "overwritten", Value: []byte("new")}, {Key: "made", Value: []byte("new")}},
		Delete: []store.Key{"deleted"}, Entry: []byte("e"),
	})
	<-g.reached // Badger has it in memory
	during, err := s.Get(context.Background(), keys...)
	require.NoError(t, err)
	require.Equal(t, before, during)
	g.pass <- errDisk
	require.ErrorIs(t, receive(t, done).err, store.ErrUnknown)
	after, err := s.Get(context.Background(), keys...)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// TestOvertakenReaderKeepsNothing: between a reader's look at the cache and its answer from Badger the row changes, and
// the new state has left the cache again.
func TestOvertakenReaderKeepsNothing(t *testing.T) {
	t.Parallel()
	removal := store.Change{Delete: []store.Key{"k"}, Entry: []byte("e")}
	for name, c := range map[string]struct {
		changes []store.Change
		want    string
	}{
		"overwritten":           {[]store.Change{change("k", "new")}, "new"},
		"deleted":               {[]store.Change{removal}, ""},
		"deleted and recreated": {[]store.Change{removal, change("k", "again")}, "again"},
		"not changed":           {[]store.Change{change("l", "v")}, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, Options{Dir: t.TempDir(), cache: cacheEntry + 10}) // room for one row
			mustCommit(t, s, change("k", "old"))
			mustCommit(t, s, change("other", "v"))
			keys, items := []store.Key{"k", "other"}, make([]store.Item, 2)
			missing, batch, err := s.reads.lookUp(keys, items)
			require.NoError(t, err)
			require.Equal(t, []int{0}, missing)
			for _, c := range c.changes {
				mustCommit(t, s, c)
			}
			mustCommit(t, s, change("other", "w"))
			_, cached := s.reads.known("k")
			require.False(t, cached)
			require.NoError(t, s.reads.fetch(context.Background(), batch, keys, items, missing))
			require.Equal(t, "old", string(items[0].Value), "both as of one batch")
			require.Equal(t, "v", string(items[1].Value))

			_, cached = s.reads.known("k")
			require.Equal(t, c.want == "old", cached)
			now, err := s.Get(context.Background(), "k")
			require.NoError(t, err)
			require.Equal(t, c.want, string(now[0].Value))
			mustCommit(t, s, change("k", "next", store.Require{Key: "k", Version: now[0].Version}))
			require.Empty(t, s.reads.rows.leases)
			require.Empty(t, s.reads.pins)
		})
	}
}

// TestReadersOvertakeEachOther: leases of the same row taken as of different batches.
func TestReadersOvertakeEachOther(t *testing.T) {
	t.Parallel()
	c, err := newRowCache(cacheSize)
	require.NoError(t, err)
	c.lease("k", 1)
	c.put("k", held{[]byte("2"), 2})
	c.forget("k")
	c.lease("k", 2)
	c.fill(store.Item{Key: "k", Value: []byte("1"), Version: 1}, 1)
	_, ok := c.get("k")
	require.False(t, ok, "the lease of batch 1 ended with batch 2")
	c.release("k", 1)
	c.fill(store.Item{Key: "k", Value: []byte("2"), Version: 2}, 2)
	h, ok := c.get("k")
	require.True(t, ok)
	require.Equal(t, held{[]byte("2"), 2}, h)
	require.Empty(t, c.leases)
}

func TestReadThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(context.Background())
	missing, batch, err := s.reads.lookUp([]store.Key{"a", "b"}, make([]store.Item, 2))
	require.NoError(t, err)
	cancel()
	err = s.reads.fetch(ctx, batch, []store.Key{"a", "b"}, make([]store.Item, 2), missing)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, s.reads.rows.leases)
	require.Empty(t, s.reads.pins)
	_, cached := s.reads.known("a")
	require.False(t, cached)
}

// TestCacheOwnsItsValues: neither a caller's buffers nor an answer is a way into it.
func TestCacheOwnsItsValues(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Dir: t.TempDir()})
	c := change("k", "value")
	mustCommit(t, s, c)
	copy(c.Put[0].Value, "xxxxx")
	for range 2 {
		items, err := s.Get(context.Background(), "k")
		require.NoError(t, err)
		require.Equal(t, "value", string(items[0].Value))
		copy(items[0].Value, "xxxxx")
	}
}

// TestSequencerRowsAndLargeValuesAreNotKept, and what was read of them is not stale afterwards.
func TestSequencerRowsAndLargeValuesAreNotKept(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Dir: t.TempDir(), Sequencer: func(first uint64, _ [][]byte) ([]store.Put, error) {
		return []store.Put{{Key: "head", Value: fmt.Append(nil, first)}}, nil
	}})
	for round := range 3 {
		size := cacheableRow + round%2 // just small enough, and too large
		mustCommit(t, s, change("k", strings.Repeat("v", size)))
		_, cached := s.reads.known("head")
		require.False(t, cached)
		_, cached = s.reads.known("k")
		require.Equal(t, size <= cacheableRow, cached)
		require.Len(t, value(t, s, "k"), size)
		require.Equal(t, fmt.Sprint(round), value(t, s, "head"))
	}
}

// TestCacheIsBounded: the heap that it takes stays below its limit, for tiny rows and for the largest.
func TestCacheIsBounded(t *testing.T) {
	const limit = 16 << 20
	for _, size := range []int{0, 300, cacheableRow} {
		before := liveHeap()
		c, err := newRowCache(limit)
		require.NoError(t, err)
		for i := range 3 * limit / (size + cacheEntry) {
			key := store.Key(fmt.Sprintf("s/%012d", i))
			c.put(key, held{make([]byte, size/2), store.Version(i)})
			c.put(key, held{make([]byte, size), store.Version(i + 1)})
		}
		heap := int64(liveHeap()) - int64(before)
		t.Logf("values of %d bytes: %d rows, %d bytes counted, %d of heap", size, c.rows.Len(), c.size, heap)
		require.Less(t, heap, int64(limit))
		require.LessOrEqual(t, c.size, limit)
		require.Greater(t, c.size, limit-2*(cacheableRow+cacheEntry+20))
		for c.rows.Len() > 0 {
			c.rows.RemoveOldest()
		}
		require.Zero(t, c.size, "what is counted in is counted out")
	}
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSnapshotStandsStillBesideTheCache: the cache moves on, a snapshot does not.
func TestSnapshotStandsStillBesideTheCache(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Dir: t.TempDir()})
	mustCommit(t, s, change("k", "old"))
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	mustCommit(t, s, change("k", "new"))
	require.Equal(t, "new", value(t, s, "k"))
	seen := errors.New("seen")
	require.ErrorIs(t, snap.Scan(context.Background(), "", "", func(i store.Item) error {
		require.Equal(t, "old", string(i.Value))
		return seen
	}), seen)
}
