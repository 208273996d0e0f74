package keyservice

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// One record that someone put back is enough: retiring or destroying what it needs is refused, with the number.
func TestOneRecordLeftBehindKeepsAKey(t *testing.T) {
	w := newWorld(t)
	w.reveal(key(wrapLabel, 5), key(wrapLabel, 6))
	w.rotates(wrapLabel, 1, 5)
	p, others := w.enrol(card(1), "counter-6"), []*phone{w.enrol(card(2), "counter-6"), w.enrol(card(3), "offline-60")}
	left := []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))}
	w.rotates(wrapLabel, 5, 6)
	now := []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))}

	w.attack(left)
	refusal := w.refusedToPropose(ActionRetire, KeyVersion{Label: wrapLabel, Version: 5})
	require.Equal(t, CodeKeyNeeded, refusal.Code)
	require.Contains(t, refusal.Detail, "1 rows depend on ramzban/wrap/5: 1 token record")
	w.attack(now)
	w.retires(wrapLabel, 5)
	approved := w.approve(bob, w.propose(alice, ActionDestroy, KeyVersion{Label: wrapLabel, Version: 5}))
	w.attack(left)
	ended, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	failed := w.proposalOf(alice, approved.ID)
	require.Equal(t, ProposalFailed, failed.State)
	require.Contains(t, failed.Result, "1 rows depend on ramzban/wrap/5: 1 token record")
	require.Equal(t, KeyRetired, w.ring.Load().find(key(wrapLabel, 5)).Status)
	_, err = w.masterKey(context.Background(), key(wrapLabel, 5))
	require.NoError(t, err, "the HSM still has it")
	w.restart()
	require.True(t, w.try(p, p.password()).Accepted, "and whoever needs it notices nothing")

	w.attack(now)
	w.destroys(wrapLabel, 5)
	w.attack(left)
	w.restart()
	_, err = w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.Equal(t, CodeKeyDestroyed, CodeOf(err), "reported, not guessed at")
	_, err = w.Token(context.Background(), branch, p.serial)
	require.Equal(t, CodeKeyDestroyed, CodeOf(err))
	for _, p := range others {
		w.clock.add(time.Minute)
		require.True(t, w.try(p, p.password()).Accepted)
	}
}

func TestWhichKeysCanBeRotatedTo(t *testing.T) {
	w := newWorld(t)
	for why, c := range map[string]struct {
		want KeyRotation
		code Code
	}{
		"no such label":      {KeyRotation{Label: "wrapp", From: 1, To: 2}, CodeKeyUnknown},
		"not in the HSM":     {KeyRotation{Label: wrapLabel, From: 1, To: 2}, CodeKeyUnknown},
		"not the active one": {KeyRotation{Label: wrapLabel, From: 2, To: 3}, CodeProposalClosed},
		"the same":           {KeyRotation{Label: wrapLabel, From: 1, To: 1}, CodeInvalid},
	} {
		require.Equal(t, c.code, w.refusedToPropose(ActionRotate, c.want).Code, why)
	}
	for action, code := range map[string]Code{ActionRetire: CodeKeyNeeded, ActionDestroy: CodeKeyNeeded} {
		require.Equal(t, code, w.refusedToPropose(action, KeyVersion{Label: wrapLabel, Version: 1}).Code)
		require.Equal(t, CodeKeyUnknown, w.refusedToPropose(action, KeyVersion{Label: wrapLabel, Version: 9}).Code)
	}
	require.Equal(t, CodeDocumentInvalid, w.refusedToPropose(ActionRotate, KeyVersion{Label: wrapLabel, Version: 1}).Code)
}

// damagedIn makes a token's record one whose seed does not come out of its wrapping, though its seal is right.
func (w *world) damagedIn(p, other *phone) {
	w.exchange(p.serial, other.serial, func(a, _ *record) { a.Seed.Blob[0] ^= 1 })
}

// endless is a rotation of wrap, and what it can never renew: a token with a damaged seed, and a row that is none.
func (w *world) endless(from, to uint32) (id string, broken, whole *phone) {
	w.reveal(key(wrapLabel, to))
	whole, broken = w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
	id = w.begins(wrapLabel, from, to)
	w.damagedIn(broken, w.enrol(card(3), "counter-6"))
	w.attack([]store.Put{{Key: "x/garbage", Value: []byte{0xff}}})
	v := w.renewsAll(id)
	require.Equal(w.t, RotationWaiting, v.State)
	require.Equal(w.t, Dependents{"token record": 1, "damaged row": 1}, v.Left)
	return id, broken, whole
}

// What is damaged keeps no version for ever, if two officers accept just so many rows; and whatever is not damaged still does.
func TestDamagedRowsCanBeAccepted(t *testing.T) {
	w := newWorld(t)
	w.rotatedTo(wrapLabel, 11)
	old := key(wrapLabel, 11)
	id, broken, whole := w.endless(11, 12)
	require.Equal(t, CodeRotationRunning, w.refusedToPropose(ActionRetire, KeyVersion{wrapLabel, 11, 0}).Code)
	refusal := w.refusedToPropose(ActionRetire, KeyVersion{wrapLabel, 11, 1})
	require.Equal(t, CodeKeyNeeded, refusal.Code)
	require.Contains(t, refusal.Detail, "2 rows depend on ramzban/wrap/11: 1 damaged row, 1 token record (token record "+broken.serial+", other row); accepted are 1 damaged ones")
	for _, n := range []int{-1, MaxAccepted + 1} {
		require.Equal(t, CodeDocumentInvalid, w.refusedToPropose(ActionRetire, KeyVersion{wrapLabel, 11, n}).Code)
	}
	before, err := w.loadRotation(context.Background(), id)
	require.NoError(t, err)
	done := w.agreed(ActionRetire, KeyVersion{wrapLabel, 11, 2})
	require.Equal(t, ProposalDone, done.State, done.Result)
	require.Equal(t, "ramzban/wrap/11 is retired; accepted as damaged: 1 damaged row, 1 token record", done.Result)
	lease, err := w.Service.lease(context.Background(), rotationJob)
	require.NoError(t, err)
	require.NoError(t, (&renewal{Service: w.Service, lease: lease, row: before}).save(context.Background()))
	require.Equal(t, RotationDone, w.rotation(id).State, "it is over with that, also for who was at work on it")

	require.Equal(t, CodeKeyNeeded, w.refusedToPropose(ActionDestroy, KeyVersion{wrapLabel, 11, 1}).Code)
	log := len(w.entries())
	done = w.agreed(ActionDestroy, KeyVersion{wrapLabel, 11, 2})
	require.Equal(t, ProposalDone, done.State, done.Result)
	require.Equal(t, "ramzban/wrap/11 is destroyed in the HSM of node-1; backups from before "+birth.UTC().Format(time.RFC3339)+" may need it", done.Result)
	require.Condition(t, func() bool {
		return slices.ContainsFunc(w.entries()[log:], func(e LoggedEntry) bool {
			return e.Outcome == audit.Begun && strings.HasSuffix(e.Detail, "; accepted as damaged: 1 damaged row, 1 token record")
		})
	})
	require.Equal(t, KeyDestroyed, w.ring.Load().find(old).Status)
	w.restart()
	_, err = w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: broken.serial, Use: "second-pin", OTP: broken.password()})
	require.Equal(t, CodeTampered, CodeOf(err), "reported, not guessed at")
	require.True(t, w.try(whole, whole.password()).Accepted)
}

// A row that is not damaged is never among those that are accepted.
func TestAWholeRowIsNotAcceptedAsDamaged(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	left := []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))}
	w.rotatedTo(wrapLabel, 8)
	w.attack(left)
	refusal := w.refusedToPropose(ActionRetire, KeyVersion{wrapLabel, 1, 5})
	require.Equal(t, CodeKeyNeeded, refusal.Code)
	require.Contains(t, refusal.Detail, "not all are damaged: token record "+p.serial)
	p.counter = 0
	require.True(t, w.try(p, p.password()).Accepted)
}

// Nor is a checkpoint, which is no row under a seal: before the next one is signed, the key that signed it is needed.
func TestACheckpointIsNotAcceptedAsDamaged(t *testing.T) {
	w := newWorld(t)
	w.signed()
	w.reveal(key(auditLabel, 2))
	require.Equal(t, Dependents{"checkpoint": 1}, w.renewsAll(w.begins(auditLabel, 1, 2)).Left)
	refusal := w.refusedToPropose(ActionRetire, KeyVersion{auditLabel, 1, 1})
	require.Equal(t, CodeKeyNeeded, refusal.Code)
	require.Contains(t, refusal.Detail, "1 rows depend on ramzban/audit/1: 1 checkpoint; not all are damaged: checkpoint")
	w.signed()
	require.Equal(t, ProposalDone, w.agreed(ActionRetire, KeyVersion{auditLabel, 1, 1}).State)
}

// A rotation may be begun with a number of damaged rows that are accepted: then it ends by itself.
func TestARotationThatAcceptsDamage(t *testing.T) {
	w := newWorld(t)
	w.reveal(key(wrapLabel, 8))
	broken, other := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
	done := w.agreed(ActionRotate, KeyRotation{Label: wrapLabel, From: 1, To: 8, AcceptDamaged: 1})
	require.Equal(t, ProposalDone, done.State, done.Result)
	w.damagedIn(broken, other)
	v := w.renewsAll(done.ID)
	require.Equal(t, [...]any{RotationDone, Dependents{"token record": 1}, []string{broken.serial}}, [...]any{v.State, v.Left, v.Failed})
}

// A proposal is no way to keep a node busy: the limit of a day comes before any count, and where nothing is counted the
// execution refuses what depends on the key, with the number.
func TestAProposalCountsOnlyAtAGlance(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	left := []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))}
	w.rotatedTo(wrapLabel, 8)
	w.attack(left)
	tooEarly := KeyVersion{Label: wrapLabel, Version: 1}
	require.Equal(t, CodeKeyNeeded, w.refusedToPropose(ActionRetire, tooEarly).Code)

	require.True(t, w.scan.try())
	proposed := w.propose(alice, ActionRetire, tooEarly)
	w.scan.done()
	w.approve(bob, proposed)
	_, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	failed := w.proposalOf(alice, proposed.ID)
	require.Equal(t, ProposalFailed, failed.State)
	require.Contains(t, failed.Result, "1 rows depend on ramzban/wrap/1: 1 token record")

	w.looks.taken = maxProposalsADay
	for range maxProposalsADay - 2 { // a rotation was proposed, and this
		w.propose(alice, ActionRetire, tooEarly)
	}
	require.Equal(t, CodeProposalsPending, w.refusedToPropose(ActionRetire, tooEarly).Code)
	w.looks.taken = 0
	require.Equal(t, CodeProposalsPending, w.refusedToPropose(ActionRetire, tooEarly).Code)
	require.Zero(t, w.looks.taken, "the limit comes first")
}

// A count that takes longer than the lease keeps it meanwhile: it is not begun again, here or at another node.
func TestACountOutlastsTheLease(t *testing.T) {
	w := newCluster(t, 0)[0] // whose leases end by the database's clock
	w.rotatedTo(deriveLabel, 2)
	approved := w.approve(bob, w.propose(alice, ActionRetire, KeyVersion{Label: deriveLabel, Version: 1}))
	w.leaseTerm = 400 * time.Millisecond
	require.True(t, w.scan.try())
	var kept atomic.Int64
	w.store.before = func(c store.Change) error {
		if len(c.Put) == 1 && c.Put[0].Key == leaseKey(proposalsJob) && kept.Add(1) == 3 {
			w.scan.done() // whoever read the database before is through
		}
		return nil
	}
	_, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	require.Equal(t, ProposalDone, w.proposalOf(alice, approved.ID).State)
	require.GreaterOrEqual(t, kept.Load(), int64(3))

	calls := 0
	often := w.nowAndThen(func(context.Context) error { calls++; return nil })
	for begun := time.Now(); time.Since(begun) < w.leaseTerm; {
		require.NoError(t, often(context.Background()))
	}
	require.Positive(t, calls, "a long count renews it as well")
	require.Less(t, calls, 5, "but not for each row")
}

// erasable is a world in which wrap/version can be destroyed.
func erasable(t *testing.T, version uint32) (*world, ProposalView) {
	w := newWorld(t)
	w.rotatedTo(wrapLabel, version)
	w.rotatedTo(wrapLabel, 8)
	w.retires(wrapLabel, version)
	return w, w.approve(bob, w.propose(alice, ActionDestroy, KeyVersion{Label: wrapLabel, Version: version}))
}

// An HSM that does not destroy a key is asked again ever more rarely; officers see it, and nothing else waits for it.
func TestAKeyThatTheHSMDoesNotDestroy(t *testing.T) {
	w, p := erasable(t, 13)
	ref, ctx := key(wrapLabel, 13), context.Background()
	asked := 0
	w.hsm.destroying = func(seed.KeyRef) error { asked++; return errors.New("CKR_FUNCTION_NOT_SUPPORTED") }
	for range 3 {
		_, err := w.CarryOut(ctx)
		require.NoError(t, err)
		require.NoError(t, w.Renew(ctx))
	}
	require.Equal(t, 2, asked, "once, and once after looking for it again")
	require.Equal(t, ProposalRunning, w.proposalOf(alice, p.ID).State)
	v := w.viewed(ref)
	require.Equal(t, [...]any{KeyDestroyed, true, "CKR_FUNCTION_NOT_SUPPORTED"}, [...]any{v.Status, v.Present, v.NotErased})
	for range 600 {
		w.clock.add(time.Second)
		require.NoError(t, w.Renew(ctx))
	}
	require.LessOrEqual(t, asked, 2*7, "10 s, 20 s, 40 s …")
	w.rotatedTo(deriveLabel, 2)

	w.hsm.destroying = nil
	w.clock.add(eraseLate)
	ended, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Equal(t, ProposalDone, w.proposalOf(alice, p.ID).State)
	_, err = w.masterKey(ctx, ref)
	require.ErrorIs(t, err, seed.ErrKeyNotFound)
	require.Empty(t, w.viewed(ref).NotErased)
}

// A destruction that the HSM still refuses when its proposal's time is over has not failed: the key ring says destroyed.
func TestADestructionWhoseErasureIsPending(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.rotatedTo(deriveLabel, 2)
	w.retires(deriveLabel, 1)
	p := w.approve(bob, w.propose(alice, ActionDestroy, KeyVersion{Label: deriveLabel, Version: 1}))
	w.hsm.destroying = func(seed.KeyRef) error { return errors.New("CKR_FUNCTION_NOT_SUPPORTED") }
	_, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, ProposalRunning, w.proposalOf(alice, p.ID).State)
	w.clock.add(approval.DefaultLife + runLimit + time.Second)
	ended, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	p = w.proposalOf(alice, p.ID)
	require.Equal(t, ProposalDone, p.State, p.Result)
	require.Contains(t, p.Result, "ramzban/derive/1 is destroyed, and its erasure pending")
	w.hsm.destroying = func(seed.KeyRef) error { return seed.ErrKeyNotFound } // it is erased
	w.clock.add(eraseLate)
	require.NoError(t, w.Renew(ctx))
	require.Empty(t, w.viewed(key(deriveLabel, 1)).NotErased)
}

// A node that is killed between the ring's word and the HSM's destroys the key at its next start.
func TestADestructionIsCompletedAfterACrash(t *testing.T) {
	w, p := erasable(t, 14)
	ref, ctx := key(wrapLabel, 14), context.Background()
	w.store.after = func(c store.Change) error {
		if e, err := audit.Decode(c.Entry); err != nil || e.Action == ActionDestroy && len(c.Put) == 1 && c.Put[0].Key == ringKey {
			return errors.Join(store.ErrUnknown, err) // and nobody hears of it
		}
		return nil
	}
	_, err := w.CarryOut(ctx)
	require.Error(t, err)
	w.store.after = nil
	_, err = w.masterKey(ctx, ref)
	require.NoError(t, err, "it is still there")
	w.restart()
	require.Equal(t, KeyDestroyed, w.ring.Load().find(ref).Status)
	require.NoError(t, w.Renew(ctx))
	_, err = w.masterKey(ctx, ref)
	require.ErrorIs(t, err, seed.ErrKeyNotFound)
	ended, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Equal(t, ProposalDone, w.proposalOf(alice, p.ID).State)
}
