package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

const patience = 20 * time.Second

func change(key store.Key, value string, required ...store.Require) store.Change {
	return store.Change{Require: required, Put: []store.Put{{Key: key, Value: []byte(value)}}, Entry: []byte("entry of " + string(key) + " " + value)}
}

func mustCommit(t testing.TB, s *Store, c store.Change) uint64 {
	t.Helper()
	index, err := s.Commit(context.Background(), c)
	require.NoError(t, err)
	return index
}

func get(t testing.TB, s *Store, key store.Key) store.Item {
	t.Helper()
	items, err := s.Get(context.Background(), key)
	require.NoError(t, err)
	return items[0]
}

type answer struct {
	index uint64
	err   error
}

// submit commits in the background and returns where the answer will be.
func submit(ctx context.Context, s *Store, c store.Change) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		index, err := s.Commit(ctx, c)
		answers <- answer{index, err}
	}()
	return answers
}

func receive(t testing.TB, answers <-chan answer) answer {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(patience):
		t.Fatal("no answer")
		return answer{}
	}
}

func requireUnanswered(t testing.TB, answers <-chan answer) {
	t.Helper()
	select {
	case a := <-answers:
		t.Fatalf("answered already: %v", a.err)
	default:
	}
}

func requireFailed(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, store.ErrFailed)
	require.NotErrorIs(t, err, store.ErrUnknown)
	require.NotErrorIs(t, err, store.ErrConflict)
}

// logOf is a sequencer that keeps the entries of a node in rows of its own.
func logOf(node string) store.Sequencer {
	return func(first uint64, entries [][]byte) ([]store.Put, error) {
		var puts []store.Put
		for i, e := range entries {
			puts = append(puts, store.Put{Key: entryKey(node, first+uint64(i)), Value: e})
		}
		return puts, nil
	}
}

func entryKey(node string, index uint64) store.Key {
	return store.Key(fmt.Sprintf("log/%s/%020d", node, index))
}

// requireLogs fails the test unless the nodes' logs are dense, and have every acknowledged change once, no refused one,
// and none twice.
func requireLogs(t testing.TB, s *Store, answers map[string]error, nodes ...string) {
	t.Helper()
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	seen := map[string]int{}
	for _, node := range nodes {
		next := uint64(0)
		require.NoError(t, snap.Scan(context.Background(), store.Key("log/"+node+"/"), "", func(i store.Item) error {
			require.Equal(t, entryKey(node, next), i.Key)
			next++
			seen[string(i.Value)]++
			return nil
		}))
	}
	unknown := 0
	for entry, err := range answers {
		switch {
		case err == nil:
			require.Equal(t, 1, seen[entry], "%q was acknowledged", entry)
		case errors.Is(err, store.ErrUnknown):
			unknown++
			require.LessOrEqual(t, seen[entry], 1, "%q is not known", entry)
		default:
			require.Zero(t, seen[entry], "%q was refused: %v", entry, err)
		}
	}
	t.Logf("%d answers, %d of them that it is not known", len(answers), unknown)
}

// connectTo connects as the superuser.
func connectTo(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// runSQL runs a statement as the superuser.
func runSQL(t testing.TB, conn *pgx.Conn, statement string, args ...any) {
	t.Helper()
	_, err := conn.Exec(context.Background(), statement, args...)
	require.NoError(t, err, statement)
}

// waitFor waits until the writing session of a node waits for what is named, and returns its process number.
func waitFor(t testing.TB, conn *pgx.Conn, node, event string) (pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		err := conn.QueryRow(context.Background(), `SELECT pid FROM pg_stat_activity
			WHERE application_name = $1 AND datname = current_database() AND wait_event = $2`,
			"ramzban "+node+" write", event).Scan(&pid)
		return err == nil
	}, patience, 5*time.Millisecond, "no session of node %s waits for %s", node, event)
	return pid
}

// lines counts the lines of a log that contain something once.
func lines(log string, containing string) int { return strings.Count(log, containing) }
