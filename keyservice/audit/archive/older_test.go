package archive

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"
)

// The entries before a moment are counted, with the root of the tree over them; nothing beyond a checkpoint is.
func TestOlderEntriesAreCounted(t *testing.T) {
	archive, l := sample(t)
	for after, want := range map[time.Duration]int{0: 0, 17 * time.Second: 17, 40 * time.Second: 40, 77500 * time.Millisecond: 78, time.Hour: 99} {
		o, err := OlderThan(archive, "node-1", birth.Add(after))
		require.NoError(t, err)
		require.EqualValues(t, want, o.Entries, after)
		var f frontier
		for _, leaf := range l.leaves[:want] {
			f.add(tlog.RecordHash(leaf))
		}
		if want > 0 {
			require.Equal(t, f.root(), o.Root)
		}
	}
	o, err := OlderThan(without(archive, firstFile), "node-1", birth.Add(time.Minute))
	require.NoError(t, err)
	require.EqualValues(t, 60, o.Entries, "the first segment was removed from the archive before")
	o, err = OlderThan(without(archive, firstFile), "node-1", birth)
	require.NoError(t, err)
	require.Zero(t, o.Entries, "how old the removed ones are cannot be seen")
	o, err = OlderThan(without(without(archive, firstFile), secondFile), "node-1", birth.Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, o.Entries, "no entry is there that would say how old any is")
	o, err = OlderThan(without(archive, secondSigned), "node-1", birth.Add(time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 39, o.Entries, "no more is signed")
	_, err = OlderThan(archive, "node-2", birth)
	require.Error(t, err)
	_, err = OlderThan(changed(archive, firstFile, []byte("x")), "node-1", birth.Add(time.Hour))
	require.ErrorIs(t, err, ErrArchive)
}
