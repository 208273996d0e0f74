package keyservice

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

func paying(subject string, typed seed.Password, t otp.Transaction) VerifyRequest {
	r := bySubject(subject, typed)
	r.Transaction = &t
	return r
}

func TestAnSMSPasswordIsForOnePaymentOnly(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin", "login")
	w.optedIn(card(2), "second-pin")
	code := w.ask(card(1), &payment)
	require.Equal(t, KindSMS, code.Kind)
	require.Equal(t, &payment, code.Transaction, "so that the message can say what it is for")
	require.Equal(t, mobile, code.Mobile.Reveal())

	amount, payee, currency := payment, payment, payment
	amount.Amount, payee.Payee, currency.Currency = "1500001", seed.NewSubject("6037997551493321"), "USD"
	for name, r := range map[string]VerifyRequest{
		"another amount":   paying(card(1), code.typed(), amount),
		"another payee":    paying(card(1), code.typed(), payee),
		"another currency": paying(card(1), code.typed(), currency),
		"no transaction":   bySubject(card(1), code.typed()),
		"another card":     paying(card(2), code.typed(), payment),
	} {
		require.Equal(t, ReasonMismatch, w.verify(r).Reason, name)
		w.clock.add(time.Second)
		require.NoError(t, w.unlocked(card(1)))
	}
	other := paying(card(1), code.typed(), payment)
	other.Use = "login"
	require.Equal(t, ReasonMismatch, w.verify(other).Reason, "another use")
	v := w.verify(paying(card(1), code.typed(), payment))
	require.True(t, v.Accepted)
	require.True(t, v.Bound)
	require.Equal(t, ReasonAlreadyUsed, w.verify(paying(card(1), code.typed(), payment)).Reason)
}

// unlocked lets a test go on after misses.
func (w *world) unlocked(subject string) error {
	o, err := w.ownerOf(context.Background(), ClassCard, seed.NewSubject(subject))
	if err != nil {
		return err
	}
	_, err = w.Unlock(context.Background(), branch, o.serials[0])
	return err
}

func TestAnSMSPasswordLives120Seconds(t *testing.T) {
	for _, c := range []struct {
		age      time.Duration
		accepted bool
	}{{119 * time.Second, true}, {120 * time.Second, false}, {121 * time.Second, false}} {
		w := newWorld(t)
		w.optedIn(card(1), "second-pin")
		made, err := w.challenged(coreBanking, card(1), nil)
		require.NoError(t, err)
		require.Equal(t, w.clock.Now().Add(2*time.Minute), made.ExpiresAt)
		code, err := w.CollectCode(context.Background(), smsGateway, made.ID)
		require.NoError(t, err)
		w.clock.add(c.age)
		require.Equal(t, c.accepted, w.verify(bySubject(card(1), code.typed())).Accepted, "%v", c.age)
		if !c.accepted {
			_, err = w.CollectCode(context.Background(), smsGateway, made.ID)
			require.Equal(t, CodeCodeNotFound, CodeOf(err), "nor is it collected any more")
		}
	}
}

func TestFiveWrongPasswordsEndAChallenge(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	code := w.ask(card(1), nil)
	wrong := seed.NewPassword(fmt.Sprintf("%06d", (atoi(code.Code.Reveal())+1)%1_000_000))
	for range challengeTries {
		require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), wrong)).Reason)
		require.NoError(t, w.unlocked(card(1)))
	}
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), code.typed())).Reason)
}

func atoi(s string) int {
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

// The same courier gets the same code again; nothing stored gives it away.
func TestTheCourierCollectsAndNothingStoredGivesTheCodeAway(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	made, err := w.challenged(coreBanking, card(1), &payment)
	require.NoError(t, err)
	var codes []string
	for range 2 {
		code, err := w.CollectCode(context.Background(), smsGateway, made.ID)
		require.NoError(t, err)
		codes = append(codes, code.Code.Reveal())
	}
	require.Equal(t, codes[0], codes[1])
	_, err = w.CollectCode(context.Background(), coreBanking, made.ID)
	require.Equal(t, CodeDenied, CodeOf(err), "whoever asks does not read")
	_, err = w.challenged(smsGateway, card(1), nil)
	require.Equal(t, CodeDenied, CodeOf(err), "whoever reads does not ask")
	w.rows(func(it store.Item) {
		for _, secret := range []string{codes[0], payment.Payee.Reveal(), payment.Amount, card(1), mobile} {
			require.False(t, bytes.Contains(it.Value, []byte(secret)), "%q stands in row %q", secret, it.Key)
		}
	})
}

// Three challenges may wait, two of them one caller's; each is good, none voids another, and a caller cannot take the
// last place of the others.
func TestPendingChallengesStandSideBySide(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	internetBank := authz.Caller{Name: "internet-bank", Roles: coreBanking.Roles}
	first, second := w.ask(card(1), &payment), w.ask(card(1), nil)
	_, err := w.challenged(coreBanking, card(1), nil)
	require.Equal(t, CodeChallengesPending, CodeOf(err))
	var refusal *Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, 2*time.Minute, refusal.RetryAfter)
	third, err := w.challenged(internetBank, card(1), nil)
	require.NoError(t, err)
	_, err = w.challenged(authz.Caller{Name: "branch-till", Roles: coreBanking.Roles}, card(1), nil)
	require.Equal(t, CodeChallengesPending, CodeOf(err), "three wait")

	require.True(t, w.verify(bySubject(card(1), second.typed())).Accepted)
	require.True(t, w.verify(paying(card(1), first.typed(), payment)).Accepted)
	code, err := w.CollectCode(context.Background(), smsGateway, third.ID)
	require.NoError(t, err)
	require.True(t, w.verify(bySubject(card(1), code.typed())).Accepted)
	tok, err := w.load(context.Background(), sms.Serial)
	require.NoError(t, err)
	require.Empty(t, tok.state.Challenges)
	w.rows(func(it store.Item) {
		require.False(t, bytes.HasPrefix([]byte(it.Key), []byte("c/")), "no code row outlives its challenge")
	})
}

// Expired challenges make place, and their rows go with them.
func TestExpiredChallengesAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	for range 4 {
		_, err := w.challenged(coreBanking, card(1), nil)
		require.NoError(t, err)
		w.clock.add(2 * time.Minute)
	}
	rows := 0
	w.rows(func(it store.Item) {
		if bytes.HasPrefix([]byte(it.Key), []byte("c/")) {
			rows++
		}
	})
	require.Equal(t, 1, rows)
}

// One caller may ask ten times at once and then every six minutes; that is remembered through a restart, and is nobody
// else's limit.
func TestAskingIsLimitedPerSubjectAndCaller(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	w.optedIn(card(2), "second-pin")
	asked := 0
	for range 40 {
		made, err := w.challenged(coreBanking, card(1), nil)
		if err == nil {
			asked++
			code, err := w.CollectCode(context.Background(), smsGateway, made.ID)
			require.NoError(t, err)
			require.True(t, w.verify(bySubject(card(1), code.typed())).Accepted)
		} else {
			require.Equal(t, CodeChallengesPending, CodeOf(err))
		}
		w.restart()
	}
	require.Equal(t, askBurst, asked)
	w.clock.add(askInterval)
	w.ask(card(1), nil)
	_, err := w.challenged(coreBanking, card(1), nil)
	require.Equal(t, CodeChallengesPending, CodeOf(err))
	_, err = w.challenged(authz.Caller{Name: "internet-bank", Roles: coreBanking.Roles}, card(1), nil)
	require.NoError(t, err, "another caller's customers are not held up")
	w.ask(card(2), nil)
}

// Nobody is sent anything who did not opt in for the use; that a card is unknown is not told apart from it.
func TestOnlyWhoOptedInIsSentAnything(t *testing.T) {
	w := newWorld(t)
	w.enrol(card(1), "offline-60")
	w.optedIn(card(2), "login")
	opted := w.optedIn(card(3), "second-pin")
	_, err := w.Suspend(context.Background(), branch, opted.Serial)
	require.NoError(t, err)
	var told []string
	for i := 1; i <= 4; i++ {
		_, err := w.challenged(coreBanking, card(i), nil)
		require.Equal(t, CodeNotOptedIn, CodeOf(err), "card %d", i)
		told = append(told, err.Error())
	}
	for _, detail := range told {
		require.Equal(t, told[0], detail)
	}
}

// A password that is bound to no transaction is good for one only where the token's policy says so; else it is refused,
// and used up all the same, or it could be tried out for nothing.
func TestAnUnboundPasswordIsRefusedForATransaction(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.optedIn(card(1), "second-pin")
	code, offline := w.ask(card(1), nil), p.password()
	for _, typed := range []seed.Password{code.typed(), offline} {
		v := w.verify(paying(card(1), typed, payment))
		require.Equal(t, ReasonNotBound, v.Reason)
		require.False(t, v.Bound)
		require.Equal(t, ReasonAlreadyUsed, w.verify(bySubject(card(1), typed)).Reason)
	}
	require.Zero(t, w.guesses(card(1)).misses(limits, w.clock.Now()), "it was no guess")

	q := w.enrol(card(2), "unbound-60")
	v := w.verify(paying(card(2), q.password(), payment))
	require.True(t, v.Accepted)
	require.False(t, v.Bound)
}

// A password asked for while the clock was ahead is over once the clock is right, and does not hold up others.
func TestAClockThatWasAheadLeavesNoPasswordBehind(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	w.clock.add(365 * day)
	code := w.ask(card(1), nil)
	w.ask(card(1), nil)
	w.clock.add(-365 * day)
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), code.typed())).Reason)
	w.ask(card(1), nil)
	w.clock.add(30 * day)
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), code.typed())).Reason)
}

// A challenge is no candidate for another transaction: what the HSM would make of its nonce for that one is not right, and
// guesses at that one use up no try of it.
func TestAChallengeAnswersForNoOtherTransaction(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	code := w.ask(card(1), &payment)
	tok, err := w.load(context.Background(), sms.Serial)
	require.NoError(t, err)
	other := payment
	other.Amount = "999999999"
	message, err := smsMessage(tok, tok.state.Challenges[0], &other)
	require.NoError(t, err)
	var made seed.Password
	require.NoError(t, w.HSM.UseSeed(context.Background(), *tok.Seed, tok.Policy.Hash, func(mac seed.MAC) error {
		sum, err := mac(message)
		if err != nil {
			return err
		}
		made, err = otp.Truncate(sum, tok.Policy.Digits)
		return err
	}))
	require.Equal(t, ReasonMismatch, w.verify(paying(card(1), made, other)).Reason)
	tok, err = w.load(context.Background(), sms.Serial)
	require.NoError(t, err)
	require.Zero(t, tok.state.Challenges[0].Tries)
	require.True(t, w.verify(paying(card(1), code.typed(), payment)).Accepted)
}

// Unlocking the SMS token also lets its customer ask again.
func TestUnlockingLetsACustomerAskAgain(t *testing.T) {
	w := newWorld(t)
	sms := w.optedIn(card(1), "second-pin")
	for range askBurst {
		require.True(t, w.verify(bySubject(card(1), w.ask(card(1), nil).typed())).Accepted)
	}
	_, err := w.challenged(coreBanking, card(1), nil)
	require.Equal(t, CodeChallengesPending, CodeOf(err))
	_, err = w.Unlock(context.Background(), branch, sms.Serial)
	require.NoError(t, err)
	w.ask(card(1), nil)
}

// What a decision about a customer's two tokens was made from must still hold when it is written, locks or no locks.
func TestADecisionBySubjectDependsOnBothTokens(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	sms := w.optedIn(card(1), "second-pin")
	code := w.ask(card(1), nil)
	w.meanwhile(func() {
		_, err := w.Suspend(context.Background(), branch, sms.Serial)
		require.NoError(t, err)
	})
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), code.typed())).Reason, "suspended meanwhile")

	offline := p.password()
	w.meanwhile(func() { require.True(t, w.try(p, offline).Accepted) })
	require.Equal(t, ReasonAlreadyUsed, w.verify(bySubject(card(1), offline)).Reason, "used meanwhile by serial")

	_, err := w.Resume(context.Background(), branch, sms.Serial)
	require.NoError(t, err)
	w.meanwhile(func() {
		_, err := w.DeactivateSubject(context.Background(), branch, ClassCard, seed.NewSubject(card(1)))
		require.NoError(t, err)
	})
	_, err = w.challenged(coreBanking, card(1), nil)
	require.Equal(t, CodeNotOptedIn, CodeOf(err), "deactivated meanwhile")
}

// meanwhile runs fn right before the next commit, with the locks out of the way.
func (w *world) meanwhile(fn func()) {
	w.store.before = func(store.Change) error {
		w.store.before = nil
		held := w.locks.held
		w.locks.held = nil
		fn()
		w.locks.held = held
		return nil
	}
}
