package failover

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store/pgstore/hatest"
)

// TestStandbyCutOffAndItsWaitCancelled: the synchronous standby is silent, commits wait for it, and an operator cancels the
// waits. PostgreSQL then shows as committed, to everybody, what the primary alone has. Then the primary dies for good: the
// standby that is promoted has never seen it. What was only cancelled was acknowledged to nobody.
func TestStandbyCutOffAndItsWaitCancelled(t *testing.T) {
	l := startLoad(t)
	idle, victim := l.nodes[2], enrol(t, l.nodes[0], customers)
	was := roles(t)
	operator := was.Primary.Operator(t, l.dsn)

	require.NoError(t, was.Standby.Cut(hatest.Servers))
	// PostgreSQL logs a sequence 32 numbers ahead. Of those that come after, the standby does not know that they are given.
	_, err := operator.Exec(context.Background(), "SET synchronous_commit = local; SELECT nextval('row_versions') FROM generate_series(1, 33)")
	require.NoError(t, err)
	// This node has done nothing so far. What it commits now begins after the cut: the standby cannot have it.
	sent := make(chan error, 1)
	go func() { sent <- l.sendToAll(victim, l.nodes[2:]) }()
	cancelWait(t, operator, idle.name)
	require.Eventually(t, func() bool { return idle.log.count("01000") == 1 }, patience, time.Millisecond)
	cancelAll(t, operator)
	shown := versionOf(t, operator, idle.name)

	require.NoError(t, was.Primary.Cut(hatest.Servers)) // or its kernel would deliver to the standby what is on its way
	require.NoError(t, was.Primary.Kill())
	require.NoError(t, was.Standby.Heal())
	l.survive(time.Now(), was, func() error { return errors.Join(was.Primary.Heal(), was.Primary.Boot()) })
	require.NoError(t, <-sent)
	require.NotZero(t, idle.log.count("committed=false"), "what was shown is lost")
	l.waitUntilUsed(victim)
	again := versionOf(t, roles(t).Primary.Operator(t, l.dsn), idle.name)
	require.Greater(t, again, shown, "the version of a row that was shown may come back")
	l.customers = append(l.customers, victim)
	l.check()
}

const waitingQuery = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'
	AND application_name = $1`

// cancelWait cancels, as an operator who is impatient, the wait of a node's COMMIT for the standby.
func cancelWait(t *testing.T, operator *pgx.Conn, node string) {
	t.Helper()
	var pid int
	require.Eventually(t, func() bool {
		return operator.QueryRow(context.Background(), waitingQuery, "ramzban "+node+" write").Scan(&pid) == nil
	}, patience, time.Millisecond, "no COMMIT of node %s waits", node)
	_, err := operator.Exec(context.Background(), "SELECT pg_cancel_backend($1)", pid)
	require.NoError(t, err)
}

// cancelAll cancels all waits that there are.
func cancelAll(t *testing.T, operator *pgx.Conn) {
	t.Helper()
	_, err := operator.Exec(context.Background(), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event = 'SyncRep' AND application_name LIKE 'ramzban%'`)
	require.NoError(t, err)
}

// versionOf returns the version of a node's first entry, which must be there.
func versionOf(t *testing.T, operator *pgx.Conn, node string) (version int64) {
	t.Helper()
	key := audit.EntryKey(audit.Position{Node: node})
	require.NoError(t, operator.QueryRow(context.Background(), "SELECT version FROM rows WHERE key = $1", []byte(key)).Scan(&version))
	return version
}
