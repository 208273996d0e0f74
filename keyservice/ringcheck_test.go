package keyservice

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// otherKeys is an HSM in which other keys have the names of these versions.
type otherKeys struct {
	HSM
	refs []seed.KeyRef
}

func (o otherKeys) Keys(ctx context.Context) ([]seed.MasterKey, error) {
	all, err := o.HSM.Keys(ctx)
	for i, m := range all {
		for _, ref := range o.refs {
			if m.Key == ref {
				all[i].KCV = append([]byte{m.KCV[0] ^ 1}, m.KCV[1:]...)
			}
		}
	}
	return all, err
}

// Every label: an HSM with another key of the same name is not used at a start, nor from a change of the ring on.
func TestAnHSMWithAnotherKeyUnderTheNameIsNotUsed(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	p := w.enrol(card(1), "counter-6")
	for _, v := range w.ring.Load().Versions {
		config := w.Config
		config.HSM = otherKeys{w.hsm, []seed.KeyRef{v.Key}}
		_, err := New(ctx, config)
		if v.Public != nil { // another HSM has other key pairs, and nothing is under them
			require.NoError(t, err)
			continue
		}
		require.Equal(t, CodeHSMUnavailable, CodeOf(err), "%s: %v", v.Key, err)
		require.ErrorContains(t, err, "is another key than the one in use")
	}
	config := w.Config
	elsewhere := &otherKeys{w.hsm, nil}
	config.HSM = elsewhere
	other, err := New(ctx, config)
	require.NoError(t, err)
	w.setStatus(key(deriveLabel, 1), KeyActive) // the same statuses, another revision
	elsewhere.refs = []seed.KeyRef{key(lookupLabel, 1)}
	_, err = other.Verify(ctx, coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.Equal(t, CodeHSMUnavailable, CodeOf(err))
	elsewhere.refs = nil
	v, err := other.Verify(ctx, coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.NoError(t, err)
	require.True(t, v.Accepted)
}

// An older key ring carries a right seal. Put back under a running service it would make a retired version usable again.
func TestAnOlderKeyRingIsNotTakenBack(t *testing.T) {
	w := newWorld(t)
	before := w.row(ringKey)
	w.setStatus(key(wrapLabel, 1), KeyRetired)
	w.attack([]store.Put{before})
	_, err := w.Token(context.Background(), authz.Caller{Name: "nobody"}, "402519938461")
	var tam *tampered
	require.ErrorAs(t, err, &tam)
	require.ErrorContains(t, tam, "an older key ring was put back")
	require.Equal(t, KeyRetired, w.ring.Load().find(key(wrapLabel, 1)).Status)
}

// A count of all rows may take longer than the lease: then it is renewed before what was counted is written.
func TestAnActionIsBegunThoughItsCheckOutlivesTheLease(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.actions["test.slow"] = executor{
		check: func(context.Context, approval.Proposal) (*Error, error) { return nil, nil },
		run:   func(context.Context, *execution) (decision, *Error, error) { return decision{}, nil, nil },
	}
	p := w.approve(bob, w.propose(alice, "test.slow", map[string]any{}))
	checks := 0
	w.actions["test.slow"] = executor{
		check: func(context.Context, approval.Proposal) (*Error, error) {
			checks++
			w.clock.add(leaseTerm)
			return nil, nil
		},
		run: w.actions["test.slow"].run,
	}
	ended, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Equal(t, 1, checks)
	require.Equal(t, ProposalDone, w.proposalOf(alice, p.ID).State)
}

// A node whose HSM lacks a key that was rotated to says which, decides nothing, does not search its HSM for each request, and
// goes on by itself once the key is there.
func TestANodeThatLacksTheNewKey(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	a, b, ctx := nodes[0], nodes[1], context.Background()
	b.revealed = &sync.Map{}
	b.hsm.revealed = b.revealed
	p := a.enrol(card(1), "counter-6")
	for _, lacked := range []seed.KeyRef{key(dataLabel, 2), key(sealLabel, 2)} {
		a.rotatedTo(lacked.Label, 2)
		on := *p
		on.w = b
		searched := b.hsm.searched
		for range 5 {
			_, err := b.Verify(ctx, coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: on.at(on.counter)})
			require.Equal(t, CodeHSMUnavailable, CodeOf(err))
			require.ErrorContains(t, err, "lacks "+lacked.String())
			require.ErrorContains(t, b.Renew(ctx), "lacks "+lacked.String())
		}
		require.Equal(t, 1, b.hsm.searched-searched)
		require.True(t, a.try(p, p.password()).Accepted, "the other one has it")

		b.reveal(lacked)
		b.clock.add(lookAgain)
		require.NoError(t, b.Renew(ctx))
		require.True(t, b.try(p, p.password()).Accepted)
	}
	a.requireNothingFound()
}
