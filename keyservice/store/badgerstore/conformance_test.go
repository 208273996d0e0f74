package badgerstore

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		dir := t.TempDir()
		return storetest.Harness{Open: func(t testing.TB, seq store.Sequencer) storetest.Store {
			return openTest(t, Options{Dir: dir, Sequencer: seq})
		}}
	})
}

// openTest opens a database, without log output unless o says so. It is closed at the end of the test at the latest.
func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}
