// Package storetest states the contract of store.Store as tests. Every engine runs them all; only the Harness differs.
// What needs a hook inside an engine, such as an error while it syncs, is tested beside the engine.
//
// It must not know any engine.
package storetest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// Store is an open database.
type Store interface {
	store.Store
	Close() error
}

// Harness is one database, empty at first.
type Harness struct {
	// Open opens the database as a node with a sequencer (nil: none) or fails the test. The suite closes it before it calls
	// Open again.
	Open func(t testing.TB, node string, seq store.Sequencer) Store
}

// LongVariable chooses the long forms of the tests when its value is 1.
const LongVariable = "RAMZBAN_TEST_LONG"

// Scaled returns the size of a test: short by default, long when LongVariable asks for it.
func Scaled(short, long int) int {
	if os.Getenv(LongVariable) == "1" {
		return long
	}
	return short
}

// Run runs the suite; fresh makes an empty database.
func Run(t *testing.T, fresh func(*testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"preconditions", testPreconditions},
		{"a stale member writes nothing", testConflictWritesNothing},
		{"rows only read are preconditions too", testReadOnlyPrecondition},
		{"versions never come back", testVersionsNeverComeBack},
		{"one of many creators wins", testOneCreatorWins},
		{"the clock goes on", testClock},
		{"too late", testTooLate},
		{"too late beside others", testTooLateAmongMany},
		{"an entry is mandatory", testEntryMandatory},
		{"limits", testLimits},
		{"one stale member among 256", testStaleAmongMany},
		{"indexes are dense", testDenseIndexes},
		{"each node has its own indexes", testIndexesOfNodes},
		{"the sequencer is called in index order", testSequencerOrder},
		{"a sequencer's error fails the batch", testSequencerError},
		{"get", testGet},
		{"get is consistent", testGetConsistent},
		{"scan", testScan},
		{"scan ends early", testScanEndsEarly},
		{"a snapshot stands still", testSnapshotStandsStill},
		{"cancelled waits", testCancelledWaits},
		{"commits after close", testCommitAfterClose},
		{"close answers everyone", testCloseAnswersEveryone},
		{"registers are linearisable", testLinearisable},
		{"the store is its model", testModel},
		{"scan in bounded memory", testBigScan},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

// open opens the database as node "a".
func (h Harness) open(t testing.TB, seq store.Sequencer) Store { return h.openAs(t, "a", seq) }

// openAs opens the database and closes it at the end of the test; closing twice does no harm.
func (h Harness) openAs(t testing.TB, node string, seq store.Sequencer) Store {
	s := h.Open(t, node, seq)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

// reopen closes the store and opens the same database again.
func (h Harness) reopen(t testing.TB, s Store, seq store.Sequencer) Store {
	require.NoError(t, s.Close())
	return h.open(t, seq)
}

// put is a change that writes one row.
func put(key store.Key, value string, required ...store.Require) store.Change {
	return store.Change{
		Require: required,
		Put:     []store.Put{{Key: key, Value: []byte(value)}},
		Entry:   []byte("put " + string(key)),
	}
}

// remove is a change that deletes one row.
func remove(key store.Key, required ...store.Require) store.Change {
	return store.Change{Require: required, Delete: []store.Key{key}, Entry: []byte("remove " + string(key))}
}

// commit commits or fails the test, and returns the index.
func commit(t testing.TB, s store.Store, c store.Change) uint64 {
	t.Helper()
	index, err := s.Commit(context.Background(), c)
	require.NoError(t, err)
	return index
}

// get returns one row.
func get(t testing.TB, s store.Store, key store.Key) store.Item {
	t.Helper()
	items, err := s.Get(context.Background(), key)
	require.NoError(t, err)
	require.Len(t, items, 1)
	return items[0]
}

// scan returns the rows of a fresh snapshot.
func scan(t testing.TB, s store.Store, prefix, from store.Key) []store.Item {
	t.Helper()
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	return scanSnapshot(t, snap, prefix, from)
}

func scanSnapshot(t testing.TB, snap store.Snapshot, prefix, from store.Key) []store.Item {
	t.Helper()
	var items []store.Item
	require.NoError(t, snap.Scan(context.Background(), prefix, from, func(i store.Item) error {
		items = append(items, i)
		return nil
	}))
	return items
}

// entryPrefix begins the rows that logEntries writes.
const entryPrefix store.Key = "entry/a/"

func entryKey(index uint64) store.Key { return entryKeyOf("a", index) }

func entryKeyOf(node string, index uint64) store.Key {
	return store.Key(fmt.Sprintf("entry/%s/%020d", node, index))
}

// logEntries is node a's Sequencer.
func logEntries(first uint64, entries [][]byte) ([]store.Put, error) {
	return logEntriesOf("a")(first, entries)
}

// logEntriesOf is a Sequencer that keeps every entry in a row of its own.
func logEntriesOf(node string) store.Sequencer {
	return func(first uint64, entries [][]byte) ([]store.Put, error) {
		puts := make([]store.Put, len(entries))
		for i, e := range entries {
			puts[i] = store.Put{Key: entryKeyOf(node, first+uint64(i)), Value: e}
		}
		return puts, nil
	}
}

// requireDense fails the test unless the rows of node a's entries have the indexes 0 to count-1.
func requireDense(t testing.TB, s store.Store, count int) {
	t.Helper()
	requireDenseOf(t, s, "a", count)
}

func requireDenseOf(t testing.TB, s store.Store, node string, count int) {
	t.Helper()
	items := scan(t, s, store.Key("entry/"+node+"/"), "")
	require.Len(t, items, count)
	for i, item := range items {
		require.Equal(t, entryKeyOf(node, uint64(i)), item.Key)
	}
}

// binaryKeys are keys that a careless encoding would mix up, in order.
func binaryKeys() []store.Key {
	return []store.Key{"\x01", "\x01\x00", "\x01\x00\x00", "\x01\xff", "a", "a\x00", "a\x00b", "a\x01", "a/", "a/b", "b",
		"\x7f", "\x80", "\xff", "\xff\x00", "\xff\xff", store.Key(strings.Repeat("\xff", store.MaxKey))}
}
