package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

func (w *world) resync(p *phone, first, second seed.Password) ResyncVerdict {
	v, err := w.Resync(context.Background(), mobileBank, ResyncRequest{Serial: p.serial, First: first, Second: second})
	require.NoError(w.t, err)
	return v
}

// A phone whose clock is further off than is searched for, but within the bound, is found again, and stays found.
func TestResyncFindsAPhoneWithinTheBound(t *testing.T) {
	for _, drift := range []time.Duration{-3 * time.Minute, -2 * time.Minute, 0, 2 * time.Minute, 3 * time.Minute} {
		w := newWorld(t)
		p := w.enrol(card(1), "offline-60")
		p.drift = drift
		if drift > 2*time.Minute || drift < -time.Minute {
			require.Equal(t, ReasonMismatch, w.try(p, p.password()).Reason, "%v", drift)
		}
		first := p.at(p.factor())
		w.clock.add(time.Minute)
		second := p.at(p.factor())
		v := w.resync(p, first, second)
		require.True(t, v.Accepted, "%v", drift)
		require.LessOrEqual(t, (v.Drift - drift).Abs(), time.Minute, "%v", drift)
		for _, used := range []seed.Password{first, second} {
			require.False(t, w.try(p, used).Accepted, "both are used up")
			require.NoError(t, w.unlocked(card(1)))
		}
		w.clock.add(time.Minute)
		require.True(t, w.try(p, p.password()).Accepted, "%v", drift)
	}
}

func TestResyncDoesNotReachBeyondTheBound(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for _, drift := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		p.drift = drift
		require.Equal(t, ReasonMismatch, w.resync(p, p.at(p.factor()-1), p.at(p.factor())).Reason)
	}
}

func TestResyncNeedsTwoConsecutivePasswordsInOrder(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	pairs := map[string][2]seed.Password{
		"the same twice": {p.at(20), p.at(20)}, "backwards": {p.at(21), p.at(20)}, "one left out": {p.at(20), p.at(22)},
		"the second wrong": {p.at(20), p.wrong()}, "the first wrong": {p.wrong(), p.at(21)}, "too far ahead": {p.at(101), p.at(102)},
	}
	for name, pair := range pairs {
		require.Equal(t, ReasonMismatch, w.resync(p, pair[0], pair[1]).Reason, name)
		require.NoError(t, w.unlocked(card(1)))
	}
	require.True(t, w.resync(p, p.at(100), p.at(101)).Accepted, "the whole window")
	require.Equal(t, ReasonMismatch, w.resync(p, p.at(100), p.at(101)).Reason, "once")
	p.counter = 102
	require.True(t, w.try(p, p.password()).Accepted)
}

// Strangers can lock a customer's use, but not the way out of it.
func TestALockedCustomerUnlocksWithTwoPasswords(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	wrong := p.wrong()
	for w.verify(bySubject(card(1), wrong)).Reason != ReasonLocked {
		w.clock.add(time.Hour)
		wrong = p.wrong()
	}
	right := p.at(p.factor())
	made := w.hsm.made()
	require.Equal(t, ReasonLocked, w.try(p, right).Reason)
	require.Equal(t, made, w.hsm.made(), "locked: not looked at")
	w.clock.add(time.Minute)
	require.True(t, w.resync(p, right, p.at(p.factor())).Accepted)
	w.clock.add(time.Minute)
	require.True(t, w.try(p, p.password()).Accepted)
}

// Guessing pairs has a budget of its own, with the same limits, that outlives a restart.
func TestResyncIsThrottledByItself(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for range 3 {
		require.Equal(t, ReasonMismatch, w.resync(p, p.wrong(), p.wrong()).Reason)
	}
	w.restart()
	made := w.hsm.made()
	v := w.resync(p, p.at(p.factor()), p.at(p.factor()+1))
	require.Equal(t, ReasonThrottled, v.Reason)
	require.Equal(t, 30*time.Second, v.RetryAfter)
	require.Equal(t, made, w.hsm.made(), "not looked at")
	require.True(t, w.try(p, p.password()).Accepted, "verification is not held up by it")
}

func TestAnIssuerUnlocks(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for range 3 {
		w.try(p, p.wrong())
		w.resync(p, p.wrong(), p.wrong())
	}
	require.Equal(t, ReasonThrottled, w.try(p, p.password()).Reason)
	require.Equal(t, []UseGuesses{{"second-pin", 3, ReasonThrottled, 30 * time.Second}}, w.shown(p.serial).Guesses, "the branch sees why")
	before := w.guesses(card(1)).Sequence
	status, err := w.Unlock(context.Background(), branch, p.serial)
	require.NoError(t, err)
	require.Equal(t, Active, status)
	require.Greater(t, w.guesses(card(1)).Sequence, before, "an older budget is still found out")
	require.Equal(t, []UseGuesses{{Use: "second-pin"}}, w.shown(p.serial).Guesses)
	require.Equal(t, ReasonMismatch, w.resync(p, p.wrong(), p.wrong()).Reason)
	require.True(t, w.try(p, p.password()).Accepted)
	_, err = w.Unlock(context.Background(), mobileBank, p.serial)
	require.Equal(t, CodeDenied, CodeOf(err))
}

func TestWhatCannotBeResynchronised(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	sms := w.optedIn(card(1), "second-pin")
	ask := func(serial string, first, second string) (ResyncVerdict, error) {
		return w.Resync(context.Background(), mobileBank, ResyncRequest{Serial: serial, First: seed.NewPassword(first), Second: seed.NewPassword(second)})
	}
	for name, c := range map[string]struct {
		serial, first, second string
		code                  Code
	}{
		"an SMS token":      {sms.Serial, "123456", "123457", CodeInvalid},
		"too short":         {p.serial, "12345", "123456", CodeOTPMalformed},
		"with a space":      {p.serial, "123456", "12345 ", CodeOTPMalformed},
		"an unknown serial": {makeSerial("00000000000"), "123456", "123457", CodeTokenNotFound},
		"no serial":         {"", "123456", "123457", CodeSerialInvalid},
	} {
		_, err := ask(c.serial, c.first, c.second)
		require.Equal(t, c.code, CodeOf(err), name)
	}
	_, err := w.Suspend(context.Background(), branch, p.serial)
	require.NoError(t, err)
	v, err := ask(p.serial, p.at(p.factor()).Reveal(), p.at(p.factor()+1).Reveal())
	require.NoError(t, err)
	require.Equal(t, ReasonNotActive, v.Reason)
	_, err = w.Resync(context.Background(), coreBanking, ResyncRequest{Serial: p.serial, First: p.at(1), Second: p.at(2)})
	require.Equal(t, CodeDenied, CodeOf(err))
}
