package keyservice

import (
	"context"
	"slices"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// VerifyRequest asks whether a password is genuine and unused.
type VerifyRequest struct {
	IdempotencyKey string // optional: a repeat with the same key gets the first answer

	Serial  string // either the token …
	Class   string // … or whose it is: class and subject. Then whatever the subject has for the use is tried
	Subject seed.Subject

	Use         string // what the customer is doing, e.g. "second-pin"
	OTP         seed.Password
	Transaction *otp.Transaction // what the customer is paying; nil if nothing
}

// Reason says why a password was refused.
type Reason string

// The reasons.
const (
	ReasonMismatch     Reason = "mismatch"            // comes from no acceptable moving factor; counted as a guess
	ReasonAlreadyUsed  Reason = "already_used"        // is the one accepted last; not counted
	ReasonNotConnected Reason = "not_connected"       // the token is not connected to this use
	ReasonNotActive    Reason = "not_active"          // issued, pending, suspended or deactivated
	ReasonNotBound     Reason = "not_bound"           // genuine, but bound to no transaction, and the token's policy wants it to be; used up
	ReasonUnsigned     Reason = "transaction_missing" // the token signs transactions, and none was given; not looked at
	ReasonThrottled    Reason = "throttled"           // too many misses: wait; the password was not looked at
	ReasonLocked       Reason = "locked"              // the guess budget is spent; the password was not looked at
)

// Verdict answers Verify. A refusal is a verdict, not an error.
type Verdict struct {
	Accepted   bool
	Reason     Reason        // set when refused
	Serial     string        // empty if the request named a subject and nothing matched
	Kind       string        // "offline" or "sms": what matched
	Bound      bool          // the password was made for the request's transaction
	RetryAfter time.Duration // set when throttled or locked
	AuditIndex uint64
	Repeated   bool // this is the answer to an earlier request with the same idempotency key
}

// Verify says whether a password is genuine, unused, and good for this use. It answers "accepted" at most once for any
// password, and only after that fact is on stable storage.
func (s *Service) Verify(ctx context.Context, c authz.Caller, r VerifyRequest) (Verdict, error) {
	if err := s.authorise(ctx, c, authz.VerifyOTP, r.Serial); err != nil {
		return Verdict{}, err
	}
	if err := checkSerial(r.Serial); err != nil {
		return Verdict{}, err
	}
	if err := otp.CheckDigits(r.OTP); err != nil {
		return Verdict{}, &Error{Code: CodeOTPMalformed, Detail: err.Error()}
	}
	if !slices.Contains(s.Uses, r.Use) {
		return Verdict{}, &Error{Code: CodeInvalid, Detail: "use must be " + oneOf(s.Uses)}
	}
	unlock, err := s.locks.lock(ctx, r.Serial)
	if err != nil {
		return Verdict{}, err
	}
	defer unlock()
	var v Verdict
	index, err := s.decide(ctx, c, authz.VerifyOTP, r.Serial, func() (d decision, err error) {
		v, d, err = s.verify(ctx, r)
		return d, err
	})
	if err != nil {
		return Verdict{}, err
	}
	v.Serial, v.AuditIndex = r.Serial, index
	return v, nil
}

// verify decides once, from the store as it is now.
func (s *Service) verify(ctx context.Context, r VerifyRequest) (Verdict, decision, error) {
	t, err := s.load(ctx, r.Serial)
	if err != nil {
		d, err := notFound(err)
		return Verdict{}, d, err
	}
	if len(r.OTP.Reveal()) != t.Policy.Digits {
		return Verdict{}, refuse(CodeOTPMalformed, otp.ErrMalformed.Error()), nil
	}
	if why := unusable(t, r.Use); why != "" {
		return s.refused(t, r, why, 0)
	}
	guesses, err := s.loadBudget(ctx, &t, r.Use)
	if err != nil {
		return Verdict{}, decision{}, err
	}
	now := s.Clock()
	if why, wait := guesses.gate(s.Guess, now); why != "" {
		return s.refused(t, r, why, wait)
	}
	m, err := s.match(ctx, t, now, r.OTP)
	switch {
	case err != nil:
		return Verdict{}, decision{}, err
	case m.again:
		return s.refused(t, r, ReasonAlreadyUsed, 0)
	case !m.found:
		return s.missed(t, r, guesses.miss(s.Guess, now))
	}
	return s.accepted(t, r, guesses, now, m.factor)
}

// unusable says why no password of this token is good for this use; "" if one may be.
func unusable(t token, use string) Reason {
	switch {
	case t.Status != Active:
		return ReasonNotActive
	case !slices.Contains(t.Uses, use):
		return ReasonNotConnected
	}
	return ""
}

// loadBudget reads the guess budget and makes the decision depend on it.
func (s *Service) loadBudget(ctx context.Context, t *token, use string) (budget, error) {
	items, err := s.Store.Get(ctx, budgetKey(t.Subject.Sum, use))
	if err != nil {
		return budget{}, storeError(err)
	}
	t.require = append(t.require, requireItems(items)...)
	return unmac[budget](s, items[0], "guess budget")
}

// match is what a typed password turned out to be.
type match struct {
	found  bool   // it comes from an acceptable moving factor …
	factor uint64 // … this one
	again  bool   // it is the password accepted last
}

// match tries the acceptable moving factors, most likely first, and stops at the first that matches; last of all it
// looks whether the password is the one accepted last. A valid password normally costs one HMAC.
func (s *Service) match(ctx context.Context, t token, now time.Time, typed seed.Password) (match, error) {
	plan := t.Policy.Plan(now, t.state.Drift, t.state.Next)
	var m match
	err := s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) (err error) {
		m = match{} // the HSM may run this again from its start
		for _, factor := range plan {
			if m.found, err = matches(mac, t.Policy.Digits, factor, typed); err != nil || m.found {
				m.factor = factor
				return err
			}
		}
		if t.state.Next > 0 {
			m.again, err = matches(mac, t.Policy.Digits, t.state.Next-1, typed)
		}
		return err
	})
	return m, err
}

func matches(mac seed.MAC, digits int, factor uint64, typed seed.Password) (bool, error) {
	sum, err := mac(otp.Message(factor))
	if err != nil {
		return false, err
	}
	right, err := otp.Truncate(sum, digits)
	clear(sum)
	return err == nil && otp.Equal(right, typed), err
}

// refused makes a verdict that changes nothing but the log.
func (s *Service) refused(t token, r VerifyRequest, why Reason, wait time.Duration) (Verdict, decision, error) {
	return Verdict{Reason: why, RetryAfter: wait}, decision{
		change: store.Change{Require: t.require},
		entry:  audit.Entry{Outcome: audit.Refused, Reason: string(why), Use: r.Use},
	}, nil
}

// missed makes the verdict of a wrong password: the guess is counted in the same commit.
func (s *Service) missed(t token, r VerifyRequest, guesses budget) (Verdict, decision, error) {
	row, err := s.budgetRow(t, r.Use, guesses)
	return Verdict{Reason: ReasonMismatch}, decision{
		change: store.Change{Require: t.require, Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Refused, Reason: string(ReasonMismatch), Use: r.Use, Budget: guesses.Sequence},
	}, err
}

// accepted makes the verdict of a right password: the watermark rises over its moving factor in the same commit.
func (s *Service) accepted(t token, r VerifyRequest, guesses budget, now time.Time, factor uint64) (Verdict, decision, error) {
	t.state.Drift = t.Policy.LearnDrift(now, t.state.Drift, factor)
	t.state.Next = factor + 1
	row, err := s.stateRow(&t)
	d := decision{
		change: store.Change{Require: t.require, Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Accepted, Use: r.Use, Next: t.state.Next, State: t.state.Sequence},
	}
	if err == nil && guesses.Run > 0 {
		guesses = guesses.success()
		row, err = s.budgetRow(t, r.Use, guesses)
		d.change.Put = append(d.change.Put, row)
		d.entry.Budget = guesses.Sequence
	}
	return Verdict{Accepted: true, Kind: "offline"}, d, err
}

func (s *Service) budgetRow(t token, use string, b budget) (store.Put, error) {
	b.Schema = schema
	return s.mac(budgetKey(t.Subject.Sum, use), b)
}
