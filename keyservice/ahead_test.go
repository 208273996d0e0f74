package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// reads counts the reads that fn causes.
func (w *world) reads(fn func()) int {
	n := 0
	w.store.reading = func([]store.Key) { n++ }
	defer func() { w.store.reading = nil }()
	fn()
	return n
}

// A verification is one read, whatever its answer, once the token has been seen; by subject it is one more, which finds
// the tokens to lock.
func TestAVerificationIsOneRead(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.optedIn(card(1), "second-pin")
	typed := p.password()
	require.Equal(t, 2, w.reads(func() { require.True(t, w.try(p, typed).Accepted) }), "whose the token is was not known")
	require.Equal(t, 1, w.reads(func() { require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason) }))
	require.Equal(t, 1, w.reads(func() { require.Equal(t, ReasonMismatch, w.try(p, p.wrong()).Reason) }))
	require.Equal(t, 2, w.reads(func() { w.verify(bySubject(card(1), p.wrong())) }))
	require.Equal(t, 2, w.reads(func() { w.verify(bySubject(card(2), p.wrong())) }), "a subject that has nothing")
}

// What was read ahead is nothing but read ahead: a decision on rows that changed meanwhile is not written, and is taken
// again from what is there then.
func TestRowsReadAheadAreReadAgainAfterAConflict(t *testing.T) {
	w := newWorld(t)
	p, ctx := w.enrol(card(1), "counter-6"), context.Background()
	require.True(t, w.try(p, p.password()).Accepted)
	w.store.before = func(store.Change) error {
		w.store.before = nil
		_, err := w.another("node-1").Suspend(ctx, branch, p.serial)
		return err
	}
	require.Equal(t, ReasonNotActive, w.try(p, p.password()).Reason)
}

// Rows that were not foreseen are read: the hint may be missing or wrong.
func TestAWrongHintOnlyCostsARead(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	stranger, err := w.ownerOf(context.Background(), ClassCard, seed.NewSubject(card(2)))
	require.NoError(t, err)
	w.subjects.Add(p.serial, stranger.subject)
	require.Equal(t, 2, w.reads(func() { require.True(t, w.try(p, p.password()).Accepted) }))
	require.Equal(t, 1, w.reads(func() { require.True(t, w.try(p, p.password()).Accepted) }))
}
