package keyservice

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

func (w *world) endAllOf(subject string) ([]string, error) {
	return w.DeactivateSubject(context.Background(), branch, ClassCard, seed.NewSubject(subject))
}

// both gives a card an offline and an SMS token with a password that was asked for.
func (w *world) both(subject string) (offline, sms *customer) {
	sms = w.customer(ChannelSMS, subject)
	offline = w.customer(ChannelApp, subject)
	offline.become(Active)
	return offline, sms
}

func TestAllOfASubjectEndsInOneCommit(t *testing.T) {
	w := newWorld(t)
	offline, sms := w.both(card(1))
	bystander := w.enrol(card(2), "offline-60")
	before := len(w.entries())
	ended, err := w.endAllOf(card(1))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{offline.serial, sms.serial}, ended)
	for _, c := range []*customer{offline, sms} {
		require.Equal(t, Deactivated, w.shown(c.serial).Status)
		require.Equal(t, gone, operations["collect"](c))
		require.Equal(t, miss, operations["by subject"](c))
	}
	require.True(t, w.try(bystander, bystander.password()).Accepted)

	e := w.entries()[before]
	require.Equal(t, string(authz.EndSubject), e.Action)
	require.Len(t, e.Also, 1, "one entry names both")
	require.ElementsMatch(t, ended, []string{e.Serial, e.Also[0].Serial})
	require.NotEmpty(t, e.Also[0].Commitment)
	require.NotEqual(t, e.Commitment, e.Also[0].Commitment, "each token has a salt of its own")

	before = len(w.entries())
	ended, err = w.endAllOf(card(1))
	require.NoError(t, err)
	require.Equal(t, []string{}, ended)
	ended, err = w.endAllOf(card(3))
	require.NoError(t, err)
	require.Equal(t, []string{}, ended)
	require.Equal(t, "subject.deactivate done", fmt.Sprintf("%s %s%s", w.entries()[before+1].Action, w.entries()[before+1].Outcome, w.entries()[before+1].Serial), "logged too")
	w.both(card(1))
}

func TestWhoMayEndASubjectAndWhich(t *testing.T) {
	w := newWorld(t)
	w.both(card(1))
	for _, c := range []authz.Caller{mobileBank, smsGateway, coreBanking, auditor, {}} {
		_, err := w.DeactivateSubject(context.Background(), c, ClassCard, seed.NewSubject(card(1)))
		require.Equal(t, CodeDenied, CodeOf(err), c.Name)
	}
	for class, subject := range map[string]string{ClassCard: "6037991234567890", ClassAccount: "a/b"} {
		_, err := w.DeactivateSubject(context.Background(), branch, class, seed.NewSubject(subject))
		require.Equal(t, CodeSubjectInvalid, CodeOf(err))
	}
	_, err := w.DeactivateSubject(context.Background(), branch, "gateway", seed.NewSubject(card(1)))
	require.Equal(t, CodeInvalid, CodeOf(err))
	ended, err := w.DeactivateSubject(context.Background(), branch, ClassAccount, seed.NewSubject(card(1)))
	require.NoError(t, err)
	require.Empty(t, ended, "an account of the same digits is another subject")
}

// Whatever the store does, both tokens end or neither.
func TestNothingIsHalfEnded(t *testing.T) {
	w := newWorld(t)
	offline, sms := w.both(card(1))
	commits := 0
	w.store.before = func(c store.Change) error {
		commits++
		records := 0
		for _, p := range c.Put {
			if strings.HasPrefix(string(p.Key), "t/") {
				records++
			}
		}
		require.Equal(t, 2, records, "both in one commit")
		return store.ErrFailed
	}
	_, err := w.endAllOf(card(1))
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
	require.Equal(t, 1, commits)
	w.store.before = nil
	w.reopen()
	require.Equal(t, "ok", operations["by subject"](offline))
	require.Equal(t, "ok", operations["by subject"](sms), "nothing happened")

	w.store.after = func(store.Change) error { return store.ErrUnknown }
	_, err = w.endAllOf(card(1))
	require.Equal(t, CodeOutcomeUnknown, CodeOf(err))
	w.reopen()
	for _, c := range []*customer{offline, sms} {
		require.Equal(t, Deactivated, w.shown(c.serial).Status)
		require.Equal(t, miss, operations["by subject"](c))
	}
	ended, err := w.endAllOf(card(1))
	require.NoError(t, err)
	require.Empty(t, ended)
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
}

// A token that is issued, or ended, while the subject is being ended changes nothing of the result.
func TestASubjectsTokensMayChangeMeanwhile(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	var late IssuedToken
	w.store.before = func(store.Change) error {
		w.store.before = nil
		late = w.issued(card(1), "offline-60")
		return nil
	}
	ended, err := w.endAllOf(card(1))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{sms.Serial, late.Serial}, ended)

	first := w.issued(card(1), "offline-60")
	replaced := false
	var second IssuedToken
	w.store.before = func(store.Change) error {
		if replaced {
			return nil
		}
		replaced = true
		other := &Service{Config: w.Config, sealed: w.sealed} // another node: it has locks of its own
		other.ring.Store(w.ring.Load())
		_, err := other.Deactivate(context.Background(), branch, first.Serial)
		require.NoError(t, err)
		second = w.issued(card(1), "offline-60")
		return nil
	}
	ended, err = w.endAllOf(card(1))
	require.NoError(t, err)
	require.Equal(t, []string{second.Serial}, ended)
}

// The log knows both tokens of the one entry: older rows of either, put back, are found.
func TestEitherTokensOlderRowsAreFound(t *testing.T) {
	w := newWorld(t)
	offline, sms := w.both(card(1))
	older := map[string][]store.Put{}
	for _, c := range []*customer{offline, sms} {
		older[c.serial] = []store.Put{w.row(recordKey(c.serial)), w.row(stateRowKey(c.serial))}
	}
	_, err := w.endAllOf(card(1))
	require.NoError(t, err)
	for serial, rows := range older {
		ended := []store.Put{w.row(recordKey(serial)), w.row(stateRowKey(serial))}
		w.attack(rows)
		found, err := w.CompareAudit(context.Background(), auditor)
		require.NoError(t, err)
		what := map[string]bool{}
		for _, d := range found {
			require.Equal(t, serial, d.Serial)
			what[d.What] = true
		}
		require.Equal(t, map[string]bool{"record revision": true, "state sequence": true, "live token": true}, what)
		w.attack(ended)
	}
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
}

// A live row that is forged, or was another subject's, ends nothing and is alarmed. (One that was removed is for the comparison
// with the log to find.)
func TestATamperedLiveRowEndsNothing(t *testing.T) {
	w := newWorld(t)
	offline, sms := w.both(card(1))
	other := w.issued(card(2), "offline-60")
	tok, err := w.load(context.Background(), offline.serial)
	require.NoError(t, err)
	live := liveKey(tok.Class, KindOffline, tok.Subject)
	original := w.row(live)
	forged, err := store.Encode(envelope{Body: []byte{0xa0}, MAC: make([]byte, 32)})
	require.NoError(t, err)
	theirs, err := w.load(context.Background(), other.Serial)
	require.NoError(t, err)
	moved := w.row(liveKey(theirs.Class, KindOffline, theirs.Subject))
	for name, value := range map[string][]byte{"forged": forged, "another's": moved.Value} {
		w.attack([]store.Put{{Key: live, Value: value}})
		_, err := w.endAllOf(card(1))
		require.Equal(t, CodeTampered, CodeOf(err), name)
		require.Equal(t, Active, w.shown(offline.serial).Status)
		require.Equal(t, Active, w.shown(sms.serial).Status)
		require.Equal(t, Issued, w.shown(other.Serial).Status)
		log := w.entries()
		require.Equal(t, audit.Tampered, log[len(log)-5].Outcome, name)
	}
	w.attack([]store.Put{original})
	ended, err := w.endAllOf(card(1))
	require.NoError(t, err)
	require.Len(t, ended, 2)
}
