package pgstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// TestServersClockDecides: the server's clock is an hour ahead of this host's.
func TestServersClockDecides(t *testing.T) {
	dsn := pgtest.Database(t)
	operator := connectTo(t, dsn)
	runSQL(t, operator, "CREATE SCHEMA ahead")
	runSQL(t, operator, `CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
		$$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$`)
	runSQL(t, operator, `DO $$ BEGIN EXECUTE
		format('ALTER DATABASE %I SET search_path = public, ahead, pg_catalog', current_database()); END $$`)
	a := openTest(t, Options{DSN: dsn, Node: "a"})
	b := openTest(t, Options{DSN: dsn, Node: "b"})
	for _, s := range []*Store{a, b} {
		now, err := s.Now(context.Background())
		require.NoError(t, err)
		require.InDelta(t, time.Hour.Seconds(), time.Until(now).Seconds(), 60)
		c := change("k", "v")
		c.Until = time.Now().Add(30 * time.Minute)
		_, err = s.Commit(context.Background(), c)
		require.ErrorIs(t, err, store.ErrConflict)
		c.Until = now.Add(30 * time.Minute)
		mustCommit(t, s, c)
	}
}

// TestNodesHaveOneClock: it does not go backwards from one node to another.
func TestNodesHaveOneClock(t *testing.T) {
	a, b := twoNodes(t)
	var last time.Time
	for range 100 {
		for _, s := range []*Store{a, b} {
			now, err := s.Now(context.Background())
			require.NoError(t, err)
			require.False(t, now.Before(last))
			last = now
		}
	}
}

// TestTooLateOnceItHasItsLocks: the time at which a change is decided counts, not the time at which it was begun.
func TestTooLateOnceItHasItsLocks(t *testing.T) {
	dsn := pgtest.Database(t)
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a")})
	mustCommit(t, s, change("k", "old"))
	other, operator := connectTo(t, dsn), connectTo(t, dsn)
	runSQL(t, other, "BEGIN")
	runSQL(t, other, "SELECT FROM rows WHERE key = 'k' FOR UPDATE")
	now, err := s.Now(context.Background())
	require.NoError(t, err)
	late := change("k", "late")
	late.Until = now.Add(500 * time.Millisecond)
	waiting := submit(context.Background(), s, late)
	waitFor(t, operator, "a", "transactionid")
	require.Eventually(t, func() bool {
		now, err := s.Now(context.Background())
		return err == nil && !now.Before(late.Until)
	}, patience, time.Millisecond)
	requireUnanswered(t, waiting)
	runSQL(t, other, "COMMIT")
	require.ErrorIs(t, receive(t, waiting).err, store.ErrConflict)
	require.Equal(t, "old", string(get(t, s, "k").Value))
	require.EqualValues(t, 1, mustCommit(t, s, change("k", "new")))
}
