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

func TestAnEntryBelongsToItsIndex(t *testing.T) {
	log, other := audit.NewLog([]byte("key")), audit.NewLog([]byte("another key"))
	entry, err := audit.Encode(audit.Entry{Actor: "branch", Outcome: audit.Done})
	require.NoError(t, err)
	puts, err := log.Sequence(1<<40, [][]byte{entry, entry})
	require.NoError(t, err)
	require.Less(t, puts[0].Key, puts[1].Key, "key order is index order")
	require.NotEqual(t, puts[0].Value, puts[1].Value)
	index, e, err := log.Open(store.Item{Key: puts[1].Key, Value: puts[1].Value})
	require.NoError(t, err)
	require.EqualValues(t, 1<<40+1, index)
	require.Equal(t, "branch", e.Actor)

	_, _, err = log.Open(store.Item{Key: puts[1].Key, Value: puts[0].Value})
	require.ErrorIs(t, err, audit.ErrTampered, "an entry of another index")
	_, _, err = other.Open(store.Item{Key: puts[1].Key, Value: puts[1].Value})
	require.ErrorIs(t, err, audit.ErrTampered, "another key")
	for i := range puts[1].Value {
		changed := append([]byte{}, puts[1].Value...)
		changed[i] ^= 1
		_, _, err = log.Open(store.Item{Key: puts[1].Key, Value: changed})
		require.ErrorIs(t, err, audit.ErrTampered, "byte %d", i)
	}
}

func TestEntryKeys(t *testing.T) {
	require.Less(t, audit.EntryKey(255), audit.EntryKey(256))
	index, err := audit.Index(audit.EntryKey(7))
	require.NoError(t, err)
	require.EqualValues(t, 7, index)
	for _, k := range []store.Key{"", "a/", "a/1234567", "b/12345678", "a/123456789"} {
		_, err := audit.Index(k)
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
