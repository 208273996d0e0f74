package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
)

// The row keeps no seed: it comes from the record, as long as that has it.
func TestARepeatedActivationDeliversTheSameSeedUntilConfirmation(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	r := p.request(card(1), issued, w.code(issued))
	r.IdempotencyKey = "k"
	first, err := w.Activate(ctx, mobileBank, r)
	require.NoError(t, err)
	w.clock.add(25 * time.Hour)
	w.restart()
	w.unchanged(func() {
		repeated, err := w.Activate(ctx, mobileBank, r)
		require.NoError(t, err, "though its code has expired by now")
		require.True(t, repeated.Repeated)
		require.Equal(t, w.clock.Now(), repeated.ServerTime, "the phone sets its clock by it")
		repeated.Repeated, repeated.ServerTime = false, first.ServerTime
		require.Equal(t, first, repeated)
	})
	log := w.entries()
	require.Equal(t, audit.Repeated, log[len(log)-2].Outcome)
	for _, key := range w.idempotencyKeys() {
		require.NotContains(t, w.stored()[key], string(first.Seed[:16]))
	}
	p.receive(first)
	_, err = w.Confirm(ctx, mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
	require.NoError(t, err)
	w.unchanged(func() {
		_, err = w.Activate(ctx, mobileBank, r)
		require.Equal(t, CodeTransition, CodeOf(err))
		require.Contains(t, err.Error(), "delivered only until it is confirmed")
	})
}

// A request that names the subject is answered from the token it was about, though the subject has another one by now;
// and a refusal stays one though it would be carried out now.
func TestARepeatedActivationBySubjectIsOfTheSameToken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	bySubject := func(key string, p *phone, issued IssuedToken, code seed.Code) ActivateRequest {
		r := p.request(card(1), issued, code)
		r.IdempotencyKey, r.Serial, r.Class = key, "", ClassCard
		return r
	}
	p, other := w.newPhone(0), w.newPhone(1)
	early := bySubject("early", p, IssuedToken{}, seed.NewCode("12345678"))
	_, err := w.Activate(ctx, mobileBank, early)
	require.Equal(t, CodeActivationWrong, CodeOf(err), "the subject has no token")
	issued := w.issued(card(1), "offline-60")
	w.unchanged(func() {
		_, err := w.Activate(ctx, mobileBank, early)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.Repeated)
		require.Equal(t, CodeActivationWrong, e.Code)
	})
	r := bySubject("k", p, issued, w.code(issued))
	first, err := w.Activate(ctx, mobileBank, r)
	require.NoError(t, err)
	w.unchanged(func() {
		repeated, err := w.Activate(ctx, mobileBank, r)
		require.NoError(t, err)
		require.Equal(t, issued.Serial, repeated.Serial)
		require.Equal(t, first.Seed, repeated.Seed)
		require.True(t, repeated.Repeated)
	})
	_, err = w.Deactivate(ctx, branch, issued.Serial)
	require.NoError(t, err)
	next := w.issued(card(1), "offline-60")
	_, err = w.Activate(ctx, mobileBank, other.request(card(1), next, w.code(next)))
	require.NoError(t, err)
	w.unchanged(func() {
		_, err := w.Activate(ctx, mobileBank, r)
		require.Equal(t, CodeTransition, CodeOf(err), "its token is gone, and the other one's seed is not its answer")
	})
}

// A wrong code uses up a try; its repeat does not.
func TestARepeatedWrongCodeUsesUpNoTry(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	r := p.request(card(1), issued, seed.NewCode("00000000"))
	r.IdempotencyKey = "k"
	for range codeTries + 1 {
		_, err := w.Activate(context.Background(), mobileBank, r)
		require.Equal(t, CodeActivationWrong, CodeOf(err))
	}
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	require.Equal(t, 1, tok.state.CodeTries)
}
