package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/keyservice/store/storetest"
)

// twoNodes opens a database twice.
func twoNodes(t *testing.T) (a, b *Store) {
	dsn := pgtest.Database(t)
	a = openTest(t, Options{DSN: dsn, Node: "a", Sequencer: logOf("a")})
	b = openTest(t, Options{DSN: dsn, Node: "b", Sequencer: logOf("b")})
	return a, b
}

// TestTwoNodesAreLinearisable: clients go from node to node; both logs together have each change once.
func TestTwoNodesAreLinearisable(t *testing.T) {
	a, b := twoNodes(t)
	answers := storetest.Race(t, storetest.Contest{Rounds: storetest.Scaled(100, 1000), Registers: storetest.Scaled(8, 80)}, a, b)
	requireLogs(t, a, answers, "a", "b")
}

// TestOneOfTwoNodesWins: the same change is sent to both nodes at once, whether its row is there or not.
func TestOneOfTwoNodesWins(t *testing.T) {
	a, b := twoNodes(t)
	mustCommit(t, a, change("there", "0"))
	answers := map[string]error{}
	for i := range storetest.Scaled(100, 1000) {
		absent := store.Key(fmt.Sprintf("absent/%d", i))
		for _, required := range []store.Require{{Key: absent}, {Key: "there", Version: get(t, a, "there").Version}} {
			var waiting []<-chan answer
			entries := []string{fmt.Sprintf("%d of a on %s", i, required.Key), fmt.Sprintf("%d of b on %s", i, required.Key)}
			for n, s := range []*Store{a, b} {
				c := change(required.Key, fmt.Sprint(i), required)
				c.Entry = []byte(entries[n])
				waiting = append(waiting, submit(context.Background(), s, c))
			}
			of := []error{receive(t, waiting[0]).err, receive(t, waiting[1]).err}
			answers[entries[0]], answers[entries[1]] = of[0], of[1]
			require.True(t, (of[0] == nil) != (of[1] == nil), "%v", of)
			require.ErrorIs(t, errors.Join(of...), store.ErrConflict)
		}
	}
	requireLogs(t, a, answers, "a", "b")
}

// TestPreconditionsOnRowsOnlyRead: two nodes each rely on a row that the other changes, one that is there or one that is
// not. Both cannot be right.
func TestPreconditionsOnRowsOnlyRead(t *testing.T) {
	a, b := twoNodes(t)
	wins := 0
	for i := range storetest.Scaled(150, 2000) {
		left, right := store.Key(fmt.Sprintf("%d/left", i)), store.Key(fmt.Sprintf("%d/right", i))
		if i%2 == 0 {
			mustCommit(t, a, change(left, "old"))
			mustCommit(t, a, change(right, "old"))
		}
		seenLeft := store.Require{Key: left, Version: get(t, a, left).Version}
		seenRight := store.Require{Key: right, Version: get(t, a, right).Version}
		first := submit(context.Background(), a, change(left, "new", seenRight))
		second := submit(context.Background(), b, change(right, "new", seenLeft))
		for _, err := range []error{receive(t, first).err, receive(t, second).err} {
			if err == nil {
				wins++
				continue
			}
			require.ErrorIs(t, err, store.ErrConflict)
		}
		require.Equal(t, i+1, wins, "one of two wins")
		if i%2 == 1 {
			absent := get(t, a, left).Version == 0 || get(t, a, right).Version == 0
			require.True(t, absent, "a row that was only required not to exist does not exist")
		}
	}
}

// TestARowThatEveryChangeRequiresCanBeChanged: such as the key ring. PostgreSQL lets those who share a row's lock go before one
// who waits to write it, so that nodes without a pause between batches would hold it up for ever; theirs have one.
func TestARowThatEveryChangeRequiresCanBeChanged(t *testing.T) {
	dsn, ctx, busy := pgtest.Database(t), context.Background(), sync.WaitGroup{}
	loaded, stop := context.WithCancel(ctx)
	defer busy.Wait()
	defer stop()
	var nodes []*Store
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, openTest(t, Options{DSN: dsn, Node: name}))
	}
	mustCommit(t, nodes[0], change("ring", "0"))
	var written atomic.Int64
	for i := range 24 {
		s, own := nodes[i%len(nodes)], store.Key(fmt.Sprintf("own/%d", i))
		busy.Go(func() {
			for n := 0; loaded.Err() == nil; n++ {
				items, err := s.Get(ctx, "ring")
				if err == nil {
					_, err = s.Commit(ctx, change(own, fmt.Sprint(n), store.Require{Key: "ring", Version: items[0].Version}))
				}
				if err == nil {
					written.Add(1)
				} else if !errors.Is(err, store.ErrConflict) {
					t.Errorf("writing %s: %v", own, err)
					return
				}
			}
		})
	}
	longest := time.Duration(0)
	for i := range 5 {
		before := written.Load()
		require.Eventually(t, func() bool { return written.Load() > before+100 }, patience, time.Millisecond)
		began := time.Now()
		mustCommit(t, nodes[0], change("ring", fmt.Sprint(i), store.Require{Key: "ring", Version: get(t, nodes[0], "ring").Version}))
		longest = max(longest, time.Since(began))
	}
	t.Logf("the longest wait was %v", longest)
	require.Less(t, longest, patience/4)
}

// TestSecondProcessFencesTheFirst, under load: every change that the first acknowledged is in the log, which is dense.
func TestSecondProcessFencesTheFirst(t *testing.T) {
	dsn := pgtest.Database(t)
	old := openTest(t, Options{DSN: dsn, Sequencer: logOf("a")})
	answers := map[string]error{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := 0; ; i++ {
				c := change(store.Key(fmt.Sprintf("w/%d", w)), fmt.Sprint(i))
				_, err := old.Commit(context.Background(), c)
				mu.Lock()
				answers[string(c.Entry)] = err
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(answers) > 100 }, patience, time.Millisecond)
	young := openTest(t, Options{DSN: dsn, Sequencer: logOf("a")})
	group.Wait()
	<-old.Failed()
	require.ErrorIs(t, old.Err(), ErrFenced)
	for range 2 {
		c := change("late", "v")
		_, err := old.Commit(context.Background(), c)
		requireFailed(t, err)
		require.ErrorIs(t, err, ErrFenced)
		answers[string(c.Entry)] = err
	}
	_, err := old.Get(context.Background(), "late")
	require.ErrorIs(t, err, ErrFenced)
	_, err = old.Snapshot(context.Background())
	require.ErrorIs(t, err, ErrFenced)
	require.NoError(t, old.Close())

	require.NoError(t, young.Err())
	c := change("young", "v")
	mustCommit(t, young, c)
	answers[string(c.Entry)] = nil
	requireLogs(t, young, answers, "a")
}

// TestNodesOpenTogether: all migrate an empty database at once, or find it migrated.
func TestNodesOpenTogether(t *testing.T) {
	dsn := pgtest.Database(t)
	var group sync.WaitGroup
	for n := range 4 {
		group.Go(func() {
			s, err := Open(context.Background(), Options{
				DSN: dsn, Node: fmt.Sprint("node-", n), Sequencer: logOf(fmt.Sprint(n)), Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Errorf("opening node %d: %v", n, err)
				return
			}
			defer s.Close()
			if index, err := s.Commit(context.Background(), change("k", "v")); err != nil || index != 0 {
				t.Errorf("index %d: %v", index, err)
			}
		})
	}
	group.Wait()
}

// TestDeadlockIsTriedAgain: another session locks rows in another order, and PostgreSQL ends the batch's transaction.
func TestDeadlockIsTriedAgain(t *testing.T) {
	dsn := pgtest.Database(t)
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a")})
	mustCommit(t, s, change("1", "old"))
	mustCommit(t, s, change("2", "old"))
	other, operator := connectTo(t, dsn), connectTo(t, dsn)
	runSQL(t, other, "SET deadlock_timeout = '1min'")
	runSQL(t, other, "BEGIN")
	runSQL(t, other, "SELECT FROM rows WHERE key = '2' FOR UPDATE")
	waiting := submit(context.Background(), s, store.Change{
		Require: []store.Require{{Key: "1", Version: get(t, s, "1").Version}},
		Put:     []store.Put{{Key: "2", Value: []byte("new")}, {Key: "1", Value: []byte("new")}},
		Entry:   []byte("e"),
	})
	waitFor(t, operator, "a", "transactionid")
	runSQL(t, other, "SELECT FROM rows WHERE key = '1' FOR UPDATE") // waits until the deadlock is found
	requireUnanswered(t, waiting)
	runSQL(t, other, "COMMIT")
	require.EqualValues(t, 2, receive(t, waiting).index)
	require.Equal(t, "new", string(get(t, s, "2").Value))
}

// TestLockThatIsNotGivenUp: a batch that cannot have its locks in time has written nothing.
func TestLockThatIsNotGivenUp(t *testing.T) {
	dsn := pgtest.Database(t)
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a"), StatementTimeout: 2 * time.Second})
	mustCommit(t, s, change("k", "old"))
	other := connectTo(t, dsn)
	runSQL(t, other, "BEGIN")
	runSQL(t, other, "SELECT FROM rows FOR UPDATE")
	_, err := s.Commit(context.Background(), change("k", "new"))
	requireFailed(t, err)
	require.Equal(t, "old", string(get(t, s, "k").Value))
	runSQL(t, other, "ROLLBACK")
	require.EqualValues(t, 1, mustCommit(t, s, change("k", "newer")))
}

// TestDiskFull: the server says so in the middle of a batch.
func TestDiskFull(t *testing.T) {
	dsn := pgtest.Database(t)
	s := openTest(t, Options{DSN: dsn, Sequencer: logOf("a")})
	operator := connectTo(t, dsn)
	runSQL(t, operator, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$`)
	runSQL(t, operator, `CREATE TRIGGER full_disk BEFORE INSERT ON rows EXECUTE FUNCTION full_disk()`)
	_, err := s.Commit(context.Background(), change("k", "v"))
	requireFailed(t, err)
	require.ErrorIs(t, err, store.ErrNoSpace)
	runSQL(t, operator, "DROP TRIGGER full_disk ON rows")
	require.EqualValues(t, 0, mustCommit(t, s, change("k", "v")), "service resumes by itself, refused changes took no index")
}
