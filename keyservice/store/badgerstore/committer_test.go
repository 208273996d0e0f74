package badgerstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// gate holds batches back, each between its commit and its answer.
type gate struct {
	reached chan uint64   // the number of a batch that is on disk
	pass    chan error    // what its committer shall be told
	opened  chan struct{} // closed: everything passes
}

func newGate() gate {
	return gate{reached: make(chan uint64), pass: make(chan error), opened: make(chan struct{})}
}

func (g gate) commitAt(txn *badger.Txn, ts uint64) error {
	if err := txn.CommitAt(ts, nil); err != nil {
		return err
	}
	select {
	case g.reached <- ts:
	case <-g.opened:
		return nil
	}
	select {
	case err := <-g.pass:
		return err
	case <-g.opened:
		return nil
	}
}

// open lets everything through from now on, the batch at the gate too.
func (g gate) open() { close(g.opened) }

func change(key store.Key, value string, required ...store.Require) store.Change {
	return store.Change{Require: required, Put: []store.Put{{Key: key, Value: []byte(value)}}, Entry: []byte("entry")}
}

func mustCommit(t testing.TB, s *Store, c store.Change) uint64 {
	t.Helper()
	index, err := s.Commit(context.Background(), c)
	require.NoError(t, err)
	return index
}

func value(t testing.TB, s *Store, key store.Key) string {
	t.Helper()
	items, err := s.Get(context.Background(), key)
	require.NoError(t, err)
	return string(items[0].Value)
}

type answer struct {
	index uint64
	err   error
}

// submit commits in the background and returns where the answer will be.
func submit(ctx context.Context, s *Store, c store.Change) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		index, err := s.Commit(ctx, c)
		answers <- answer{index, err}
	}()
	return answers
}

// waitQueued waits until so many changes stand behind the batch at the gate.
func waitQueued(t testing.TB, s *Store, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return s.commits.queue.Len() == n }, 10*time.Second, time.Millisecond)
}

func receive(t testing.TB, answers <-chan answer) answer {
	t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
		return answer{}
	}
}

func TestOneStaleMemberOfABatchOf256(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	first := submit(context.Background(), s, change("first", "v"))
	require.EqualValues(t, 1, <-g.reached)
	var answers []<-chan answer
	for i := range 256 {
		c := change(store.Key(fmt.Sprintf("row/%d", i)), "v", store.Require{Key: store.Key(fmt.Sprintf("row/%d", i))})
		if i == 77 {
			c.Require = append(c.Require, store.Require{Key: "first", Version: 9})
		}
		answers = append(answers, submit(context.Background(), s, c))
	}
	waitQueued(t, s, 256)
	g.pass <- nil
	require.EqualValues(t, 2, <-g.reached, "all in one batch")
	g.open()
	require.NoError(t, receive(t, first).err)
	seen := map[uint64]bool{}
	for i, a := range answers {
		got := receive(t, a)
		if i == 77 {
			require.ErrorIs(t, got.err, store.ErrConflict)
			continue
		}
		require.NoError(t, got.err)
		seen[got.index] = true
	}
	require.Len(t, seen, 255)
	require.EqualValues(t, 256, mustCommit(t, s, change("last", "v")))
	require.EqualValues(t, 3, s.commits.batch)
}

// TestMembersSeeEachOther: the second of two rivals in one batch loses, and finds the winner's row when it reloads.
func TestMembersSeeEachOther(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	submit(context.Background(), s, change("other", "v"))
	<-g.reached
	rivals := make([]<-chan answer, 2)
	for i := range rivals {
		rivals[i] = submit(context.Background(), s, change("card", fmt.Sprint(i), store.Require{Key: "card"}))
		waitQueued(t, s, i+1)
	}
	gone := submit(context.Background(), s, store.Change{Delete: []store.Key{"card"}, Entry: []byte("e")})
	waitQueued(t, s, 3)
	again := submit(context.Background(), s, change("card", "again", store.Require{Key: "card"}))
	waitQueued(t, s, 4)
	g.pass <- nil
	<-g.reached
	select {
	case <-rivals[1]:
		t.Fatal("the loser was answered before the winner's row was durable")
	default:
	}
	g.open()
	require.NoError(t, receive(t, rivals[0]).err)
	require.ErrorIs(t, receive(t, rivals[1]).err, store.ErrConflict)
	require.NoError(t, receive(t, gone).err)
	require.NoError(t, receive(t, again).err)
	require.Equal(t, "again", value(t, s, "card"))
}

func TestReadsSeeOnlyDurableBatches(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	done := submit(context.Background(), s, change("k", "v"))
	<-g.reached // Badger has it in memory
	require.Empty(t, value(t, s, "k"))
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	g.open()
	require.NoError(t, receive(t, done).err)
	require.Equal(t, "v", value(t, s, "k"))
	require.NoError(t, snap.Scan(context.Background(), "", "", func(i store.Item) error {
		return fmt.Errorf("the earlier snapshot has %q", i.Key)
	}))
}

func TestContextEndsTheWaitNotTheCommit(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	submit(context.Background(), s, change("other", "v"))
	<-g.reached
	ctx, cancel := context.WithCancel(context.Background())
	c := change("k", "as it was")
	waiting := submit(ctx, s, c)
	waitQueued(t, s, 1)
	cancel()
	require.ErrorIs(t, receive(t, waiting).err, store.ErrUnknown)
	copy(c.Put[0].Value, "overwritten") // the caller may use its buffers again
	copy(c.Entry, "xxxxx")
	g.open()
	require.EqualValues(t, 2, mustCommit(t, s, change("last", "v")), "the change took its index")
	require.Equal(t, "as it was", value(t, s, "k"))
}

func TestNoRoomInTheQueue(t *testing.T) {
	t.Parallel()
	g := newGate()
	s := openTest(t, Options{Dir: t.TempDir(), commitAt: g.commitAt})
	defer s.Close()
	submit(context.Background(), s, change("other", "v"))
	<-g.reached
	var writers sync.WaitGroup
	for range group.Queued {
		writers.Go(func() {
			if _, err := s.Commit(context.Background(), change("k", "v")); err != nil {
				t.Errorf("commit: %v", err)
			}
		})
	}
	waitQueued(t, s, group.Queued)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := s.Commit(ctx, change("late", "v"))
	require.ErrorIs(t, err, store.ErrFailed, "it was never queued, so it is known that it did not happen")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	g.open()
	writers.Wait()
	require.EqualValues(t, group.Queued+1, mustCommit(t, s, change("last", "v")))
	require.Empty(t, value(t, s, "late"))
}

// TestBatchesBeyondBadgersLimits queues several transactions' worth of changes, by bytes and by rows.
func TestBatchesBeyondBadgersLimits(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]struct{ rows, bytes int }{"bytes": {4, 16 << 10}, "rows": {200, 1}} {
		t.Run(name, func(t *testing.T) {
			g := newGate()
			s := openTest(t, Options{Dir: t.TempDir(), memTable: 2 << 20, commitAt: g.commitAt, Sequencer: heavySequencer})
			defer s.Close()
			submit(context.Background(), s, change("other", "v"))
			<-g.reached
			const members = 64
			var answers []<-chan answer
			for i := range members {
				answers = append(answers, submit(context.Background(), s, wide(fmt.Sprint(i), shape.rows, shape.bytes)))
			}
			waitQueued(t, s, members)
			_, err := s.Commit(context.Background(), wide("too large", 40, 16<<10))
			require.ErrorIs(t, err, store.ErrFailed)
			require.ErrorContains(t, err, "too large for one transaction")
			g.pass <- nil
			g.open()
			for _, a := range answers {
				require.NoError(t, receive(t, a).err)
			}
			require.Greater(t, s.commits.batch, uint64(3), "more than one transaction")
			require.Less(t, s.commits.batch, uint64(members/2), "several members share one")
			require.EqualValues(t, members+1, mustCommit(t, s, change("last", "v")))
			require.Len(t, value(t, s, "7/0003"), shape.bytes)
		})
	}
}

// wide is a change of many rows.
func wide(name string, rows, bytes int) store.Change {
	c := store.Change{Entry: []byte(strings.Repeat("e", 300))}
	for i := range rows {
		c.Put = append(c.Put, store.Put{Key: store.Key(fmt.Sprintf("%s/%04d", name, i)), Value: make([]byte, bytes)})
	}
	return c
}

// heavySequencer adds as much as a sequencer may.
func heavySequencer(first uint64, entries [][]byte) ([]store.Put, error) {
	var puts []store.Put
	for i, e := range entries {
		for row := range group.EntryRows {
			key := store.Key(fmt.Sprintf("e/%d/%d", first+uint64(i), row))
			puts = append(puts, store.Put{Key: key, Value: make([]byte, (2*len(e)+group.EntryBytes)/group.EntryRows-rowBytes-len(key))})
		}
	}
	return puts, nil
}

func TestSequencerRowsThatCannotBe(t *testing.T) {
	t.Parallel()
	var puts []store.Put
	s := openTest(t, Options{Dir: t.TempDir(), memTable: 2 << 20, Sequencer: func(uint64, [][]byte) ([]store.Put, error) { return puts, nil }})
	defer s.Close()
	tooMany := make([]store.Put, s.db.MaxBatchCount())
	for i := range tooMany {
		tooMany[i].Key = store.Key(fmt.Sprint(i))
	}
	for name, bad := range map[string][]store.Put{
		"too many":         tooMany,
		"a member's row":   {{Key: "k"}},
		"the engine's row": {{Key: store.Key(nextKey("a"))}},
		"twice":            {{Key: "e"}, {Key: "e"}},
		"too large":        {{Key: "e", Value: make([]byte, store.MaxValue+1)}},
	} {
		puts = bad
		_, err := s.Commit(context.Background(), change("k", "v"))
		require.ErrorIs(t, err, store.ErrFailed, name)
		require.NoError(t, s.Err(), name)
	}
	puts = nil
	require.Zero(t, mustCommit(t, s, change("k", "v")))
}
