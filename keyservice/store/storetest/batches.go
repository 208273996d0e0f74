package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

func testStaleAmongMany(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	const members, stale = 256, 100
	commit(t, s, put("stale", "1"))
	old := store.Require{Key: "stale", Version: get(t, s, "stale").Version}
	commit(t, s, put("stale", "2"))
	errs := make([]error, members)
	var group sync.WaitGroup
	for i := range members {
		group.Go(func() {
			c := put(store.Key(fmt.Sprintf("row/%03d", i)), "v", store.Require{Key: store.Key(fmt.Sprintf("row/%03d", i))})
			if i == stale {
				c.Require = append(c.Require, old)
			}
			_, errs[i] = s.Commit(context.Background(), c)
		})
	}
	group.Wait()
	for i, err := range errs {
		if i == stale {
			require.ErrorIs(t, err, store.ErrConflict)
			continue
		}
		require.NoError(t, err)
	}
	require.Len(t, scan(t, s, "row/", ""), members-1)
	requireDense(t, s, 2+members-1)
}

// testDenseIndexes lets writers collide, so that accepted and refused changes share batches, before and after reopening.
func testDenseIndexes(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	seen := map[uint64]bool{}
	for range 3 {
		for _, index := range collide(t, s) {
			require.False(t, seen[index], "index %d given twice", index)
			seen[index] = true
		}
		s = h.reopen(t, s, logEntries)
	}
	for index := range uint64(len(seen)) {
		require.True(t, seen[index], "index %d was given to nobody", index)
	}
	requireDense(t, s, len(seen))
}

// testIndexesOfNodes: every name has a log of its own, whoever wrote in between.
func testIndexesOfNodes(t *testing.T, h Harness) {
	next := map[string]int{}
	for round, node := range []string{"a", "b", "a", "a-1", "b", "a"} {
		s := h.openAs(t, node, logEntriesOf(node))
		for range round + 1 {
			require.EqualValues(t, next[node], commit(t, s, put("k", node)), "node %s in round %d", node, round)
			next[node]++
		}
		for of, count := range next {
			requireDenseOf(t, s, of, count)
		}
		require.NoError(t, s.Close())
	}
}

// collide returns the indexes that writers of few rows got.
func collide(t *testing.T, s store.Store) []uint64 {
	const writers, rounds, rows = 16, 12, 4
	var mu sync.Mutex
	var indexes []uint64
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range rounds {
				key := store.Key(fmt.Sprintf("hot/%d", (w+i)%rows))
				items, err := s.Get(context.Background(), key)
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				index, err := s.Commit(context.Background(), put(key, "v", store.Require{Key: key, Version: items[0].Version}))
				if errors.Is(err, store.ErrConflict) {
					continue
				}
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				mu.Lock()
				indexes = append(indexes, index)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return indexes
}

func testSequencerOrder(t *testing.T, h Harness) {
	var next uint64 // only the sequencer's caller touches it: a second caller at a time is a race that -race shows
	seq := func(first uint64, entries [][]byte) ([]store.Put, error) {
		if first != next {
			return nil, fmt.Errorf("called with index %d instead of %d", first, next)
		}
		if len(entries) == 0 {
			return nil, errors.New("called without entries")
		}
		next = first + uint64(len(entries))
		return logEntries(first, entries)
	}
	s := h.open(t, seq)
	const writers, rounds = 32, 8
	var mu sync.Mutex
	got := map[uint64]string{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range rounds {
				c := put(store.Key(fmt.Sprintf("w/%d", w)), "v")
				c.Entry = fmt.Appendf(nil, "writer %d round %d", w, i)
				index, err := s.Commit(context.Background(), c)
				if err != nil {
					t.Errorf("commit: %v", err)
					return
				}
				mu.Lock()
				got[index] = string(c.Entry)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	require.Len(t, got, writers*rounds)
	for index, entry := range got {
		require.Equal(t, entry, string(get(t, s, entryKey(index)).Value), "entry %d", index)
	}
	require.NoError(t, s.Close())
	require.EqualValues(t, writers*rounds, next)
	s = h.open(t, seq)
	require.EqualValues(t, writers*rounds, commit(t, s, put("k", "v")))
}

func testSequencerError(t *testing.T, h Harness) {
	var broken atomic.Bool
	fault := errors.New("the log is upset")
	s := h.open(t, func(first uint64, entries [][]byte) ([]store.Put, error) {
		if broken.Load() {
			return nil, fault
		}
		return logEntries(first, entries)
	})
	commit(t, s, put("k", "1"))
	before := scan(t, s, "", "")
	broken.Store(true)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			_, err := s.Commit(context.Background(), put(store.Key(fmt.Sprintf("k/%d", i)), "2"))
			if !errors.Is(err, store.ErrFailed) || !errors.Is(err, fault) {
				t.Errorf("commit: %v", err)
			}
		})
	}
	group.Wait()
	require.Equal(t, before, scan(t, s, "", ""))
	broken.Store(false)
	require.EqualValues(t, 1, commit(t, s, put("k", "2")), "a failed batch uses no index")
	requireDense(t, s, 2)
}
