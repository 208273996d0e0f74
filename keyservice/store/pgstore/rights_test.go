package pgstore

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// TestTransferWithoutRights is refused before anything is changed, and with what the refusal says to run, and no more, all
// that a copy does can be done.
func TestTransferWithoutRights(t *testing.T) {
	dsn := pgtest.Database(t)
	operator := connectTo(t, dsn)
	runSQL(t, operator, `DROP ROLE IF EXISTS "the-mover"`)
	runSQL(t, operator, `CREATE ROLE "the-mover" LOGIN`)
	t.Cleanup(func() {
		runSQL(t, operator, `DROP OWNED BY "the-mover"`)
		runSQL(t, operator, `DROP ROLE "the-mover"`)
	})
	s := openTest(t, Options{DSN: dsn})
	mustCommit(t, s, change("k", "v"))
	require.NoError(t, s.Close())
	open := func(expect Expectation) (*Transfer, error) {
		return OpenTransfer(context.Background(), Options{DSN: dsn + " user=the-mover", Expect: expect})
	}
	grant := func(expect Expectation) (grants string) {
		t.Helper()
		_, err := open(expect)
		require.ErrorIs(t, err, ErrRights)
		require.NotContains(t, err.Error(), "\n")
		grants = err.Error()[strings.Index(err.Error(), "GRANT "):]
		runSQL(t, operator, grants)
		return grants
	}
	require.NotContains(t, grant(ExpectUsed), "TRUNCATE", "to copy from there")
	from, err := open(ExpectUsed)
	require.NoError(t, err)
	exercise(t, from, func(*Transfer, store.Fence) {})
	require.Contains(t, grant(ExpectAny), `GRANT SELECT, USAGE ON SEQUENCE row_versions TO "the-mover"`)
	to, err := open(ExpectAny)
	require.NoError(t, err)
	exercise(t, to, func(d *Transfer, under store.Fence) {
		ctx := context.Background()
		require.NoError(t, d.Clear(ctx, under))
		require.NoError(t, d.Load(ctx, under, []store.Put{{Key: "k", Value: []byte("v")}}))
		require.NoError(t, d.SetLogs(ctx, under, map[string]uint64{"a": 7}))
	})
	mustCommit(t, openTest(t, Options{DSN: dsn + " user=the-mover"}), change("k", "w"))
}

// exercise does what a copy does with either database, and more under its fence.
func exercise(t *testing.T, d *Transfer, more func(*Transfer, store.Fence)) {
	t.Helper()
	defer d.Close()
	ctx := context.Background()
	was, err := d.Fence(ctx)
	require.NoError(t, err)
	fence := store.Fence{Own: store.NewID(), State: store.Filling}
	require.NoError(t, d.SetFence(ctx, was, fence))
	_, err = d.Count(ctx)
	require.NoError(t, err)
	_, err = d.Logs(ctx)
	require.NoError(t, err)
	snap, err := d.Snapshot(ctx)
	require.NoError(t, err)
	require.NoError(t, snap.Scan(ctx, "", "", func(store.Item) error { return nil }))
	snap.Close()
	more(d, fence)
	require.NoError(t, d.SetFence(ctx, fence, store.Fence{Own: fence.Own}))
}
