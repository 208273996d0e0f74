package keyservice

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// withPIN walks a card to a phone whose passwords take a PIN.
func (w *world) withPIN(subject, profile, pin string) *phone {
	p := w.enrol(subject, profile)
	require.NoError(w.t, w.setPIN(p.serial, pin))
	p.pin = pin
	return p
}

func TestAPasswordIsMadeWithThePIN(t *testing.T) {
	w := newWorld(t)
	p := w.withPIN(card(1), "pin-60", pin)
	p.pin = "27182819"
	require.Equal(t, ReasonMismatch, w.try(p, p.password()).Reason, "a wrong PIN makes a wrong password")
	p.pin = pin
	right := p.password()
	require.True(t, w.try(p, right).Accepted)
	require.Equal(t, ReasonAlreadyUsed, w.try(p, right).Reason)
	require.Equal(t, ReasonAlreadyUsed, w.verify(bySubject(card(1), right)).Reason)
	w.clock.add(time.Minute)
	require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
}

func TestWithoutItsPINATokenVerifiesNothing(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "pin-60")
	p.pin = pin
	_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.Equal(t, CodePINMissing, CodeOf(err))
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), p.password())).Reason, "by subject it looks like any other")
	_, err = w.Resync(context.Background(), mobileBank, ResyncRequest{Serial: p.serial, First: p.at(1), Second: p.at(2)})
	require.Equal(t, CodePINMissing, CodeOf(err))
}

// A new PIN makes new passwords; those of the old one end.
func TestANewPINReplacesTheOld(t *testing.T) {
	w := newWorld(t)
	p := w.withPIN(card(1), "pin-60", pin)
	old := p.password()
	require.NoError(t, w.setPIN(p.serial, "31415926"))
	require.Equal(t, ReasonMismatch, w.try(p, old).Reason)
	p.pin = "31415926"
	require.True(t, w.try(p, p.password()).Accepted)
}

// A token that signs makes passwords for one amount, currency and payee, and none without.
func TestASignedTransactionIsTheOnlyOne(t *testing.T) {
	for _, profile := range []string{"signing-60", "pin-512"} {
		w := newWorld(t)
		p := w.enrol(card(1), profile)
		if p.policy.PINDigits > 0 {
			p.pin = "1234"
			require.NoError(t, w.setPIN(p.serial, p.pin))
		}
		signed := p.signed(p.factor(), &payment)
		amount, payee, currency := payment, payment, payment
		amount.Amount, payee.Payee, currency.Currency = "15000000", seed.NewSubject("6037997551493321"), "USD"
		for _, other := range []otp.Transaction{amount, payee, currency} {
			require.Equal(t, ReasonMismatch, w.verify(paying(card(1), signed, other)).Reason)
			require.NoError(t, w.unlocked(card(1)))
		}
		unsigned := VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: signed}
		require.Equal(t, ReasonUnsigned, w.verify(unsigned).Reason)
		require.Zero(t, w.guesses(card(1)).misses(limits, w.clock.Now()))
		unsigned.Transaction = &payment
		v := w.verify(unsigned)
		require.True(t, v.Accepted, profile)
		require.True(t, v.Bound)
		require.Equal(t, ReasonAlreadyUsed, w.verify(paying(card(1), signed, payment)).Reason)
	}
}

// The password that a signing token makes for no transaction only finds it again.
func TestASigningTokenIsFoundAgainByUnboundPasswords(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "signing-60")
	p.drift = 3 * time.Minute
	unbound := p.at(p.factor())
	require.Equal(t, ReasonMismatch, w.verify(paying(card(1), unbound, payment)).Reason)
	v := w.resync(p, p.at(p.factor()-1), p.at(p.factor()))
	require.True(t, v.Accepted)
	w.clock.add(time.Minute)
	require.True(t, w.verify(paying(card(1), p.signed(p.factor(), &payment), payment)).Accepted)
}

// A phone on which wrong PINs are typed makes passwords that are right no more often than by chance: of 10,000 PINs, at
// one in a million per acceptable moving factor, as good as none.
func TestAWrongPINMatchesNoBetterThanChance(t *testing.T) {
	p := &phone{policy: otherProfiles()["pin-60"].Policy, seed: make([]byte, 32), w: &world{t: t}}
	matches := 0
	for step := range uint64(10) {
		p.pin = pin
		right := p.at(step).Reveal()
		for n := range 1000 {
			p.pin = fmt.Sprintf("%08d", uint64(n)+1000*step)
			if p.at(step).Reveal() == right {
				matches++
			}
		}
	}
	// 10,000 tries of one in a million: more than two matches come once in six million runs; these inputs are fixed
	require.LessOrEqual(t, matches, 2)
}
