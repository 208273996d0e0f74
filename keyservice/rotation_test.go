package keyservice

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// folk is a bank's customers, who have something in every kind of row.
type folk struct {
	w        *world
	phones   []*phone
	sms      []CollectedCode // that customer 0 got and has not used, for two payments
	payments []otp.Transaction
	waiting  IssuedToken // not activated yet …
	code     seed.Code   // … and its activation code
	subject  string      // … and its card
	hardware string
	states   map[string]state // as they were
}

// enrolled makes customers who used their tokens, right and wrong.
func (w *world) enrolled() *folk {
	f := &folk{w: w}
	for i, profile := range []string{"offline-60", "counter-6", "sha-512", "counter-8"} {
		p := w.enrol(card(i), profile)
		require.True(w.t, w.try(p, p.password()).Accepted)
		require.Equal(w.t, ReasonMismatch, w.try(p, p.wrong()).Reason)
		f.phones = append(f.phones, p)
	}
	f.phones = append(f.phones, w.withPIN(card(10), "pin-60", pin))
	w.optedIn(card(0), "second-pin")
	for _, amount := range []string{"1500000", "2500000"} {
		paid := payment
		paid.Amount = amount
		f.payments = append(f.payments, paid)
		f.sms = append(f.sms, w.ask(card(0), &paid))
		w.clock.add(time.Second)
	}
	f.subject = card(11)
	f.waiting = w.issued(f.subject, "offline-60")
	f.code = w.code(f.waiting)
	w.ended(w.enrol(card(12), "counter-6").serial)
	f.hardware = w.handed(card(13), makerSeed)
	require.NoError(w.t, w.confirmOTP(f.hardware, appendixD[0]))
	f.states = w.states()
	return f
}

// states are those of all tokens, by serial.
func (w *world) states() map[string]state {
	w.t.Helper()
	states := map[string]state{}
	w.rows(func(it store.Item) {
		if it.Key[:2] == "t/" {
			t, err := w.load(context.Background(), serialOf(it))
			require.NoError(w.t, err)
			states[t.Serial] = t.state
		}
	})
	return states
}

// untouched says that nothing of a token's state changed but what tells of the renewal itself.
func (f *folk) untouched(t *testing.T) {
	t.Helper()
	now := f.w.states()
	require.Len(t, now, len(f.states))
	for serial, before := range f.states {
		after := now[serial]
		require.Equal(t, [...]any{before.Next, before.Drift, before.CodeTries, before.Asked}, [...]any{after.Next, after.Drift, after.CodeTries, after.Asked}, serial)
		require.Len(t, after.Challenges, len(before.Challenges))
		for i, ch := range before.Challenges {
			ch.Transaction, after.Challenges[i].Transaction = nil, nil
			require.Equal(t, ch, after.Challenges[i], serial)
		}
	}
}

// goOn lets everybody use what they have: what was used is used, and what was not is accepted once.
func (f *folk) goOn(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	for i, paid := range f.payments {
		code, err := w.CollectCode(ctx, smsGateway, f.w.challengeID(i))
		require.NoError(t, err)
		require.Equal(t, f.sms[i].Code.Reveal(), code.Code.Reveal(), "the courier may collect again what it sent")
		require.Equal(t, &paid, code.Transaction)
	}
	v := w.verify(paying(card(0), f.sms[0].typed(), f.payments[0]))
	require.True(t, v.Accepted && v.Bound)
	require.Equal(t, ReasonAlreadyUsed, w.verify(paying(card(0), f.sms[0].typed(), f.payments[0])).Reason)

	device := w.newPhone(1)
	activated, err := w.Activate(ctx, mobileBank, device.request(f.subject, f.waiting, f.code))
	require.NoError(t, err, "the code that was sent before still counts")
	device.receive(activated)
	_, err = w.Confirm(ctx, mobileBank, ConfirmRequest{Serial: device.serial, Proof: device.proof()})
	require.NoError(t, err)
	for i := range f.phones {
		p := *f.phones[i]
		p.w = w
		w.clock.add(2 * time.Minute)
		typed := p.password()
		f.phones[i].counter = p.counter
		require.True(t, w.try(&p, typed).Accepted, p.policy)
		require.Equal(t, ReasonAlreadyUsed, w.try(&p, typed).Reason)
	}
	require.False(t, w.typed(f.hardware, appendixD[0]).Accepted)
	require.NoError(t, w.unlocked(card(13)))
	require.True(t, w.typed(f.hardware, appendixD[1]).Accepted)
}

// challengeID is that of one of the passwords that customer 0 asked for.
func (w *world) challengeID(i int) string {
	o, err := w.ownerOf(context.Background(), ClassCard, seed.NewSubject(card(0)))
	require.NoError(w.t, err)
	t, err := w.load(context.Background(), o.serials[0])
	require.NoError(w.t, err)
	return t.state.Challenges[i].ID
}

// Wrapping, sealing and encrypting keys: everything is brought to the new version, nothing else changes, and the old one can
// be destroyed.
func TestAfterARotationNothingNamesTheOldVersion(t *testing.T) {
	w := newWorld(t)
	for _, label := range []string{wrapLabel, sealLabel, dataLabel} {
		w.reveal(key(label, 3), key(label, 4))
		w.rotates(label, 1, 3)
	}
	f := w.enrolled()
	for _, label := range []string{wrapLabel, sealLabel, dataLabel} {
		old := key(label, 3)
		require.NotEmpty(t, w.dependents(old), label)
		refusal := w.refusedToPropose(ActionRetire, KeyVersion{Label: label, Version: 3})
		require.Equal(t, CodeKeyNeeded, refusal.Code, "it is active")
		v := w.rotates(label, 3, 4)
		require.Equal(t, [...]int{0, v.Tokens}, [...]int{v.Failures, v.Seen})
		require.Empty(t, w.dependents(old), label)
		w.restart()
		f.untouched(t)
		refusal = w.refusedToPropose(ActionDestroy, KeyVersion{Label: label, Version: 3})
		require.Equal(t, CodeKeyNeeded, refusal.Code, "it is not retired")
		w.retires(label, 3)
		w.destroys(label, 3)
		w.restart()
		require.Equal(t, KeyDestroyed, w.ring.Load().find(old).Status)
		_, err := w.masterKey(context.Background(), old)
		require.ErrorIs(t, err, seed.ErrKeyNotFound, "the HSM has it no more")
	}
	w.requireNothingFound()
	f.goOn(t, w)
	w.requireNothingFound()
}

func (w *world) viewed(ref seed.KeyRef) KeyView {
	w.t.Helper()
	views, err := w.Service.Keys(context.Background(), alice)
	require.NoError(w.t, err)
	for _, v := range views {
		if v.Key == ref {
			return v
		}
	}
	require.FailNow(w.t, "no such key", "%s", ref)
	return KeyView{}
}

func TestKeysShowsEveryVersionAndWhatDependsOnIt(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.reveal(key(wrapLabel, 2))
	v := w.viewed(key(wrapLabel, 1))
	require.Equal(t, KeyActive, v.Status)
	require.NotEmpty(t, v.KCV)
	require.True(t, v.Present)
	require.Equal(t, Dependents{"token record": 1}, v.Dependents)
	v = w.viewed(key(wrapLabel, 2))
	require.Empty(t, v.Status, "it was made, and never used")
	require.Zero(t, v.Dependents.Total())
	require.Equal(t, Dependents{"token record": 1, "live token": 1, "guess budget": 3}, w.viewed(key(lookupLabel, 1)).Dependents)
	require.Equal(t, Dependents{"token record": 1, "key ring": 1}, w.viewed(key(dataLabel, 1)).Dependents)
	require.Zero(t, w.viewed(key(deriveLabel, 1)).Dependents.Total(), "a seed is never derived again")
	w.ended(p.serial)
	require.Zero(t, w.viewed(key(wrapLabel, 1)).Dependents.Total(), "its seed is forgotten")
	for _, c := range []authz.Caller{branch, mobileBank, coreBanking, auditor} {
		_, err := w.Service.Keys(context.Background(), c)
		require.Equal(t, CodeDenied, CodeOf(err), c.Name)
	}
}

// What cannot be renewed is reported by its serial, and the others are renewed all the same.
func TestWhatCannotBeRenewedIsReported(t *testing.T) {
	w := newWorld(t)
	w.reveal(key(wrapLabel, 2))
	whole, broken, exchanged := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6"), w.enrol(card(3), "counter-6")
	id := w.begins(wrapLabel, 1, 2)
	original := w.row(recordKey(broken.serial))
	w.exchange(broken.serial, exchanged.serial, func(a, _ *record) { a.Seed.Blob[0] ^= 1 })
	v := w.renewsAll(id)
	require.Equal(t, RotationWaiting, v.State)
	require.Equal(t, [...]any{1, []string{broken.serial}, 2, 3}, [...]any{v.Failures, v.Failed, v.Renewed, v.Seen})
	require.Equal(t, Dependents{"token record": 1}, v.Left)
	require.Equal(t, CodeRotationRunning, w.refusedToPropose(ActionRetire, KeyVersion{Label: wrapLabel, Version: 1}).Code)
	require.True(t, w.try(whole, whole.password()).Accepted)

	w.attack([]store.Put{original})
	require.Equal(t, RotationWaiting, w.renewsAll(id).State, "it is tried again after a while, or at once if an officer says so")
	_, err := w.ResumeRotation(context.Background(), alice, id)
	require.NoError(t, err)
	v = w.renewsAll(id)
	require.Equal(t, RotationDone, v.State)
	require.Zero(t, v.Failures)
	require.True(t, w.try(broken, broken.password()).Accepted)
}

// An outage of the HSM ends the work, and it goes on when the HSM is back. An officer pauses and resumes it.
func TestARotationOutlivesOutagesAndPauses(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.reveal(key(wrapLabel, 2))
	p := w.enrol(card(1), "counter-6")
	id := w.begins(wrapLabel, 1, 2)
	w.hsm.setFailing(fmt.Errorf("%w: unplugged", seed.ErrUnavailable))
	require.Equal(t, CodeHSMUnavailable, CodeOf(w.Renew(ctx)))
	require.Equal(t, RotationRunning, w.rotation(id).State)
	paused, err := w.PauseRotation(ctx, alice, id)
	require.NoError(t, err)
	require.Equal(t, RotationPaused, paused.State)
	w.hsm.setFailing(nil)
	require.Equal(t, RotationPaused, w.renewsAll(id).State)
	require.NotEmpty(t, w.dependents(key(wrapLabel, 1)))
	w.restart()
	resumed, err := w.ResumeRotation(ctx, bob, id)
	require.NoError(t, err)
	require.Equal(t, RotationRunning, resumed.State)
	require.Equal(t, RotationDone, w.renewsAll(id).State)
	require.True(t, w.try(p, p.password()).Accepted)
	for _, change := range []func(context.Context, authz.Caller, string) (RotationView, error){w.PauseRotation, w.ResumeRotation} {
		_, err := change(ctx, bob, id)
		require.Equal(t, CodeTransition, CodeOf(err))
		_, err = change(ctx, bob, "0123456789abcdef0123456789abcdef")
		require.Equal(t, CodeRotationNotFound, CodeOf(err))
		_, err = change(ctx, branch, id)
		require.Equal(t, CodeDenied, CodeOf(err))
	}
}

// Labels of which nothing stored needs the old version are rotated by the key ring alone.
func TestRotationsThatMoveNothing(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	for _, label := range []string{deriveLabel, auditLabel, "backup", "import"} {
		w.reveal(key(label, 2))
		w.rotates(label, 1, 2)
		w.retires(label, 1)
	}
	require.True(t, w.try(p, p.password()).Accepted)
	made := w.enrol(card(2), "counter-6")
	tok, err := w.load(context.Background(), made.serial)
	require.NoError(t, err)
	require.Equal(t, key(deriveLabel, 2), *tok.Derive)
	w.requireNothingFound()
}

// Codes and idempotency rows name their version of the digest key. Its rotation waits until they have gone.
func TestARotationOfTheDigestKeyWaitsForCodes(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.reveal(key(digestLabel, 2))
	waits := w.issued(card(1), "offline-60")
	code := w.code(waits)
	r := w.issueRequest(card(2), "offline-60")
	r.IdempotencyKey = "one"
	first, err := w.Issue(ctx, branch, r)
	require.NoError(t, err)
	id := w.begins(digestLabel, 1, 2)
	v := w.renewsAll(id)
	require.Equal(t, RotationWaiting, v.State)
	require.Equal(t, Dependents{"token record": 2, "idempotency row": 1}, v.Left)
	again, err := w.Issue(ctx, branch, r)
	require.NoError(t, err)
	require.Equal(t, first.Serial, again.Serial)
	require.True(t, again.Repeated)
	p := w.newPhone(0)
	_, err = w.Activate(ctx, mobileBank, p.request(card(1), waits, code))
	require.NoError(t, err, "the code that was sent before still counts")

	w.clock.add(73 * time.Hour)
	_, err = w.Expire(ctx)
	require.NoError(t, err)
	require.Equal(t, RotationDone, w.renewsAll(id).State)
	w.retires(digestLabel, 1)
	_, err = w.RenewCode(ctx, branch, first.Serial)
	require.NoError(t, err)
}

// The work is done by one node at a time; whichever has the lease goes on where the other one was.
func TestAnotherNodeGoesOnWithARotation(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	a, b, ctx := nodes[0], nodes[1], context.Background()
	a.reveal(key(wrapLabel, 2))
	for i := range 5 {
		a.enrol(card(i), "counter-6")
	}
	id := a.begins(wrapLabel, 1, 2)
	stop := errors.New("killed")
	var renewed atomic.Int64
	a.store.before = func(c store.Change) error {
		if len(c.Put) == 2 && c.Put[0].Key[:2] == "t/" {
			if renewed.Add(1) > 2 {
				return stop
			}
		}
		return nil
	}
	require.Error(t, a.Renew(ctx))
	a.store.before = nil
	require.NoError(t, b.Renew(ctx))
	require.Equal(t, RotationRunning, b.rotation(id).State, "the first one's lease holds it back")
	b.leaseTerm, a.leaseTerm = time.Millisecond, time.Millisecond
	_, err := a.Service.lease(ctx, rotationJob)
	require.NoError(t, err)
	b.leaseTerm = time.Minute
	require.Eventually(t, func() bool { return b.renewsAll(id).State == RotationDone }, 10*time.Second, 10*time.Millisecond)
	require.Empty(t, b.dependents(key(wrapLabel, 1)))
	a.requireNothingFound()
}
