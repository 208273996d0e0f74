package keyservice

import (
	"context"
	"crypto/sha256"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

func (w *world) remove(serial string, proof []byte) error {
	return second(w.Remove(context.Background(), mobileBank, RemoveRequest{Serial: serial, Proof: proof}))
}

func (p *phone) removal() []byte {
	sum := sha256.Sum256(p.der)
	return p.mac(RemoveMessage(p.serial, sum[:]))
}

// lastEntry says what the log has of the last decision; reading the log is one more.
func (w *world) lastEntry(a authz.Action, c authz.Caller, outcome audit.Outcome, serial string) {
	log := w.entries()
	e := log[len(log)-2]
	require.Equal(w.t, []any{string(a), c.Name, outcome, serial}, []any{e.Action, e.Actor, e.Outcome, e.Serial})
}

// A phone gives its token up, with the HMAC of every hash; all that a deactivation does follows.
func TestThePhoneThatHoldsATokenGivesItUp(t *testing.T) {
	w := newWorld(t)
	for _, profile := range []string{"offline-60", "sha-256", "sha-512", "counter-6"} {
		p := w.enrol(card(1), profile)
		tok, err := w.load(context.Background(), p.serial)
		require.NoError(t, err)
		status, err := w.Remove(context.Background(), mobileBank, RemoveRequest{Serial: p.serial, Proof: p.removal()})
		require.NoError(t, err)
		require.Equal(t, Deactivated, status)
		w.lastEntry(authz.RemoveToken, mobileBank, audit.Done, p.serial)

		require.Equal(t, ReasonNotActive, w.try(p, p.password()).Reason)
		live, err := w.db.Get(context.Background(), liveKey(tok.Class, tok.kind(), tok.Subject))
		require.NoError(t, err)
		require.Zero(t, live[0].Version, "the subject may have another token")
		tok, err = w.load(context.Background(), p.serial)
		require.NoError(t, err)
		require.Nil(t, tok.Seed)
		require.Equal(t, CodeTransition, CodeOf(w.remove(p.serial, p.removal())), "for ever")
	}
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
}

// A removal ends offline passwords alone: SMS passwords go on.
func TestARemovalLeavesTheSMSTokenAlone(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.optedIn(card(1), "second-pin")
	code := w.ask(card(1), nil)
	require.NoError(t, w.remove(p.serial, p.removal()))
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), p.password())).Reason)
	require.True(t, w.verify(bySubject(card(1), code.typed())).Accepted)
}

// Only this proof will do, and nothing changes by a wrong one.
func TestOnlyTheProofOfThisPhoneRemoves(t *testing.T) {
	w := newWorld(t)
	p, other := w.enrol(card(1), "offline-60"), w.enrol(card(2), "offline-60")
	right := p.removal()
	sum := sha256.Sum256(p.der)
	before := []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))}
	for name, wrong := range map[string][]byte{
		"the confirmation's":  p.proof(),
		"another phone's":     other.removal(),
		"of another serial":   p.mac(RemoveMessage(other.serial, sum[:])),
		"of another key":      p.mac(RemoveMessage(p.serial, make([]byte, sha256.Size))),
		"one bit off":         append([]byte{right[0] ^ 1}, right[1:]...),
		"cut short":           right[:10],
		"with something more": append(append([]byte{}, right...), 0),
		"zeroes":              make([]byte, len(right)),
	} {
		require.Equal(t, CodeProofWrong, CodeOf(w.remove(p.serial, wrong)), name)
		w.lastEntry(authz.RemoveToken, mobileBank, audit.Refused, p.serial)
	}
	require.Equal(t, CodeInvalid, CodeOf(w.remove(p.serial, nil)))
	require.Equal(t, before, []store.Put{w.row(recordKey(p.serial)), w.row(stateRowKey(p.serial))})
	pending, issued := w.newPhone(1), w.issued(card(3), "offline-60")
	activated, err := w.Activate(context.Background(), mobileBank, pending.request(card(3), issued, w.code(issued)))
	require.NoError(t, err)
	pending.receive(activated)
	_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: pending.serial, Proof: pending.removal()})
	require.Equal(t, CodeProofWrong, CodeOf(err), "nor does it confirm")
	require.NoError(t, w.remove(p.serial, right))
}

// A token that is not on a phone is the issuer's to end; the refusal says so.
func TestWhatNoPhoneHoldsIsNotRemoved(t *testing.T) {
	w := newWorld(t)
	for i, channel := range []string{ChannelHardware, ChannelSMS} {
		c := w.customer(channel, card(i))
		c.become(Active)
		err := w.remove(c.serial, make([]byte, 20))
		require.Equal(t, CodeInvalid, CodeOf(err))
		require.ErrorContains(t, err, "let the issuer deactivate it")
		require.Equal(t, Active, w.shown(c.serial).Status)
	}
	issued := w.issued(card(7), "offline-60")
	require.Equal(t, CodeTransition, CodeOf(w.remove(issued.Serial, make([]byte, 20))))
}

func TestOnlyTheActivatorRemoves(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for _, c := range []authz.Caller{branch, smsGateway, coreBanking, auditor, {}} {
		_, err := w.Remove(context.Background(), c, RemoveRequest{Serial: p.serial, Proof: p.removal()})
		require.Equal(t, CodeDenied, CodeOf(err), c.Name)
	}
	_, err := w.Deactivate(context.Background(), mobileBank, p.serial)
	require.Equal(t, CodeDenied, CodeOf(err))
	require.True(t, w.try(p, p.password()).Accepted)
}

// Any edit of any field of its rows is seen and alarmed, and ends nothing.
func TestATamperedTokenIsNotRemoved(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	tok, err := w.load(context.Background(), p.serial)
	require.NoError(t, err)
	for _, key := range []store.Key{recordKey(p.serial), stateRowKey(p.serial), liveKey(tok.Class, tok.kind(), tok.Subject)} {
		original := w.row(key)
		for what, edited := range w.edits(key) {
			w.attack([]store.Put{edited})
			require.Equal(t, CodeTampered, CodeOf(w.remove(p.serial, p.removal())), "%.2s%s", key, what)
			w.attack([]store.Put{original})
		}
	}
	require.True(t, w.try(p, p.password()).Accepted)
}

// Without the HSM nothing is decided; a lost commit is decided anew.
func TestARemovalOutlivesFaults(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.hsm.fail = seed.ErrUnavailable
	require.Equal(t, CodeHSMUnavailable, CodeOf(w.remove(p.serial, p.removal())))
	w.hsm.fail = nil
	lost := 0
	w.store.before = func(store.Change) error {
		if lost++; lost == 1 {
			return store.ErrConflict
		}
		return nil
	}
	require.NoError(t, w.remove(p.serial, p.removal()))
	require.Equal(t, Deactivated, w.shown(p.serial).Status)
}
