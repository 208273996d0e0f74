package keyservice

import (
	"context"
	"errors"
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

	Receipt bool // a signed receipt is wanted; a repeat may want one though the first request did not
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
	ReasonAstray       Reason = "resync_needed"       // since a restore its counter is not known: two resynchronisations find it; not looked at
	ReasonThrottled    Reason = "throttled"           // too many misses: wait; the password was not looked at
	ReasonLocked       Reason = "locked"              // the guess budget is spent; the password was not looked at
)

// Verdict answers Verify. A refusal is a verdict, not an error. An idempotency row keeps it with these integer keys.
type Verdict struct {
	Accepted   bool           `cbor:"1,keyasint"`
	Reason     Reason         `cbor:"2,keyasint,omitempty"` // set when refused
	Serial     string         `cbor:"3,keyasint,omitempty"` // empty if the request named a subject and nothing matched
	Kind       string         `cbor:"4,keyasint,omitempty"` // "offline" or "sms": what matched
	Bound      bool           `cbor:"5,keyasint"`           // the password was made for the request's transaction
	RetryAfter time.Duration  `cbor:"6,keyasint"`           // set when throttled or locked
	Audit      audit.Position `cbor:"-"`
	Repeated   bool           `cbor:"-"` // this is the answer to an earlier request with the same idempotency key
	Receipt    *Receipt       `cbor:"-"` // if one was wanted
}

// Verify says whether a password is genuine, unused, and good for this use and transaction. It answers "accepted" at most
// once for any password, and only after that fact is on stable storage. To a caller who names a subject, a subject that
// has nothing to verify with looks like a wrong password. A receipt is signed when all that is done: it holds up no other
// request.
func (s *Service) Verify(ctx context.Context, c authz.Caller, r VerifyRequest) (Verdict, error) {
	v, err := s.verdict(ctx, c, r)
	if err == nil && r.Receipt {
		v.Receipt = s.receipt(ctx, r, v)
	}
	return v, err
}

func (s *Service) verdict(ctx context.Context, c authz.Caller, r VerifyRequest) (Verdict, error) {
	if err := s.authorise(ctx, c, authz.VerifyOTP, r.Serial); err != nil {
		return Verdict{}, err
	}
	if err := s.checkVerify(r); err != nil {
		return Verdict{}, err
	}
	who, err := s.whose(ctx, r)
	if err != nil {
		return Verdict{}, err
	}
	unlock, err := s.locks.lock(ctx, who.serials...)
	if err != nil {
		return Verdict{}, err
	}
	defer unlock()
	leave, full := s.failing.enter(c.Name, who.limited(), s.Clock())
	v, done, err := decideOnce(ctx, s, c, authz.VerifyOTP, r.Serial, r.once(), func() (Verdict, decision, error) {
		if full != nil {
			return Verdict{}, decision{}, s.tooManySubjects(ctx, c, authz.VerifyOTP, r.Serial, full)
		}
		who, err := s.still(ctx, who, r.Class, r.Subject)
		if err != nil {
			return Verdict{}, decision{}, err
		}
		return s.verify(ctx, r, who)
	})
	if full == nil && (done.repeated || !failedFor(v, err)) {
		leave()
	}
	if err != nil {
		return Verdict{}, err
	}
	if v.Accepted && !done.repeated {
		s.failing.forget(c.Name, who.limited())
	}
	v.Audit, v.Repeated = done.at, done.repeated
	return v, nil
}

// failedFor says whether the request failed for its subject: what could not be decided, and a password that was genuine,
// does not count.
func failedFor(v Verdict, err error) bool {
	if err != nil {
		return !slices.Contains(undecided, CodeOf(err))
	}
	return !v.Accepted && v.Reason != ReasonAlreadyUsed && v.Reason != ReasonNotBound
}

// checkVerify says what is wrong with the request's form, whoever it is about.
func (s *Service) checkVerify(r VerifyRequest) error {
	bySubject := r.Class != "" || r.Subject.Reveal() != ""
	switch {
	case bySubject && r.Serial != "":
		return &Error{Code: CodeInvalid, Detail: "name the token by its serial, or its owner by class and subject, not both"}
	case bySubject:
		if err := checkSubject(r.Class, r.Subject); err != nil {
			return err
		}
		if n := len(r.OTP.Reveal()); n < 6 || n > 8 {
			return &Error{Code: CodeOTPMalformed, Detail: otp.ErrMalformed.Error()}
		}
	default:
		if err := checkSerial(r.Serial); err != nil {
			return err
		}
	}
	if err := otp.CheckDigits(r.OTP); err != nil {
		return &Error{Code: CodeOTPMalformed, Detail: err.Error()}
	}
	return s.checkPurpose(r.Use, r.Transaction)
}

// checkPurpose says what is wrong with the use or the transaction a password is for.
func (s *Service) checkPurpose(use string, t *otp.Transaction) error {
	if !slices.Contains(s.Uses, use) {
		return &Error{Code: CodeInvalid, Detail: "use must be " + oneOf(s.Uses)}
	}
	if t != nil && t.Validate() != nil {
		return &Error{Code: CodeInvalid, Detail: otp.ErrTransaction.Error()}
	}
	return nil
}

// verify decides once, from the store as it is now.
func (s *Service) verify(ctx context.Context, r VerifyRequest, who owner) (Verdict, decision, error) {
	ctx, err := s.readAhead(ctx, s.foreseen(r, who))
	if err != nil {
		return Verdict{}, decision{}, err
	}
	a, why, err := s.attempt(ctx, r, who)
	if err != nil {
		d, err := refusedAttempt(err)
		return Verdict{}, d, err
	}
	if why != "" {
		return a.refused(why, 0)
	}
	if why, wait := a.gate(); why != "" {
		return a.refused(why, wait)
	}
	m, err := s.match(ctx, a)
	switch {
	case err != nil:
		return Verdict{}, decision{}, err
	case m.token == nil:
		return s.missed(a)
	case m.again:
		return a.again(*m.token)
	}
	return s.matched(a, m)
}

// refusedAttempt turns the errors that are decisions into refusals, so that they are logged; others pass.
func refusedAttempt(err error) (decision, error) {
	var e *Error
	if errors.As(err, &e) && (e.Code == CodeTokenNotFound || e.Code == CodeOTPMalformed || e.Code == CodePINMissing) {
		return refuse(e.Code, e.Detail), nil
	}
	return decision{}, err
}

// refused makes a verdict that changes nothing but the log.
func (a attempt) refused(why Reason, wait time.Duration) (Verdict, decision, error) {
	return Verdict{Reason: why, RetryAfter: wait, Serial: a.Serial}, decision{
		unsettled: why == ReasonThrottled || why == ReasonLocked,
		change:    store.Change{Require: a.require},
		entry:     audit.Entry{Outcome: audit.Refused, Reason: string(why), Serial: a.logged(), Use: a.Use},
	}, nil
}

// again makes the verdict of the password that was accepted last: it is no guess.
func (a attempt) again(t token) (Verdict, decision, error) {
	v, d, err := a.refused(ReasonAlreadyUsed, 0)
	v.Serial, d.entry.Serial = t.Serial, t.Serial
	return v, d, err
}

// missed makes the verdict of a wrong password: one guess is counted, and one try of every challenge it might have
// answered, in the same commit.
func (s *Service) missed(a attempt) (Verdict, decision, error) {
	v, d, _ := a.refused(ReasonMismatch, 0)
	guesses := a.guesses.miss(a.now)
	d.entry.Budget = guesses.Sequence
	row, err := s.budgetRow(a.subject, a.Use, guesses)
	if err != nil {
		return Verdict{}, decision{}, err
	}
	d.change.Put = append(d.change.Put, row)
	for _, t := range a.tokens {
		if !s.countTry(&t, a) {
			continue
		}
		if err := s.putState(&d, &t); err != nil {
			return Verdict{}, decision{}, err
		}
	}
	return v, d, nil
}

// matched makes the verdict of a right password: it is used up in the same commit, whether it is good for the
// transaction or not. Were a password that is not bound only looked at, it could be tried out for nothing.
func (s *Service) matched(a attempt, m match) (Verdict, decision, error) {
	t := *m.token
	if t.kind() == KindSMS {
		t.answer(m.challenge)
	} else {
		t.state.Drift = t.Policy.LearnDrift(a.now, t.state.Drift, m.factor)
		t.state.Next = m.factor + 1
	}
	v := Verdict{Accepted: true, Serial: t.Serial, Kind: t.kind(), Bound: m.bound}
	d := decision{change: store.Change{Require: a.require}, entry: audit.Entry{Outcome: audit.Accepted, Use: a.Use}}
	if a.Transaction != nil && !m.bound && !t.Policy.AllowUnbound {
		v.Accepted, v.Reason = false, ReasonNotBound
		d.entry.Outcome, d.entry.Reason = audit.Refused, string(ReasonNotBound)
	}
	if err := s.putState(&d, &t); err != nil {
		return Verdict{}, decision{}, err
	}
	if v.Accepted && a.guesses.Run > 0 {
		guesses := a.guesses.success()
		row, err := s.budgetRow(a.subject, a.Use, guesses)
		if err != nil {
			return Verdict{}, decision{}, err
		}
		d.change.Put = append(d.change.Put, row)
		d.entry.Budget = guesses.Sequence
	}
	return v, d, nil
}

// putState adds a token's changed state to the decision, with the code rows of challenges that are over.
func (s *Service) putState(d *decision, t *token) error {
	row, err := s.stateRow(t)
	if err != nil {
		return err
	}
	d.change.Put = append(d.change.Put, row)
	d.change.Delete = append(d.change.Delete, t.over...)
	d.entry.Serial, d.entry.Next, d.entry.State = t.Serial, t.state.Next, t.state.Sequence
	return nil
}
