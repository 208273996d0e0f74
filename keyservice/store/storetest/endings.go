package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// testCancelledWaits: a context ends the wait, not the commit. Whatever the answer, a change is there whole or not at
// all, and indexes stay dense.
func testCancelledWaits(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Commit(cancelled, put("early", "v"))
	require.Error(t, err)
	require.NotErrorIs(t, err, store.ErrConflict)

	const writers, rounds = 16, 20
	var mu sync.Mutex
	outcome := map[store.Key]error{}
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range rounds {
				c := put(store.Key(fmt.Sprintf("k/%d/%d", w, i)), "v")
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(w*i)*10*time.Microsecond)
				_, err := s.Commit(ctx, c)
				cancel()
				mu.Lock()
				outcome[c.Put[0].Key] = err
				mu.Unlock()
			}
		})
	}
	group.Wait()
	s = h.reopen(t, s, logEntries) // everything queued is settled
	for key, err := range outcome {
		there := get(t, s, key).Version > 0
		switch {
		case err == nil:
			require.True(t, there, "%s was acknowledged", key)
		case errors.Is(err, store.ErrFailed):
			require.False(t, there, "%s was refused", key)
		default:
			require.ErrorIs(t, err, store.ErrUnknown)
		}
	}
	requireDense(t, s, len(scan(t, s, "k/", ""))+len(scan(t, s, "early", "")))
}

func testCommitAfterClose(t *testing.T, h Harness) {
	s := h.open(t, nil)
	commit(t, s, put("k", "v"))
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Commit(context.Background(), put("k", "w"))
	require.ErrorIs(t, err, store.ErrFailed)
	_, err = s.Get(context.Background(), "k")
	require.Error(t, err)
	_, err = s.Snapshot(context.Background())
	require.Error(t, err)
	require.Error(t, snap.Scan(context.Background(), "", "", func(store.Item) error { return nil }))
	snap.Close()
	require.NoError(t, s.Close(), "closing twice")
	require.Equal(t, "v", string(get(t, h.open(t, nil), "k").Value))
}

// testCloseAnswersEveryone closes under load: each commit is answered, and the answer is true.
func testCloseAnswersEveryone(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	const writers = 32
	type result struct {
		key store.Key
		err error
	}
	results := make(chan result, writers*1000)
	var started, group sync.WaitGroup
	started.Add(writers)
	for w := range writers {
		group.Go(func() {
			for i := range 1000 {
				key := store.Key(fmt.Sprintf("k/%d/%d", w, i))
				_, err := s.Commit(context.Background(), put(key, "v"))
				results <- result{key, err}
				if i == 0 {
					started.Done()
				}
				if err != nil {
					return
				}
			}
		})
	}
	started.Wait()
	require.NoError(t, s.Close())
	group.Wait()
	close(results)
	s = h.open(t, logEntries)
	accepted := 0
	for r := range results {
		there := get(t, s, r.key).Version > 0
		require.Equal(t, r.err == nil, there, "%s: %v", r.key, r.err)
		if r.err != nil {
			require.ErrorIs(t, r.err, store.ErrFailed)
			continue
		}
		accepted++
	}
	requireDense(t, s, accepted)
}
