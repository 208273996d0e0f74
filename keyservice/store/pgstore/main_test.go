package pgstore

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// openTest opens a database as node "a" without log output, unless o says otherwise. It is closed at the end of the test
// at the latest.
func openTest(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Node == "" {
		o.Node = "a"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Open(context.Background(), o)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}
