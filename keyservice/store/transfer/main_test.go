package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/keyservice/store/storetest"
	"ramzban/keyservice/store/transfer"
)

func TestMain(m *testing.M) {
	if from := os.Getenv(childFrom); from != "" {
		fmt.Fprintln(os.Stderr, "copy:", copyUntilKilled(place(from), place(os.Getenv(childTo))))
		os.Exit(1)
	}
	os.Exit(pgtest.Run(m))
}

// place is where a database is: a DSN, or the directory of a Badger database.
type place string

var engines = map[string]func(testing.TB) place{
	"badger":   func(t testing.TB) place { return place(t.TempDir()) },
	"postgres": func(t testing.TB) place { return place(pgtest.Database(t)) },
}

// pair is a copy's direction.
type pair struct{ from, to func(testing.TB) place }

// eachPair runs a test in all directions.
func eachPair(t *testing.T, test func(*testing.T, pair)) {
	for from := range engines {
		for to := range engines {
			t.Run(from+" to "+to, func(t *testing.T) { test(t, pair{engines[from], engines[to]}) })
		}
	}
}

// eachCrossing runs a test in the directions from one engine to the other.
func eachCrossing(t *testing.T, test func(*testing.T, pair)) {
	t.Run("badger to postgres", func(t *testing.T) { test(t, pair{engines["badger"], engines["postgres"]}) })
	t.Run("postgres to badger", func(t *testing.T) { test(t, pair{engines["postgres"], engines["badger"]}) })
}

// database is a transfer.Database to close.
type database interface {
	transfer.Database
	Close() error
}

func (p place) isPostgres() bool { return strings.HasPrefix(string(p), "host=") }

// reserve keeps tests from needing half a gigabyte.
const reserve = 1 << 20

var quiet = slog.New(slog.DiscardHandler)

func (p place) transfer() (database, error) {
	if p.isPostgres() {
		return pgstore.OpenTransfer(context.Background(), pgstore.Options{DSN: string(p), Log: quiet})
	}
	return badgerstore.OpenTransfer(badgerstore.Options{Dir: string(p), Reserve: reserve, Log: quiet})
}

func (p place) node(name string) (storetest.Store, error) {
	if p.isPostgres() {
		return pgstore.Open(context.Background(), pgstore.Options{DSN: string(p), Node: name, Sequencer: logOf(name), Log: quiet})
	}
	return badgerstore.Open(badgerstore.Options{Dir: string(p), Node: name, Sequencer: logOf(name), Reserve: reserve, Log: quiet})
}

// with opens a database for a copy as long as fn runs.
func (p place) with(t testing.TB, fn func(database)) {
	t.Helper()
	d, err := p.transfer()
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	fn(d)
}

// serve opens a database as a node as long as fn runs.
func (p place) serve(t testing.TB, name string, fn func(storetest.Store)) {
	t.Helper()
	s, err := p.node(name)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	fn(s)
}

// copyTo opens both databases and copies.
func (p place) copyTo(to place) (transfer.Result, error) {
	return both(p, to, func(from, to transfer.Database) (transfer.Result, error) {
		return transfer.Copy(context.Background(), from, to, nil)
	})
}

func (p place) abandon(to place) error {
	_, err := both(p, to, func(from, to transfer.Database) (transfer.Result, error) {
		return transfer.Result{}, transfer.Abandon(context.Background(), from, to)
	})
	return err
}

func both(p, q place, fn func(from, to transfer.Database) (transfer.Result, error)) (transfer.Result, error) {
	from, err := p.transfer()
	if err != nil {
		return transfer.Result{}, err
	}
	defer from.Close()
	to, err := q.transfer()
	if err != nil {
		return transfer.Result{}, err
	}
	defer to.Close()
	return fn(from, to)
}

// requireMoved fails the test unless no node of whatever name can open the database, and the error says so much.
func (p place) requireMoved(t testing.TB, says ...string) {
	t.Helper()
	for _, name := range []string{"a", "new"} {
		_, err := p.node(name)
		require.ErrorIs(t, err, store.ErrMoved)
		require.NotContains(t, err.Error(), "\n")
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
	}
}

// logOf is a node's sequencer.
func logOf(node string) store.Sequencer {
	return func(first uint64, entries [][]byte) ([]store.Put, error) {
		var puts []store.Put
		for i, e := range entries {
			puts = append(puts, store.Put{Key: entryKey(node, first+uint64(i)), Value: e})
		}
		return puts, nil
	}
}

func entryKey(node string, index uint64) store.Key {
	return store.Key(fmt.Sprintf("a/%s/%020d", node, index))
}

// commit makes a change of one row and returns its index.
func commit(t testing.TB, s store.Store, key store.Key, value []byte) uint64 {
	t.Helper()
	index, err := s.Commit(context.Background(), store.Change{
		Put: []store.Put{{Key: key, Value: value}}, Entry: []byte("entry of " + string(key)),
	})
	require.NoError(t, err)
	return index
}

// content is what a database holds, without versions.
func content(t testing.TB, d interface {
	Snapshot(context.Context) (store.Snapshot, error)
}) (rows []store.Put) {
	t.Helper()
	snap, err := d.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	require.NoError(t, snap.Scan(context.Background(), "", "", func(i store.Item) error {
		rows = append(rows, store.Put{Key: i.Key, Value: i.Value})
		return nil
	}))
	return rows
}

// fill makes a database with the logs of two nodes, and rows that a careless copy would get wrong. It returns its content.
func (p place) fill(t testing.TB, rows int) (all []store.Put) {
	t.Helper()
	p.serve(t, "a", func(s storetest.Store) {
		commit(t, s, "k/empty", nil)
		commit(t, s, "\x01", []byte{0})
		commit(t, s, "\xff\xff\x00", bytes.Repeat([]byte{0xff}, store.MaxValue))
		commit(t, s, store.Key(strings.Repeat("\xff", store.MaxKey)), []byte("the last one"))
		for first := 0; first < rows; first += 200 {
			c := store.Change{Entry: []byte("many")}
			for i := first; i < min(first+200, rows); i++ {
				key := store.Key(fmt.Sprintf("s/%09d", i))
				c.Put = append(c.Put, store.Put{Key: key, Value: bytes.Repeat([]byte(key), 1+i%40)})
			}
			_, err := s.Commit(context.Background(), c)
			require.NoError(t, err)
		}
	})
	p.serve(t, "b-1", func(s storetest.Store) {
		commit(t, s, "k/of b", []byte("b"))
		commit(t, s, "k/empty", []byte{})
		all = content(t, s)
	})
	return all
}
