package keyservice

import (
	"context"
	"errors"
	"slices"
	"time"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// owner is whose password a request is about, as far as it is known before anything is decided.
type owner struct {
	subject seed.MACed   // pseudonym, if the request names a subject
	older   []seed.MACed // those under older versions of the lookup key; nothing stands under them any more
	under   *keyring     // the key ring that these were made under
	serials []string     // the tokens it may come from, for their locks
}

// limited is what counts as one subject when the subjects of a caller are counted.
func (o owner) limited() string {
	if o.subject.Sum != nil {
		return string(o.subject.Sum)
	}
	return o.serials[0]
}

// whose finds the tokens to lock. What it finds is only a hint: the decision reads everything again.
func (s *Service) whose(ctx context.Context, r VerifyRequest) (owner, error) {
	if r.Serial != "" {
		return owner{serials: []string{r.Serial}}, nil
	}
	return s.ownerOf(ctx, r.Class, r.Subject)
}

// ownerOf makes the subject's pseudonym and finds its live tokens. What is stored of the subject under an older version of
// the lookup key moves first.
func (s *Service) ownerOf(ctx context.Context, class string, subject seed.Subject) (owner, error) {
	o, err := s.see(ctx, class, subject)
	if err != nil {
		return owner{}, err
	}
	items, err := s.Store.Get(ctx, liveKeys(class, o.subject)...)
	if err != nil {
		return owner{}, storeError(err)
	}
	for _, it := range items {
		if p, err := unmac[pointer](s, it, "live token"); err == nil { // a bad one is found when it is decided
			o.serials = append(o.serials, p.Serial)
		}
	}
	return o, nil
}

// liveKeys are the rows that name a subject's live tokens: the one whose passwords are sent first.
func liveKeys(class string, subject seed.MACed) []store.Key {
	return []store.Key{liveKey(class, KindSMS, subject), liveKey(class, KindOffline, subject)}
}

// attempt is everything one decision about a typed password is made from.
type attempt struct {
	VerifyRequest
	now     time.Time
	subject seed.MACed // pseudonym
	tokens  []token    // that it may come from
	guesses budget
	limits  []GuessLimits // of those tokens, and by subject those for strangers; all must let it pass
	require []store.Require
}

// attempt loads what the request is about. A reason says why nothing is looked at; then only by serial.
func (s *Service) attempt(ctx context.Context, r VerifyRequest, who owner) (attempt, Reason, error) {
	a := attempt{VerifyRequest: r, now: s.Clock(), subject: who.subject, limits: []GuessLimits{s.Guess}}
	if r.Serial == "" {
		return a, "", s.attemptSubject(ctx, &a)
	}
	t, err := s.load(ctx, r.Serial)
	if err != nil {
		return a, "", err
	}
	if len(r.OTP.Reveal()) != t.Policy.Digits {
		return a, "", &Error{Code: CodeOTPMalformed, Detail: otp.ErrMalformed.Error()}
	}
	a.require = t.require
	if why := unusable(t, r.Use, r.Transaction); why != "" {
		return a, why, nil
	}
	if t.Policy.PINDigits > 0 && t.PIN == nil {
		return a, "", noPIN()
	}
	s.subjects.Add(t.Serial, t.Subject)
	a.subject, a.tokens, a.limits = t.Subject, []token{t}, []GuessLimits{t.Guess}
	return a, "", s.loadGuesses(ctx, &a, true)
}

// attemptSubject loads those live tokens of the subject that the password may come from. There may be none.
func (s *Service) attemptSubject(ctx context.Context, a *attempt) error {
	live, err := s.liveTokens(ctx, a)
	if err != nil {
		return err
	}
	counted := false // a token connected to the use has a budget for it
	for _, t := range live {
		counted = counted || slices.Contains(t.Uses, a.Use)
		if unusable(t, a.Use, a.Transaction) == "" && len(a.OTP.Reveal()) == t.Policy.Digits && (t.Policy.PINDigits == 0 || t.PIN != nil) {
			a.tokens = append(a.tokens, t)
			a.limits = append(a.limits, t.Guess)
		}
	}
	return s.loadGuesses(ctx, a, counted)
}

// liveTokens loads the subject's live tokens and makes the decision depend on them, and on there being no others.
func (s *Service) liveTokens(ctx context.Context, a *attempt) ([]token, error) {
	items, err := s.get(ctx, liveKeys(a.Class, a.subject)...)
	if err != nil {
		return nil, storeError(err)
	}
	a.require = requireItems(items)
	var live []token
	for _, it := range items {
		if it.Version == 0 {
			continue
		}
		t, err := s.loadLive(ctx, it)
		if err != nil {
			return nil, err
		}
		a.require = append(a.require, t.require...)
		live = append(live, t)
	}
	return live, nil
}

// loadLive loads the token that a live row names; a row that names none, or another subject's, is *tampered.
func (s *Service) loadLive(ctx context.Context, it store.Item) (token, error) {
	p, err := unmac[pointer](s, it, "live token")
	if err != nil {
		return token{}, err
	}
	t, err := s.load(ctx, p.Serial)
	if CodeOf(err) == CodeTokenNotFound || err == nil && liveKey(t.Class, t.kind(), t.Subject) != it.Key {
		return token{}, &tampered{what: "live token", err: errors.New("it names a token that is not the subject's"), serial: p.Serial}
	}
	return t, err
}

// unusable says why no password of this token is good for this use and transaction; "" if one may be.
func unusable(t token, use string, transaction *otp.Transaction) Reason {
	switch {
	case t.Status != Active:
		return ReasonNotActive
	case t.state.Astray > 0:
		return ReasonAstray
	case !slices.Contains(t.Uses, use):
		return ReasonNotConnected
	case t.Policy.Signs && transaction == nil:
		return ReasonUnsigned
	}
	return ""
}

// loadGuesses reads the guess budget of the subject and use, and makes the decision depend on it. It must be there if a
// token is connected to the use.
func (s *Service) loadGuesses(ctx context.Context, a *attempt, must bool) error {
	b, it, err := s.loadBudget(ctx, a.subject, a.Use, must)
	a.guesses = b
	a.require = append(a.require, store.Require{Key: it.Key, Version: it.Version})
	return err
}

// gate says whether the guess may be looked at: every token's limits must let it pass.
func (a attempt) gate() (why Reason, wait time.Duration) {
	for _, l := range a.limits {
		if r, w := a.guesses.gate(l, a.now); r != "" && w >= wait {
			why, wait = r, w
		}
	}
	return why, wait
}

// logged is the token under which a verdict stands in the log; "" if there is none.
func (a attempt) logged() string {
	if a.Serial == "" && len(a.tokens) > 0 {
		return a.tokens[len(a.tokens)-1].Serial
	}
	return a.Serial
}
