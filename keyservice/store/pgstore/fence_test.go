package pgstore

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// TestNodeThatOpensWhileTheFenceIsSet has a name that nobody had before, and has looked at the fence just before: the fence
// waits for it, sees it and ends it.
func TestNodeThatOpensWhileTheFenceIsSet(t *testing.T) {
	dsn := pgtest.Database(t)
	require.NoError(t, openTest(t, Options{DSN: dsn}).Close())
	other, operator := connectTo(t, dsn), connectTo(t, dsn)
	runSQL(t, other, "BEGIN")
	runSQL(t, other, "INSERT INTO logs VALUES ('b', 1, 0, 0)") // node b waits for how this ends
	opened := make(chan *Store, 1)
	go func() {
		s, err := Open(context.Background(), Options{DSN: dsn, Node: "b", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Errorf("opening: %v", err)
		}
		opened <- s
	}()
	waitFor(t, operator, "b", "transactionid")
	d, err := OpenTransfer(context.Background(), Options{DSN: dsn})
	require.NoError(t, err)
	defer d.Close()
	set := make(chan error, 1)
	go func() {
		set <- d.SetFence(context.Background(), store.Fence{}, store.Fence{Own: store.NewID(), State: store.Copying, Where: "elsewhere"})
	}()
	waitFor(t, operator, transferNode, "transactionid")
	runSQL(t, other, "ROLLBACK")
	require.NoError(t, <-set)
	s := <-opened
	require.NotNil(t, s)
	defer s.Close()
	_, err = s.Commit(context.Background(), change("k", "v"))
	requireFailed(t, err)
	require.ErrorIs(t, err, store.ErrMoved)
	require.ErrorIs(t, s.Err(), store.ErrMoved)
	_, err = Open(context.Background(), Options{DSN: dsn, Node: "b"})
	require.ErrorIs(t, err, store.ErrMoved)
}

// TestNameOfADatabase says where it is, and nothing else that the DSN holds.
func TestNameOfADatabase(t *testing.T) {
	for dsn, name := range map[string]string{
		"postgres://user:secret@db1.bank.ir:6432,db2.bank.ir/otp?sslmode=verify-full": "the PostgreSQL database otp on db1.bank.ir:6432,db2.bank.ir:5432",
		"host=/run/postgresql user=clerk password=secret dbname=otp":                  "the PostgreSQL database otp on /run/postgresql:5432",
	} {
		config, err := Options{DSN: dsn}.parse()
		require.NoError(t, err)
		require.Equal(t, name, nameOf(config.ConnConfig))
	}
}
