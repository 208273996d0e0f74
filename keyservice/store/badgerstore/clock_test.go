package badgerstore

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

// TestGivenClockDecides: the store's clock is the one of the options, also when it goes back.
func TestGivenClockDecides(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 21, 12, 0, 0, 0, time.UTC)
	s := openTest(t, Options{Dir: t.TempDir(), Clock: func() time.Time { return at }})
	limited := change("k", "v")
	limited.Until = at.Add(time.Second)
	for _, step := range []struct {
		at   time.Time
		late bool
	}{{limited.Until.Add(-1), false}, {limited.Until, true}, {limited.Until.Add(1), true}, {limited.Until.Add(-1), false}} {
		at = step.at
		now, err := s.Now(context.Background())
		require.NoError(t, err)
		require.Equal(t, at, now)
		_, err = s.Commit(context.Background(), limited)
		if step.late {
			require.ErrorIs(t, err, store.ErrConflict, "at %v", at)
			continue
		}
		require.NoError(t, err, "at %v", at)
	}
}

// TestNodeNameIsChecked before anything is made.
func TestNodeNameIsChecked(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "A", "a b", "a/b", "é", "a_b", strings.Repeat("a", 64)} {
		_, err := Open(Options{Dir: t.TempDir(), Node: name, Log: slog.New(slog.DiscardHandler)})
		require.ErrorContains(t, err, "1 to 63 of a-z, 0-9 and hyphens", name)
	}
}

// TestRowNewerThanEveryLog: it is of a batch that is missing, whichever node wrote last.
func TestRowNewerThanEveryLog(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	for _, o.Node = range []string{"a", "b", "a"} {
		s := openTest(t, o)
		mustCommit(t, s, change("k", o.Node))
		require.NoError(t, s.Close())
	}
	o.Node = "b"
	s := openTest(t, o)
	require.EqualValues(t, 1, s.commits.next)
	txn := s.db.NewTransactionAt(3, true)
	require.NoError(t, txn.Set([]byte("k"), []byte("without a log")))
	require.NoError(t, txn.CommitAt(4, nil))
	require.NoError(t, s.Close())
	for _, o.Node = range []string{"a", "b", "c"} {
		_, err := Open(o)
		require.ErrorIs(t, err, ErrCorrupt)
	}
}
