package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

const newMobile = "+989357654321"

func (w *world) setMobile(serial, number string) (IssuedToken, error) {
	return w.SetMobile(context.Background(), branch, serial, seed.NewMobile(number))
}

func (w *world) has(key store.Key) bool {
	items, err := w.db.Get(context.Background(), key)
	require.NoError(w.t, err)
	return items[0].Version != 0
}

// SMS passwords that wait die with the number they were for, and with their code rows; the next go to the new one.
func TestPendingSMSPasswordsDieWithTheNumber(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	used := w.ask(card(1), nil)
	require.True(t, w.verify(bySubject(card(1), used.typed())).Accepted)
	made, err := w.challenged(coreBanking, card(1), nil)
	require.NoError(t, err)
	old, err := w.CollectCode(context.Background(), smsGateway, made.ID)
	require.NoError(t, err)
	require.Equal(t, mobile, old.Mobile.Reveal())
	bound, err := w.challenged(coreBanking, card(1), &payment)
	require.NoError(t, err)

	moved, err := w.setMobile(sms.Serial, newMobile)
	require.NoError(t, err)
	require.Equal(t, IssuedToken{Serial: sms.Serial, Status: Active}, moved)
	w.lastEntry(authz.SetMobile, branch, audit.Done, sms.Serial)
	for _, id := range []string{made.ID, bound.ID} {
		_, err = w.CollectCode(context.Background(), smsGateway, id)
		require.Equal(t, CodeCodeNotFound, CodeOf(err))
		require.False(t, w.has(codeKey(id)))
	}
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), old.typed())).Reason)
	require.Equal(t, ReasonAlreadyUsed, w.verify(bySubject(card(1), used.typed())).Reason, "what was used stays used")
	w.restart()
	code := w.ask(card(1), nil)
	require.Equal(t, newMobile, code.Mobile.Reveal())
	require.True(t, w.verify(bySubject(card(1), code.typed())).Accepted)
	require.Equal(t, "+9893***4321", w.shown(sms.Serial).Mobile)

	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
}

// The activation code of a token that is not activated yet is replaced by a fresh one, with new tries.
func TestAnActivationCodeDiesWithTheNumber(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	old := w.code(issued)
	for range codeTries {
		_, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, seed.NewCode("00000000")))
		require.Equal(t, CodeActivationWrong, CodeOf(err))
	}
	moved, err := w.setMobile(issued.Serial, newMobile)
	require.NoError(t, err)
	require.Equal(t, Issued, moved.Status)
	require.NotEqual(t, issued.Activation.ID, moved.Activation.ID)
	require.Equal(t, w.clock.Now().Add(codeLifetime), moved.Activation.ExpiresAt)
	require.False(t, w.has(codeKey(issued.Activation.ID)))
	_, err = w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeCodeNotFound, CodeOf(err))
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, old))
	require.Equal(t, CodeActivationWrong, CodeOf(err))

	fresh, err := w.CollectCode(context.Background(), smsGateway, moved.Activation.ID)
	require.NoError(t, err)
	require.Equal(t, newMobile, fresh.Mobile.Reveal())
	activated, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, fresh.Code))
	require.NoError(t, err)
	p.receive(activated)

	moved, err = w.setMobile(issued.Serial, mobile)
	require.NoError(t, err)
	require.Equal(t, IssuedToken{Serial: issued.Serial, Status: Pending}, moved, "nothing waits any more")
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, fresh.Code))
	require.NoError(t, err, "the phone that has the seed may still ask for it again")
	_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
	require.NoError(t, err)
	require.True(t, w.try(p, p.password()).Accepted)
	moved, err = w.setMobile(issued.Serial, newMobile)
	require.NoError(t, err)
	require.Nil(t, moved.Activation)
	require.Equal(t, "+9893***4321", w.shown(p.serial).Mobile)
}

func TestWhatCannotBeAMobileNumberIsRefused(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	w.ask(card(1), nil)
	before := []store.Put{w.row(recordKey(sms.Serial)), w.row(stateRowKey(sms.Serial))}
	for _, bad := range []string{"", "091212345", "0912123456789012", "0912 123 4567", "00++9121234567", "+", "۰۹۱۲۱۲۳۴۵۶۷", mobile + "\n"} {
		_, err := w.setMobile(sms.Serial, bad)
		require.Equal(t, CodeInvalid, CodeOf(err), "%q", bad)
	}
	for _, c := range []authz.Caller{mobileBank, smsGateway, coreBanking, auditor, {}} {
		_, err := w.SetMobile(context.Background(), c, sms.Serial, seed.NewMobile(newMobile))
		require.Equal(t, CodeDenied, CodeOf(err), c.Name)
	}
	require.Equal(t, before, []store.Put{w.row(recordKey(sms.Serial)), w.row(stateRowKey(sms.Serial))})
}

// The new number stands in no stored byte, the log's neither; and the encrypted one that it replaced is gone.
func TestANewNumberIsNotStoredInClear(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	old, err := w.load(context.Background(), sms.Serial)
	require.NoError(t, err)
	_, err = w.setMobile(sms.Serial, newMobile)
	require.NoError(t, err)
	now, err := w.load(context.Background(), sms.Serial)
	require.NoError(t, err)
	require.NotEqual(t, old.Mobile, now.Mobile)
	w.rows(func(it store.Item) {
		require.NotContains(t, string(it.Value), newMobile[3:], "row %.20q", it.Key)
		require.NotContains(t, string(it.Value), mobile[1:], "row %.20q", it.Key)
	})
}

// Whoever puts the old number back into the database, without the HSM, is seen: the seal is over the number, and whole
// older rows are behind the log, even once they are written over.
func TestTheOldNumberPutBackIsSeen(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	sms := w.optedIn(card(1), "second-pin").Serial
	older := []store.Put{w.row(recordKey(sms)), w.row(stateRowKey(sms))}
	before, err := w.load(ctx, sms)
	require.NoError(t, err)
	_, err = w.setMobile(sms, newMobile)
	require.NoError(t, err)
	after := []store.Put{w.row(recordKey(sms)), w.row(stateRowKey(sms))}

	e, err := store.Decode[envelope](after[0].Value)
	require.NoError(t, err)
	r, err := store.Decode[record](e.Body)
	require.NoError(t, err)
	r.Mobile = before.Mobile
	e.Body, err = store.Encode(r)
	require.NoError(t, err)
	value, err := store.Encode(e)
	require.NoError(t, err)
	w.attack([]store.Put{{Key: recordKey(sms), Value: value}})
	_, err = w.setMobile(sms, mobile)
	require.Equal(t, CodeTampered, CodeOf(err))
	_, err = w.challenged(coreBanking, card(1), nil)
	require.Equal(t, CodeTampered, CodeOf(err))

	w.attack(older)
	found, err := w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Len(t, found, 2, "record revision and state sequence")
	w.attack(older[:1])
	w.attack(after[1:])
	_, err = w.Token(ctx, branch, sms)
	require.Equal(t, CodeTampered, CodeOf(err), "half of it is seen at once")
	w.attack(after)
	require.Equal(t, newMobile, w.ask(card(1), nil).Mobile.Reveal())
}

// What is asked for or collected while the number changes is decided anew: no code is made for one number and sent to the
// other.
func TestANumberThatChangesMeanwhile(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	made, err := w.challenged(coreBanking, card(1), nil)
	require.NoError(t, err)
	w.meanwhile(func() {
		_, err := w.setMobile(sms.Serial, newMobile)
		require.NoError(t, err)
	})
	_, err = w.CollectCode(context.Background(), smsGateway, made.ID)
	require.Equal(t, CodeCodeNotFound, CodeOf(err), "the courier is not given an old code for a new number")
	w.meanwhile(func() {
		_, err := w.setMobile(sms.Serial, mobile)
		require.NoError(t, err)
	})
	require.Equal(t, mobile, w.ask(card(1), nil).Mobile.Reveal())
}
