package badgerstore

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// TestCloseEndsScans: a scan that is in the midst of its rows ends with ErrClosed, and Close waits for that.
func TestCloseEndsScans(t *testing.T) {
	t.Parallel()
	s := openTest(t, Options{Dir: t.TempDir()})
	for i := range 10 {
		mustCommit(t, s, change(store.Key(fmt.Sprint(i)), "v"))
	}
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	closed := make(chan error, 1)
	rows := 0
	err = snap.Scan(context.Background(), "", "", func(store.Item) error {
		if rows++; rows == 1 {
			go func() { closed <- s.Close() }()
			require.Eventually(t, s.reads.isClosed, 10*time.Second, time.Millisecond)
			require.Never(t, s.db.IsClosed, 50*time.Millisecond, time.Millisecond)
		}
		return nil
	})
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, 1, rows)
	require.NoError(t, <-closed)
	snap.Close()
}

// TestSnapshotOutlivesCompaction: compactions drop overwritten rows, but not those that a snapshot can see.
func TestSnapshotOutlivesCompaction(t *testing.T) {
	t.Parallel()
	const rows, size = 6, 8 << 10
	s := openTest(t, Options{Dir: t.TempDir(), memTable: 1 << 20})
	round := func(n byte) store.Change {
		c := store.Change{Entry: []byte("e")}
		for row := range rows {
			c.Put = append(c.Put, store.Put{Key: store.Key(fmt.Sprintf("row/%d", row)), Value: slices.Repeat([]byte{n}, size)})
		}
		return c
	}
	mustCommit(t, s, round(0))
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	compacted := func() bool {
		return slices.ContainsFunc(s.db.Tables(), func(i badger.TableInfo) bool { return i.Level > 0 })
	}
	for n := 1; n < 40 || !compacted(); n++ {
		mustCommit(t, s, round(byte(1+n%200)))
	}
	seen := 0
	require.NoError(t, snap.Scan(context.Background(), "row/", "", func(item store.Item) error {
		seen++
		require.Equal(t, make([]byte, size), item.Value)
		require.EqualValues(t, 1, item.Version)
		return nil
	}))
	require.Equal(t, rows, seen)
}
