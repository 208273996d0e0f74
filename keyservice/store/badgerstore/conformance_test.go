package badgerstore

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

// TestConformance runs the suite also with a cache so small that rows come and go all the time, and that some of the
// rows that are read together are in it and some are not.
func TestConformance(t *testing.T) {
	for name, cache := range map[string]int{"cache": 0, "cache of four rows": 4 * (cacheEntry + 20)} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				dir := t.TempDir()
				return storetest.Harness{Open: func(t testing.TB, node string, seq store.Sequencer) storetest.Store {
					return openTest(t, Options{Dir: dir, Node: node, Sequencer: seq, cache: cache})
				}}
			})
		})
	}
}

// openTest opens a database as node "a" without log output unless o says so. It is closed at the end of the test at the latest.
func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Node == "" {
		o.Node = "a"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}
