package pgstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

func ended(t *testing.T, s *Store) error {
	t.Helper()
	select {
	case <-s.Failed():
		return s.Err()
	case <-time.After(patience):
		t.Fatal("it goes on")
		return nil
	}
}

// A process that has nothing to write finds out too that another one has taken its place, or a copy of the database.
func TestAnIdleProcessIsFenced(t *testing.T) {
	dsn := pgtest.Database(t)
	idle := openTest(t, Options{DSN: dsn, watchEvery: 10 * time.Millisecond})
	other := openTest(t, Options{DSN: dsn, Node: "b", watchEvery: 10 * time.Millisecond})
	openTest(t, Options{DSN: dsn})
	require.ErrorIs(t, ended(t, idle), ErrFenced)
	_, err := idle.Get(context.Background(), "k")
	require.ErrorIs(t, err, ErrFenced)
	require.NoError(t, other.Err(), "its name is its own")

	copying, err := OpenTransfer(context.Background(), Options{DSN: dsn, Node: "a"})
	require.NoError(t, err)
	was, err := copying.Fence(context.Background())
	require.NoError(t, err)
	require.NoError(t, copying.SetFence(context.Background(), was, store.Fence{Own: store.NewID(), State: store.Moved, Where: "elsewhere"}))
	require.ErrorIs(t, ended(t, other), store.ErrMoved)
	require.NoError(t, copying.Close())
}

// A server that is changed while it runs, so that it would lose what it acknowledges, is not written to any more, and is
// again when that was taken back.
func TestAServerThatIsMadeUnsafeIsGivenUp(t *testing.T) {
	server := pgtest.Start(t)
	s := openTest(t, Options{DSN: server.Database(t), watchEvery: 10 * time.Millisecond})
	mustCommit(t, s, change("k", "v"))
	server.Exec(t, "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
	require.Eventually(t, func() bool {
		_, err := s.Commit(context.Background(), change("k", "v"))
		return err != nil
	}, patience, time.Millisecond)
	_, err := s.Commit(context.Background(), change("k", "v"))
	requireFailed(t, err)
	require.ErrorIs(t, err, ErrUnsuitable)
	server.Exec(t, "ALTER SYSTEM RESET full_page_writes", "SELECT pg_reload_conf()")
	require.Eventually(t, func() bool {
		_, err := s.Commit(context.Background(), change("k", "v"))
		return err == nil
	}, patience, time.Millisecond)
}
