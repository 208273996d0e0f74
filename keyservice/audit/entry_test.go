package audit_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

func TestEntriesReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := audit.Entry{
			Time: rapid.Int64().Draw(t, "time"), Node: rapid.String().Draw(t, "node"), Actor: rapid.String().Draw(t, "actor"),
			Action: rapid.String().Draw(t, "action"), Outcome: audit.Accepted, Serial: rapid.String().Draw(t, "serial"),
			Next: rapid.Uint64().Draw(t, "next"), Commitment: rapid.SliceOfN(rapid.Byte(), 1, 32).Draw(t, "commitment"),
		}
		b, err := audit.Encode(e)
		require.NoError(t, err)
		got, err := audit.Decode(b)
		require.NoError(t, err)
		got.Schema = 0
		require.Equal(t, e, got)
	})
}

func logWith(key, node string) *audit.Log {
	log := audit.NewLog(node)
	log.Use([]byte(key))
	return log
}

func TestALogWithoutItsKeyNeitherWritesNorReads(t *testing.T) {
	entry, err := audit.Encode(audit.Entry{Node: "a", Outcome: audit.Done})
	require.NoError(t, err)
	_, err = audit.NewLog("a").Sequence(0, [][]byte{entry})
	require.Error(t, err)
	puts, err := logWith("key", "a").Sequence(0, [][]byte{entry})
	require.NoError(t, err)
	_, _, err = audit.NewLog("a").Open(store.Item{Key: puts[0].Key, Value: puts[0].Value})
	require.Error(t, err)
}

func TestAnEntryBelongsToItsPosition(t *testing.T) {
	log, other, key := logWith("key", "a"), logWith("another key", "a"), logWith("key", "b")
	entry, err := audit.Encode(audit.Entry{Node: "a", Actor: "branch", Outcome: audit.Done})
	require.NoError(t, err)
	puts, err := log.Sequence(1<<40, [][]byte{entry, entry})
	require.NoError(t, err)
	require.Less(t, puts[0].Key, puts[1].Key, "key order is index order")
	require.NotEqual(t, puts[0].Value, puts[1].Value)
	for _, reader := range []*audit.Log{log, key} {
		at, e, err := reader.Open(store.Item{Key: puts[1].Key, Value: puts[1].Value})
		require.NoError(t, err, "every node reads the logs of all")
		require.Equal(t, audit.Position{Node: "a", Index: 1<<40 + 1}, at)
		require.Equal(t, "branch", e.Actor)
	}

	_, _, err = log.Open(store.Item{Key: puts[1].Key, Value: puts[0].Value})
	require.ErrorIs(t, err, audit.ErrTampered, "an entry of another index")
	_, _, err = log.Open(store.Item{Key: audit.EntryKey(audit.Position{Node: "b", Index: 1<<40 + 1}), Value: puts[1].Value})
	require.ErrorIs(t, err, audit.ErrTampered, "an entry of another log")
	_, _, err = other.Open(store.Item{Key: puts[1].Key, Value: puts[1].Value})
	require.ErrorIs(t, err, audit.ErrTampered, "another key")
	for i := range puts[1].Value {
		changed := append([]byte{}, puts[1].Value...)
		changed[i] ^= 1
		_, _, err = log.Open(store.Item{Key: puts[1].Key, Value: changed})
		require.ErrorIs(t, err, audit.ErrTampered, "byte %d", i)
	}
}

// A node writes what it decided itself: an entry that names another node is none of its log's.
func TestAnEntryNamesItsLogsNode(t *testing.T) {
	log := logWith("key", "a")
	entry, err := audit.Encode(audit.Entry{Node: "b", Outcome: audit.Done})
	require.NoError(t, err)
	puts, err := log.Sequence(0, [][]byte{entry})
	require.NoError(t, err)
	_, _, err = log.Open(store.Item{Key: puts[0].Key, Value: puts[0].Value})
	require.ErrorIs(t, err, audit.ErrTampered)
}

func TestEntryKeys(t *testing.T) {
	require.Less(t, audit.EntryKey(audit.Position{Node: "a", Index: 255}), audit.EntryKey(audit.Position{Node: "a", Index: 256}))
	require.NotContains(t, audit.EntryKey(audit.Position{Node: "a-b", Index: 1}), audit.NodePrefix("a"))
	for _, p := range []audit.Position{{Node: "node-1", Index: 7}, {Node: "a", Index: 0x2f2f2f2f2f2f2f2f}, {Node: "b", Index: 1<<64 - 1}} {
		got, err := audit.PositionOf(audit.EntryKey(p))
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	for _, k := range []store.Key{"", "a/", "a/1234567", "a/node/1234567", "b/node/12345678", "a/node/123456789", "a/node12345678"} {
		_, err := audit.PositionOf(k)
		require.ErrorIs(t, err, audit.ErrTampered, "%q", k)
	}
}

// Whatever bytes stand in an entry's row, reading it ends in an entry or an error; what is read can be written again.
func FuzzDecode(f *testing.F) {
	b, err := audit.Encode(audit.Entry{Actor: "branch", Action: "token.issue", Outcome: audit.Done, Serial: "402519938461", Revision: 1})
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte{})
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := audit.Decode(b)
		if err != nil {
			return
		}
		again, err := audit.Encode(e)
		require.NoError(t, err)
		twice, err := audit.Decode(again)
		require.NoError(t, err)
		require.Equal(t, e, twice)
	})
}
