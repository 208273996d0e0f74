package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

// A phone whose clock runs ahead by the whole drift bound, and a password of it that was used after the backup, at the last
// moment: it is not accepted again, and neither is any before it; the first one after the fence is.
func TestAUsedPasswordStaysUsedAfterARestore(t *testing.T) {
	bothWays(t, func(t *testing.T, complete bool) {
		for _, profile := range []string{"offline-60", "sha-256"} {
			w := newWorld(t)
			p := w.enrol(card(1), profile)
			policy := policies()[profile]
			p.drift = policy.DriftBound
			w.resynced(p)
			w.clock.add(2 * policy.Period)
			file := w.takeBackup()
			used := p.password()
			require.True(t, w.try(p, used).Accepted)

			after, result := w.lostNow(file, complete).restored()
			require.Equal(t, complete, result.Complete)
			q := p.on(after)
			if !complete {
				require.Equal(t, ReasonNotActive, after.try(q, used).Reason, "suspended")
				after.resume(p.serial)
			}
			last := q.factor() // the latest step that could have been accepted before the restore
			for step := last - 10; step <= last; step++ {
				require.False(t, after.try(q, q.at(step)).Accepted, "step %d of %d", step, last)
			}
			require.False(t, after.pairAt(q, last-1).Accepted, "nor as a pair")
			_, err := after.Unlock(context.Background(), branch, p.serial)
			require.NoError(t, err)
			after.clock.add(policy.DriftBound + policy.Validity + policy.Period)
			require.True(t, after.try(q, q.password()).Accepted, "it is found again after the fence")
			after.requireNothingFound()
		}
	})
}

// resynced lets the service learn where the phone's clock or counter is.
func (w *world) resynced(p *phone) {
	w.t.Helper()
	factor := p.factor()
	p.counter += 2
	if !p.policy.Counted() {
		factor--
	}
	require.True(w.t, w.pairAt(p, factor).Accepted)
}

// pairAt sends the pair of passwords that begins with this factor.
func (w *world) pairAt(p *phone, factor uint64) ResyncVerdict {
	w.t.Helper()
	v, err := w.Resync(context.Background(), mobileBank, ResyncRequest{Serial: p.serial, First: p.at(factor), Second: p.at(factor + 1)})
	require.NoError(w.t, err)
	return v
}

// A counter's passwords that were used after the backup stay used. Without the archive nobody knows where the counter is: the
// pair that an attacker has seen is refused, and uses itself up; the device's next two pairs find it.
func TestAUsedPairStaysUsedAfterARestore(t *testing.T) {
	bothWays(t, func(t *testing.T, complete bool) {
		w := newWorld(t)
		p := w.enrol(card(1), "counter-6")
		require.True(t, w.try(p, p.password()).Accepted)
		file := w.takeBackup()
		pair := p.counter
		w.resynced(p)
		one := p.counter
		require.True(t, w.try(p, p.password()).Accepted)

		after, result := w.lostNow(file, complete).restored()
		q := p.on(after)
		if complete {
			require.Equal(t, ReasonAlreadyUsed, after.try(q, q.at(one)).Reason)
			require.False(t, after.pairAt(q, pair).Accepted)
			require.False(t, after.try(q, q.at(pair)).Accepted)
			require.True(t, after.try(q, q.password()).Accepted)
			after.requireNothingFound()
			return
		}
		require.Equal(t, fateAstray, result.whyOf(p.serial))
		require.Equal(t, ReasonNotActive, after.pairAt(q, pair).Reason, "suspended")
		after.resume(p.serial)
		require.Equal(t, ReasonAstray, after.try(q, q.at(one)).Reason)
		require.Equal(t, ReasonAstray, after.pairAt(q, pair).Reason)
		require.Equal(t, ReasonMismatch, after.pairAt(q, pair).Reason, "it is used up")
		require.Equal(t, ReasonAstray, after.try(q, q.at(one)).Reason)
		after.resynced(q)
		require.Equal(t, ReasonAlreadyUsed, after.try(q, q.at(q.counter-1)).Reason)
		require.False(t, after.try(q, q.at(one)).Accepted)
		require.True(t, after.try(q, q.password()).Accepted)
		after.requireNothingFound()
	})
}

// Nothing that ended lives again, and nothing that was half done goes on.
func TestARestoreRevivesNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, complete bool) {
		w, ctx := newWorld(t), context.Background()
		ended, removed, suspended := w.enrol(card(1), "counter-6"), w.enrol(card(2), "offline-60"), w.enrol(card(3), "counter-6")
		issued, waiting := w.issued(card(4), "offline-60"), w.issued(card(5), "offline-60")
		code, unused := w.code(issued), w.code(waiting)
		halfway, phone := w.issued(card(6), "offline-60"), w.newPhone(1)
		request := phone.request(card(6), halfway, w.code(halfway))
		activated, err := w.Activate(ctx, mobileBank, request)
		require.NoError(t, err)
		phone.receive(activated)

		file := w.takeBackup()
		_, err = w.Deactivate(ctx, branch, ended.serial)
		require.NoError(t, err)
		_, err = w.DeactivateSubject(ctx, branch, ClassCard, seed.NewSubject(card(2)))
		require.NoError(t, err)
		_, err = w.Suspend(ctx, branch, suspended.serial)
		require.NoError(t, err)
		late := w.newPhone(2)
		_, err = w.Activate(ctx, mobileBank, late.request(card(4), issued, code))
		require.NoError(t, err)
		newcomer := w.enrol(card(7), "offline-60")

		after, result := w.lostNow(file, complete).restored()
		require.Equal(t, Suspended, after.status(suspended.serial))
		if complete {
			require.Equal(t, Deactivated, after.status(ended.serial))
			require.Equal(t, Deactivated, after.status(removed.serial))
			require.Equal(t, Issued, after.status(waiting.Serial))
			require.Equal(t, fateSeedLost, result.whyOf(issued.Serial))
			require.Contains(t, result.whyOf(newcomer.serial), "issued after the backup")
			require.Equal(t, 2, result.Gone)
			_, err = after.Confirm(ctx, mobileBank, ConfirmRequest{Serial: phone.serial, Proof: phone.on(after).proof()})
			require.NoError(t, err, "what a device holds it can still prove")
		} else {
			require.Equal(t, Suspended, after.status(ended.serial))
			require.Equal(t, Suspended, after.status(removed.serial))
			require.Equal(t, Deactivated, after.status(waiting.Serial))
			require.Equal(t, Deactivated, after.status(halfway.Serial))
			require.Equal(t, 3, result.Gone)
		}
		require.Equal(t, Deactivated, after.status(issued.Serial))
		after.issued(card(4), "offline-60")
		after.issued(card(7), "offline-60")

		for i, r := range []ActivateRequest{
			late.request(card(4), issued, code), w.newPhone(3).request(card(5), waiting, unused), request,
		} {
			_, err = after.Activate(ctx, mobileBank, r)
			require.Error(t, err, "%d", i)
		}
		_, err = after.CollectCode(ctx, smsGateway, waiting.Activation.ID)
		require.Equal(t, CodeCodeNotFound, CodeOf(err))
		if complete {
			renewed, err := after.RenewCode(ctx, branch, waiting.Serial)
			require.NoError(t, err)
			after.code(renewed)
		}
		after.requireNothingFound()
	})
}

// SMS passwords that wait, answers under idempotency keys and proposals die.
func TestWhatWaitsDiesWithARestore(t *testing.T) {
	bothWays(t, func(t *testing.T, complete bool) {
		w, ctx := newWorld(t), context.Background()
		p := w.enrol(card(1), "counter-6")
		typed := p.password()
		first, err := w.keyed("key", p, typed)
		require.NoError(t, err)
		require.True(t, first.Accepted)
		proposed := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
		l := w.lostNow(w.takeBackup(), complete)
		after, _ := l.restored()
		if !complete {
			after.resume(p.serial)
		}
		v, err := after.keyed("key", p.on(after), typed)
		require.NoError(t, err)
		require.False(t, v.Accepted)
		require.False(t, v.Repeated)

		require.Equal(t, ProposalFailed, after.proposalOf(alice, proposed.ID).State)
		_, err = after.Approve(ctx, bob, proposed.ID, w.signedApproval(bob, proposed.Signed.Document))
		require.Equal(t, CodeProposalClosed, CodeOf(err))
		older := w.signedProposal(alice, ActionOfficers, w.newOfficers("alice", "bob"))
		_, err = after.Propose(ctx, alice, older)
		require.Equal(t, CodeProposalClosed, CodeOf(err), "it may have been carried out before")
		after.clock.add(time.Minute)
		after.propose(alice, ActionOfficers, after.newOfficers("alice", "bob"))
		after.requireNothingFound()
	})
}

// Who was no officer any more when the log ended cannot restore, and does not become one again; what was proposed meanwhile is
// not carried out, nor taken again.
func TestOfficersAreThoseOfTheLogsEnd(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	file := w.takeBackup()
	require.Equal(t, ProposalDone, w.agreed(ActionOfficers, w.newOfficers("alice", "carol")).State)
	waiting := w.propose(alice, ActionOfficers, w.newOfficers("alice", "carol", "zoe"))
	l := w.lostNow(file, true)
	_, err := l.run(places["badger"](t))
	require.Equal(t, CodeNotOfficer, CodeOf(err), "bob, who approves it")
	l.by[1] = carol
	after, _ := l.restored()
	require.Equal(t, []string{"alice", "carol"}, after.officers())
	require.Equal(t, ProposalFailed, after.proposalOf(alice, waiting.ID).State)
	_, err = after.Propose(ctx, alice, waiting.Signed)
	require.Error(t, err)
	after.requireNothingFound()
}
