package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// now asks for the store's time or fails the test.
func now(t testing.TB, s store.Store) time.Time {
	t.Helper()
	at, err := s.Now(context.Background())
	require.NoError(t, err)
	return at
}

// testClock: the time does not go backwards, from one handle to the next either.
func testClock(t *testing.T, h Harness) {
	began := time.Now()
	s := h.open(t, nil)
	first := now(t, s)
	last := first
	for _, node := range []string{"a", "b", "a"} {
		for range 100 {
			at := now(t, s)
			require.False(t, at.Before(last), "%v after %v", at, last)
			last = at
		}
		require.NoError(t, s.Close())
		_, err := s.Now(context.Background())
		require.Error(t, err, "closed")
		s = h.openAs(t, node, nil)
	}
	require.False(t, now(t, s).Before(last))
	require.Less(t, last.Sub(first), time.Since(began)+time.Second, "nodes have one clock")
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Now(cancelled)
	require.ErrorIs(t, err, context.Canceled)
}

func until(c store.Change, at time.Time) store.Change {
	c.Until = at
	return c
}

func testTooLate(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	soon := now(t, s).Add(200 * time.Millisecond)
	later := now(t, s).Add(time.Hour)
	require.EqualValues(t, 0, commit(t, s, until(put("k", "in time"), later)))
	for name, at := range map[string]time.Time{
		"now": now(t, s), "a moment ago": now(t, s).Add(-time.Microsecond), "long ago": time.Unix(1, 0),
	} {
		_, err := s.Commit(context.Background(), until(put("k", name), at))
		require.ErrorIs(t, err, store.ErrConflict, name)
		require.Equal(t, "in time", string(get(t, s, "k").Value), name)
	}
	_, err := s.Commit(context.Background(), until(put("k", "in time but stale", store.Require{Key: "k"}), later))
	require.ErrorIs(t, err, store.ErrConflict)
	require.Eventually(t, func() bool { return !now(t, s).Before(soon) }, time.Minute, time.Millisecond)
	_, err = s.Commit(context.Background(), until(put("k", "late"), soon))
	require.ErrorIs(t, err, store.ErrConflict, "it was in time once")
	require.Equal(t, "in time", string(get(t, s, "k").Value))
	require.EqualValues(t, 1, commit(t, s, put("k", "no limit")), "who was refused has used no index")
	requireDense(t, s, 2)
}

// testTooLateAmongMany: who is too late does not hold up those who share the batch.
func testTooLateAmongMany(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	const members = 240
	limits := []time.Time{{}, now(t, s).Add(time.Hour), now(t, s)}
	errs := make([]error, members)
	var group sync.WaitGroup
	for i := range members {
		group.Go(func() {
			key := store.Key(fmt.Sprintf("row/%03d", i))
			_, errs[i] = s.Commit(context.Background(), until(put(key, "v", store.Require{Key: key}), limits[i%len(limits)]))
		})
	}
	group.Wait()
	for i, err := range errs {
		if i%len(limits) == 2 {
			require.ErrorIs(t, err, store.ErrConflict)
			continue
		}
		require.NoError(t, err)
	}
	require.Len(t, scan(t, s, "row/", ""), members/3*2)
	requireDense(t, s, members/3*2)
}
