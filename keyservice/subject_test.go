package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// bySubject is a request as a payment page makes it: a card, and what was typed.
func bySubject(subject string, typed seed.Password) VerifyRequest {
	return VerifyRequest{Class: ClassCard, Subject: seed.NewSubject(subject), Use: "second-pin", OTP: typed}
}

func (w *world) verify(r VerifyRequest) Verdict {
	v, err := w.Verify(context.Background(), coreBanking, r)
	require.NoError(w.t, err)
	return v
}

// ask asks for an SMS password and returns what the courier collects.
func (w *world) ask(subject string, t *otp.Transaction) CollectedCode {
	made, err := w.challenged(coreBanking, subject, t)
	require.NoError(w.t, err)
	code, err := w.CollectCode(context.Background(), smsGateway, made.ID)
	require.NoError(w.t, err)
	return code
}

func (w *world) challenged(c authz.Caller, subject string, t *otp.Transaction) (Challenge, error) {
	return w.Challenge(context.Background(), c, ChallengeRequest{Class: ClassCard, Subject: seed.NewSubject(subject), Use: "second-pin", Transaction: t})
}

// typed is a collected code as the customer types it.
func (c CollectedCode) typed() seed.Password { return seed.NewPassword(c.Code.Reveal()) }

var payment = otp.Transaction{Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject("6037997551493320")}

// On a payment page there is one field: whatever is active for the card and the use is tried.
func TestASubjectsPasswordsAreTriedWhateverTheirKind(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	sms := w.optedIn(card(1), "second-pin")
	code := w.ask(card(1), nil)

	offline := p.password()
	v := w.verify(bySubject(card(1), offline))
	require.True(t, v.Accepted)
	require.Equal(t, KindOffline, v.Kind)
	require.Equal(t, p.serial, v.Serial)
	v = w.verify(bySubject(card(1), code.typed()))
	require.True(t, v.Accepted)
	require.Equal(t, KindSMS, v.Kind)
	require.Equal(t, sms.Serial, v.Serial)

	for _, used := range []seed.Password{offline, code.typed()} {
		v = w.verify(bySubject(card(1), used))
		require.Equal(t, ReasonAlreadyUsed, v.Reason)
	}
	require.Zero(t, w.guesses(card(1)).Run, "a password accepted before is no guess")
}

func (w *world) guesses(subject string) budget {
	p, err := w.HSM.Pseudonym(context.Background(), ClassCard, seed.NewSubject(subject))
	require.NoError(w.t, err)
	b, _, err := w.loadBudget(context.Background(), p, "second-pin", false)
	require.NoError(w.t, err)
	return b
}

// A password that matches neither kind is one guess, and one try of each challenge it might have answered.
func TestOneMissCountsOnce(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	sms := w.optedIn(card(1), "second-pin")
	w.ask(card(1), nil)
	w.ask(card(1), &payment)
	tries := func() []int {
		tok, err := w.load(context.Background(), sms.Serial)
		require.NoError(t, err)
		return []int{tok.state.Challenges[0].Tries, tok.state.Challenges[1].Tries}
	}
	v := w.verify(bySubject(card(1), p.wrong()))
	require.Equal(t, ReasonMismatch, v.Reason)
	require.Empty(t, v.Serial)
	require.Equal(t, 1, w.guesses(card(1)).Run)
	require.Equal(t, []int{1, 0}, tries(), "the other is for a payment")
	require.Equal(t, ReasonMismatch, w.verify(paying(card(1), p.wrong(), payment)).Reason)
	require.Equal(t, 2, w.guesses(card(1)).Run)
	require.Equal(t, []int{2, 1}, tries())
}

// Whatever a caller does with a card that is unknown, suspended, not connected to the use or not activated, the answers
// are those of a card that makes passwords, but of others.
func TestAStrangeSubjectLooksLikeAWrongPassword(t *testing.T) {
	w := newWorld(t)
	real := w.enrol(card(1), "offline-60")
	suspended := w.enrol(card(2), "offline-60")
	_, err := w.Suspend(context.Background(), branch, suspended.serial)
	require.NoError(t, err)
	w.issued(card(3), "offline-60")
	other := w.enrol(card(4), "offline-60")
	_, err = w.SetUses(context.Background(), branch, other.serial, []string{"login"})
	require.NoError(t, err)
	typed := real.wrong()
	seen := func(subject string) []Verdict {
		var all []Verdict
		for range 6 {
			v := w.verify(bySubject(subject, typed))
			v.Audit = audit.Position{}
			all = append(all, v)
		}
		return all
	}
	want := seen(card(1))
	require.Equal(t, ReasonMismatch, want[2].Reason)
	require.Equal(t, ReasonThrottled, want[3].Reason)
	for i := 2; i <= 5; i++ { // the fifth card was never seen
		require.Equal(t, want, seen(card(i)), "card %d", i)
	}
	w.clock.add(time.Hour)
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(2), suspended.password())).Reason, "nor does a right one tell")
}

// What strangers tried on a card before it had a token counts from the first password on, and resync lifts it.
func TestGuessesAtAStrangerCountOnceItIsKnown(t *testing.T) {
	w := newWorld(t)
	for range 4 {
		w.verify(bySubject(card(1), seed.NewPassword("000000")))
	}
	p := w.enrol(card(1), "offline-60")
	require.Equal(t, ReasonThrottled, w.verify(bySubject(card(1), p.password())).Reason)
}

func TestARequestNamesATokenOneWay(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for name, r := range map[string]VerifyRequest{
		"both":                    {Serial: p.serial, Class: ClassCard, Subject: seed.NewSubject(card(1)), Use: "second-pin", OTP: p.at(1)},
		"a class only":            {Class: ClassCard, Use: "second-pin", OTP: p.at(1)},
		"a subject only":          {Subject: seed.NewSubject(card(1)), Use: "second-pin", OTP: p.at(1)},
		"neither":                 {Use: "second-pin", OTP: p.at(1)},
		"a mistyped card":         bySubject("6037991234567890", p.at(1)),
		"a password too short":    bySubject(card(1), seed.NewPassword("12345")),
		"a password too long":     bySubject(card(1), seed.NewPassword("123456789")),
		"a password with letters": bySubject(card(1), seed.NewPassword("12345a")),
		"an unknown use":          {Serial: p.serial, Use: "tea", OTP: p.at(1)},
		"a transaction of no form": {
			Serial: p.serial, Use: "second-pin", OTP: p.at(1), Transaction: &otp.Transaction{Amount: "01", Currency: "IRR", Payee: seed.NewSubject("a")},
		},
	} {
		made := w.hsm.made()
		_, err := w.Verify(context.Background(), coreBanking, r)
		require.Contains(t, []Code{CodeInvalid, CodeSubjectInvalid, CodeSerialInvalid, CodeOTPMalformed}, CodeOf(err), name)
		require.Equal(t, made, w.hsm.made(), "%s: nothing was looked at", name)
	}
}

// One caller may fail for only so many different subjects an hour; successes do not count, nor does what could not be
// decided, and subjects that count already may be asked about again.
func TestDistinctSubjectsPerCallerAreLimited(t *testing.T) {
	w := newWorld(t)
	w.failing.limit = 3
	p, q := w.enrol(card(1), "offline-60"), w.enrol(card(2), "offline-60")
	require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
	require.True(t, w.try(q, q.password()).Accepted)
	for i := range 3 {
		w.verify(bySubject(card(10+i), seed.NewPassword("123456")))
	}
	_, err := w.Verify(context.Background(), coreBanking, bySubject(card(20), seed.NewPassword("123456")))
	require.Equal(t, CodeTooManySubjects, CodeOf(err))
	var refusal *Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, 29*time.Minute+40*time.Second, refusal.RetryAfter, "until the next hour")
	_, err = w.challenged(coreBanking, card(21), nil)
	require.Equal(t, CodeTooManySubjects, CodeOf(err), "challenges count too")
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(10), seed.NewPassword("123456"))).Reason)
	other := authz.Caller{Name: "internet-bank", Roles: coreBanking.Roles}
	_, err = w.Verify(context.Background(), other, bySubject(card(20), seed.NewPassword("123456")))
	require.NoError(t, err, "each caller has its own limit")
	w.clock.add(refusal.RetryAfter)
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(20), seed.NewPassword("123456"))).Reason)
}

func TestOutagesDoNotCountAgainstACaller(t *testing.T) {
	w := newWorld(t)
	w.failing.limit = 1
	p, q := w.enrol(card(1), "offline-60"), w.enrol(card(2), "offline-60")
	w.hsm.fail = seed.ErrUnavailable
	for _, p := range []*phone{p, q} {
		_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.at(p.factor())})
		require.Equal(t, CodeHSMUnavailable, CodeOf(err))
	}
	w.hsm.fail = nil
	require.True(t, w.try(p, p.password()).Accepted)
	require.True(t, w.try(q, q.password()).Accepted)
}

// A typing error that is followed by the right password does not count; a challenge that was asked for forgives nothing.
func TestASubjectNoLongerCountsOnceItsPasswordIsRight(t *testing.T) {
	w := newWorld(t)
	w.failing.limit = 1
	p := w.enrol(card(1), "offline-60")
	w.optedIn(card(1), "second-pin")
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(1), p.wrong())).Reason)
	w.ask(card(1), nil)
	_, err := w.Verify(context.Background(), coreBanking, bySubject(card(2), p.wrong()))
	require.Equal(t, CodeTooManySubjects, CodeOf(err))
	right := p.password()
	require.True(t, w.verify(bySubject(card(1), right)).Accepted)
	require.Equal(t, ReasonAlreadyUsed, w.verify(bySubject(card(1), right)).Reason, "nor does a password that was right")
	require.Equal(t, ReasonMismatch, w.verify(bySubject(card(2), p.wrong())).Reason)
}

// A profile that throttles less than the others does not tell which cards have it.
func TestAProfilesOwnThrottlingDoesNotTell(t *testing.T) {
	w := newWorld(t)
	lenient := w.Profiles["offline-60"]
	lenient.Guess.BaseDelay = time.Second
	w.Profiles["offline-60"] = lenient
	p := w.enrol(card(1), "offline-60")
	for i := 1; i <= 2; i++ {
		for range 3 {
			w.verify(bySubject(card(i), p.wrong()))
		}
		require.Equal(t, 30*time.Second, w.verify(bySubject(card(i), p.wrong())).RetryAfter)
	}
}
