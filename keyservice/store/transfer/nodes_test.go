package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/storetest"
	"ramzban/keyservice/store/transfer"
)

// patience bounds waits for what happens soon.
const patience = 30 * time.Second

// TestBadgerInUse: a node that runs on either database keeps the copy out.
func TestBadgerInUse(t *testing.T) {
	from, to := engines["badger"](t), engines["badger"](t)
	all := from.fill(t, 10)
	for _, used := range []place{from, to} {
		used.serve(t, "a", func(storetest.Store) {
			_, err := from.copyTo(to)
			require.ErrorIs(t, err, badgerstore.ErrLocked)
		})
	}
	from.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
}

// writer commits under a node until that fails, and keeps what was acknowledged.
type writer struct {
	mu    sync.Mutex
	acked []store.Key
}

func (w *writer) write(s store.Store, name string) error {
	for i := 0; ; i++ {
		key := store.Key(fmt.Sprintf("w/%s/%d", name, i))
		if _, err := s.Commit(context.Background(), store.Change{Put: []store.Put{{Key: key, Value: []byte("v")}}, Entry: []byte(key)}); err != nil {
			return err
		}
		w.mu.Lock()
		w.acked = append(w.acked, key)
		w.mu.Unlock()
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// TestRunningNodesAreFenced: they and those that open meanwhile write nothing that the copy lacks.
func TestRunningNodesAreFenced(t *testing.T) {
	from, to := engines["postgres"](t), engines["badger"](t)
	from.fill(t, 10)
	var w writer
	var group sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		s, err := from.node(name)
		require.NoError(t, err)
		defer s.Close()
		group.Go(func() {
			err := w.write(s, name)
			if !errorsAre(err, store.ErrFailed, store.ErrMoved) {
				t.Errorf("node %s: %v", name, err)
			}
			<-s.(*pgstore.Store).Failed()
			_, err = s.Get(context.Background(), "k")
			if !errorsAre(err, store.ErrMoved) {
				t.Errorf("node %s reads: %v", name, err)
			}
		})
	}
	require.Eventually(t, func() bool { return w.count() > 50 }, patience, time.Millisecond)
	group.Go(func() {
		for i := 0; ; i++ {
			name := fmt.Sprint("new-", i)
			s, err := from.node(name)
			if err == nil {
				if i%2 == 0 {
					_, err = s.Commit(context.Background(), store.Change{Entry: []byte("e")})
				}
				_ = s.Close()
			}
			if err != nil {
				if !errorsAre(err, store.ErrMoved) {
					t.Errorf("node %s: %v", name, err)
				}
				return
			}
		}
	})
	_, err := from.copyTo(to)
	require.NoError(t, err)
	group.Wait()
	to.serve(t, "a", func(s storetest.Store) {
		items, err := s.Get(context.Background(), w.acked...)
		require.NoError(t, err)
		for _, i := range items {
			require.NotZero(t, i.Version, "%s was acknowledged", i.Key)
		}
	})
	t.Logf("%d acknowledged", len(w.acked))
}

func errorsAre(err error, targets ...error) bool {
	for _, target := range targets {
		if !errors.Is(err, target) {
			return false
		}
	}
	return true
}

// TestNodeThatSleptThroughTwoCopies is fenced, although the index that it goes on with is the next one again.
func TestNodeThatSleptThroughTwoCopies(t *testing.T) {
	here, there := engines["postgres"](t), engines["badger"](t)
	here.fill(t, 10)
	old, err := here.node("a")
	require.NoError(t, err)
	defer old.Close()
	_, err = here.copyTo(there)
	require.NoError(t, err)
	_, err = there.copyTo(here)
	require.NoError(t, err)
	here.serve(t, "a", func(storetest.Store) {}) // counts its process
	_, err = old.Commit(context.Background(), store.Change{Entry: []byte("late")})
	require.ErrorIs(t, err, store.ErrFailed)
	require.ErrorIs(t, err, pgstore.ErrFenced)
	here.serve(t, "a", func(s storetest.Store) { commit(t, s, "k", nil) })
}

// TestSecondRunTakesOver: of two copies at once the one that began last goes on.
func TestSecondRunTakesOver(t *testing.T) {
	from, to := engines["postgres"](t), engines["postgres"](t)
	all := from.fill(t, 1500)
	reports := 0
	_, err := both(from, to, func(origin, target transfer.Database) (transfer.Result, error) {
		return transfer.Copy(context.Background(), origin, target, func(string, uint64, uint64) {
			if reports++; reports == 2 {
				_, err := from.copyTo(to)
				require.NoError(t, err)
			}
		})
	})
	require.ErrorIs(t, err, store.ErrConflict)
	require.ErrorContains(t, err, "another copy was begun meanwhile")
	from.requireMoved(t, "it was moved to")
	to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
}

// TestAbandonedWhileItRuns: a copy that has fenced the destination, and not yet the origin, does not go on.
func TestAbandonedWhileItRuns(t *testing.T) {
	from, to := engines["postgres"](t), engines["postgres"](t)
	all := from.fill(t, 10)
	_, err := both(from, to, func(origin, target transfer.Database) (transfer.Result, error) {
		return transfer.Copy(context.Background(), origin, before{target, func(now store.Fence) {
			if now.State == store.Filling {
				require.NoError(t, from.abandon(to))
			}
		}}, nil)
	})
	require.ErrorIs(t, err, store.ErrConflict)
	from.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
	to.requireMoved(t, "abandoned")
}

// before does something after each fence that was set.
type before struct {
	transfer.Database
	after func(store.Fence)
}

func (b before) SetFence(ctx context.Context, was, now store.Fence) error {
	err := b.Database.SetFence(ctx, was, now)
	if err == nil {
		b.after(now)
	}
	return err
}
