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

func TestSequenceGivesEachEntryItsIndex(t *testing.T) {
	puts, err := audit.Sequence(1<<40, [][]byte{[]byte("a"), []byte("b")})
	require.NoError(t, err)
	require.Equal(t, []byte("b"), puts[1].Value)
	require.Less(t, puts[0].Key, puts[1].Key, "key order is index order")
	require.Less(t, audit.EntryKey(255), audit.EntryKey(256))
	index, err := audit.Index(puts[1].Key)
	require.NoError(t, err)
	require.EqualValues(t, 1<<40+1, index)
	for _, k := range []store.Key{"", "a/", "a/1234567", "b/12345678", "a/123456789"} {
		_, err := audit.Index(k)
		require.Error(t, err, "%q", k)
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
