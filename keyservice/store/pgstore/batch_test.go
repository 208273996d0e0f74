package pgstore

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// held is a store whose next batch waits for a lock that another session has.
type held struct {
	*Store
	other  *pgx.Conn
	first  <-chan answer // the change that waits
	queued int
}

// hold opens a store and has a first change wait.
func hold(t *testing.T, o Options) *held {
	dsn := pgtest.Database(t)
	o.DSN, o.StatementTimeout = dsn, 4*patience
	h := &held{Store: openTest(t, o), other: connectTo(t, dsn)}
	mustCommit(t, h.Store, change("gate", "closed"))
	runSQL(t, h.other, "BEGIN")
	runSQL(t, h.other, "SELECT FROM rows WHERE key = 'gate' FOR UPDATE")
	h.first = submit(context.Background(), h.Store, change("gate", "open"))
	waitFor(t, connectTo(t, dsn), "a", "transactionid")
	return h
}

// submit puts a change in the queue behind those before it.
func (h *held) submit(t *testing.T, ctx context.Context, c store.Change) <-chan answer {
	answers := submit(ctx, h.Store, c)
	h.queued++
	require.Eventually(t, func() bool { return h.queue.Len() == h.queued }, patience, tryPause/100)
	return answers
}

// release lets the batch and those behind it go on.
func (h *held) release(t *testing.T) {
	runSQL(t, h.other, "ROLLBACK")
	require.NoError(t, receive(t, h.first).err)
}

func TestOneStaleMemberOfABatchOf256(t *testing.T) {
	h := hold(t, Options{Sequencer: logOf("a")})
	var answers []<-chan answer
	for i := range 256 {
		c := change(store.Key(fmt.Sprintf("row/%d", i)), "v", store.Require{Key: store.Key(fmt.Sprintf("row/%d", i))})
		if i == 77 {
			c.Require = append(c.Require, store.Require{Key: "gate", Version: 99})
		}
		answers = append(answers, h.submit(t, context.Background(), c))
	}
	h.release(t)
	next := uint64(2)
	for i, a := range answers {
		got := receive(t, a)
		if i == 77 {
			require.ErrorIs(t, got.err, store.ErrConflict)
			continue
		}
		require.NoError(t, got.err)
		require.Equal(t, next, got.index)
		next++
	}
	require.EqualValues(t, 3, h.commits.number, "all in one transaction")
	require.EqualValues(t, 257, mustCommit(t, h.Store, change("last", "v")))
}

// TestMembersSeeEachOther: of changes in one batch, each meets what those before it left.
func TestMembersSeeEachOther(t *testing.T) {
	h := hold(t, Options{Sequencer: logOf("a")})
	remove := func(k store.Key, required ...store.Require) store.Change {
		return store.Change{Delete: []store.Key{k}, Require: required, Entry: []byte("e")}
	}
	absent := store.Require{Key: "card"}
	steps := []struct {
		change store.Change
		holds  bool
	}{
		{change("card", "first", absent), true},
		{change("card", "second", absent), false},
		{change("card", "guess", store.Require{Key: "card", Version: 3}), false},
		{change("card", "highest", store.Require{Key: "card", Version: 1<<64 - 1}), false},
		{remove("card"), true},
		{remove("never there", absent), true},
		{change("card", "again", absent), true},
		{change("brief", "v", store.Require{Key: "brief"}), true},
		{remove("brief"), true},
		{change("gate", "shut", store.Require{Key: "brief"}), true},
		{remove("gate"), true},
		{change("gate", "back", store.Require{Key: "gate"}), true},
	}
	var answers []<-chan answer
	for _, s := range steps {
		answers = append(answers, h.submit(t, context.Background(), s.change))
	}
	h.release(t)
	for i, s := range steps {
		err := receive(t, answers[i]).err
		require.Equal(t, s.holds, err == nil, "step %d: %v", i, err)
		require.True(t, err == nil || errors.Is(err, store.ErrConflict), "step %d: %v", i, err)
	}
	require.EqualValues(t, 3, h.commits.number, "all in one transaction")
	require.Equal(t, "again", string(get(t, h.Store, "card").Value))
	require.Equal(t, "back", string(get(t, h.Store, "gate").Value))
	require.Zero(t, get(t, h.Store, "brief").Version)
	require.Zero(t, get(t, h.Store, "never there").Version)
}

func TestContextEndsTheWaitNotTheCommit(t *testing.T) {
	h := hold(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	c := change("k", "as it was")
	waiting := h.submit(t, ctx, c)
	cancel()
	require.ErrorIs(t, receive(t, waiting).err, store.ErrUnknown)
	copy(c.Put[0].Value, "overwritten") // the caller may use its buffers again
	h.release(t)
	require.EqualValues(t, 3, mustCommit(t, h.Store, change("last", "v")), "the change took its index")
	require.Equal(t, "as it was", string(get(t, h.Store, "k").Value))
}

func TestSequencerRowsThatCannotBe(t *testing.T) {
	var puts []store.Put
	s := openTest(t, Options{DSN: pgtest.Database(t), Sequencer: func(uint64, [][]byte) ([]store.Put, error) { return puts, nil }})
	for name, bad := range map[string][]store.Put{
		"a member's row":   {{Key: "k"}},
		"the engine's row": {{Key: "\x00k"}},
		"twice":            {{Key: "e"}, {Key: "e"}},
		"too large":        {{Key: "e", Value: make([]byte, store.MaxValue+1)}},
	} {
		puts = bad
		_, err := s.Commit(context.Background(), change("k", "v"))
		requireFailed(t, err)
		require.Zero(t, get(t, s, "k").Version, name)
	}
	puts = []store.Put{{Key: "head", Value: []byte("1")}}
	require.Zero(t, mustCommit(t, s, change("k", "v")))
	puts = []store.Put{{Key: "head", Value: []byte("2")}}
	require.EqualValues(t, 1, mustCommit(t, s, change("k", "v")))
	require.Equal(t, "2", string(get(t, s, "head").Value), "a row of the Sequencer's may be written again")
}

func TestChangeTooLarge(t *testing.T) {
	s := openTest(t, Options{DSN: pgtest.Database(t)})
	var c store.Change
	c.Entry = []byte("e")
	for i := range batchLimit.Bytes/store.MaxValue + 1 {
		c.Put = append(c.Put, store.Put{Key: store.Key(fmt.Sprint(i)), Value: make([]byte, store.MaxValue)})
	}
	_, err := s.Commit(context.Background(), c)
	requireFailed(t, err)
	require.ErrorContains(t, err, "too large for one transaction")
	c.Put = c.Put[:len(c.Put)-2]
	require.Zero(t, mustCommit(t, s, c))
}
