package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgtest"
)

func openExpecting(t *testing.T, dsn, node string, e Expectation) error {
	s, err := Open(context.Background(), Options{DSN: dsn, Node: node, Expect: e})
	if err != nil {
		return err
	}
	t.Cleanup(func() { s.Close() })
	return nil
}

// TestExpectations: the first node makes the database, all later ones must find it.
func TestExpectations(t *testing.T) {
	dsn := pgtest.Database(t)
	require.ErrorIs(t, openExpecting(t, dsn, "a", ExpectUsed), ErrAbsent)
	var tables int
	require.NoError(t, connectTo(t, dsn).QueryRow(context.Background(), "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace").Scan(&tables))
	require.Zero(t, tables, "another program's database is left as it is")
	require.NoError(t, openExpecting(t, dsn, "a", ExpectNew))
	require.ErrorIs(t, openExpecting(t, dsn, "a", ExpectNew), ErrPresent)
	require.ErrorIs(t, openExpecting(t, dsn, "b", ExpectNew), ErrPresent)
	require.NoError(t, openExpecting(t, dsn, "b", ExpectUsed))
	require.NoError(t, openExpecting(t, dsn, "a", ExpectAny))
}

// TestExpectationsOfASchemaWithoutNodes, as after a first start that ended between the two.
func TestExpectationsOfASchemaWithoutNodes(t *testing.T) {
	dsn := pgtest.Database(t)
	require.NoError(t, openTest(t, Options{DSN: dsn}).Close())
	operator := connectTo(t, dsn)
	runSQL(t, operator, "DELETE FROM logs")
	require.ErrorIs(t, openExpecting(t, dsn, "a", ExpectUsed), ErrAbsent)
	runSQL(t, operator, "INSERT INTO rows VALUES ('k', 'v', 1)")
	require.ErrorIs(t, openExpecting(t, dsn, "a", ExpectNew), ErrPresent, "rows without a log are someone's too")
	runSQL(t, operator, "DELETE FROM rows")
	require.NoError(t, openExpecting(t, dsn, "a", ExpectNew))
}

// TestOneOfManyMakesTheDatabase, with and without the schema there.
func TestOneOfManyMakesTheDatabase(t *testing.T) {
	dsn := pgtest.Database(t)
	for range 3 {
		const nodes = 6
		results := make([]error, nodes)
		var group sync.WaitGroup
		for i := range nodes {
			group.Go(func() { results[i] = openExpecting(t, dsn, fmt.Sprint("node-", i), ExpectNew) })
		}
		group.Wait()
		made := 0
		for _, err := range results {
			if err == nil {
				made++
				continue
			}
			require.True(t, errors.Is(err, ErrPresent), "%v", err)
		}
		require.Equal(t, 1, made)
		runSQL(t, connectTo(t, dsn), "DELETE FROM logs")
	}
}
