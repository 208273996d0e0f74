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

// ResyncRequest proves possession of a token with two consecutive passwords.
type ResyncRequest struct {
	Serial string
	First  seed.Password
	Second seed.Password // the one after First
}

// ResyncVerdict answers Resync. A refusal is a verdict, not an error.
type ResyncVerdict struct {
	Accepted   bool
	Reason     Reason        // set when refused
	RetryAfter time.Duration // set when throttled or locked
	Drift      time.Duration // of the device's clock, as learnt
	Audit      audit.Position
}

// Resync finds a token again whose clock or counter went astray, by two consecutive passwords from a wider window (RFC
// 4226 section 7.4, RFC 6238 section 6). Both are used up. Whoever has them has the token, so its uses are unlocked.
// Tries are counted in a budget of their own: a customer whom strangers locked out is not locked out here.
func (s *Service) Resync(ctx context.Context, c authz.Caller, r ResyncRequest) (ResyncVerdict, error) {
	if err := s.authorise(ctx, c, authz.ResyncToken, r.Serial); err != nil {
		return ResyncVerdict{}, err
	}
	if err := checkSerial(r.Serial); err != nil {
		return ResyncVerdict{}, err
	}
	for _, p := range []seed.Password{r.First, r.Second} {
		if err := otp.CheckDigits(p); err != nil {
			return ResyncVerdict{}, &Error{Code: CodeOTPMalformed, Detail: err.Error()}
		}
	}
	unlock, err := s.locks.lock(ctx, r.Serial)
	if err != nil {
		return ResyncVerdict{}, err
	}
	defer unlock()
	var v ResyncVerdict
	index, err := s.decide(ctx, c, authz.ResyncToken, r.Serial, func() (d decision, err error) {
		v, d, err = s.resync(ctx, r)
		return d, err
	})
	if err != nil {
		return ResyncVerdict{}, err
	}
	v.Audit = s.position(index)
	return v, nil
}

// resync decides once, from the store as it is now.
func (s *Service) resync(ctx context.Context, r ResyncRequest) (ResyncVerdict, decision, error) {
	t, err := s.load(ctx, r.Serial)
	if err != nil {
		d, err := notFound(err)
		return ResyncVerdict{}, d, err
	}
	if no := unsyncable(t, r); no != nil {
		return ResyncVerdict{}, refuse(no.Code, no.Detail), nil
	}
	if t.Status != Active {
		return unsynced(t, ReasonNotActive, 0)
	}
	now := s.Clock()
	tries, it, err := s.loadBudget(ctx, t.Subject, resyncUse, true)
	if err != nil {
		return ResyncVerdict{}, decision{}, err
	}
	t.require = append(t.require, store.Require{Key: it.Key, Version: it.Version})
	if why, wait := tries.gate(t.Guess, now); why != "" {
		return unsynced(t, why, wait)
	}
	factor, found, err := s.matchPair(ctx, t, r, now)
	switch {
	case err != nil:
		return ResyncVerdict{}, decision{}, err
	case !found:
		return s.missedPair(t, tries.miss(now))
	}
	return s.synced(ctx, t, now, factor)
}

// unsyncable says why the token can never be found again by these passwords; nil if it can.
func unsyncable(t token, r ResyncRequest) *Error {
	switch {
	case t.kind() == KindSMS:
		return &Error{Code: CodeInvalid, Detail: "an SMS token has no clock or counter of its own; an issuer can unlock it"}
	case len(r.First.Reveal()) != t.Policy.Digits || len(r.Second.Reveal()) != t.Policy.Digits:
		return &Error{Code: CodeOTPMalformed, Detail: otp.ErrMalformed.Error()}
	case t.Status == Active && t.Policy.PINDigits > 0 && t.PIN == nil:
		return noPIN()
	}
	return nil
}

// matchPair finds the moving factor of the first password, such that the second comes from the next one.
func (s *Service) matchPair(ctx context.Context, t token, r ResyncRequest, now time.Time) (factor uint64, found bool, err error) {
	maker, err := s.passwords(ctx, t, nil)
	if err != nil {
		return 0, false, err
	}
	defer clear(maker.pin)
	plan := t.Policy.ResyncPlan(now, t.state.Next)
	err = s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) (err error) {
		found = false // the HSM may run this again from its start
		for _, factor = range plan {
			first, err := maker.is(mac, factor, r.First)
			if err != nil {
				return err
			}
			if !first {
				continue
			}
			if found, err = maker.is(mac, factor+1, r.Second); err != nil || found {
				return err
			}
		}
		return nil
	})
	return factor, found, err
}

func unsynced(t token, why Reason, wait time.Duration) (ResyncVerdict, decision, error) {
	return ResyncVerdict{Reason: why, RetryAfter: wait, Drift: t.state.Drift}, decision{
		change: store.Change{Require: t.require},
		entry:  audit.Entry{Outcome: audit.Refused, Reason: string(why), Use: resyncUse},
	}, nil
}

func (s *Service) missedPair(t token, tries budget) (ResyncVerdict, decision, error) {
	v, d, _ := unsynced(t, ReasonMismatch, 0)
	row, err := s.budgetRow(t.Subject, resyncUse, tries)
	d.change.Put, d.entry.Budget = []store.Put{row}, tries.Sequence
	return v, d, err
}

// synced makes the verdict of two right passwords: the watermark rises over both, and the token's uses are unlocked.
func (s *Service) synced(ctx context.Context, t token, now time.Time, factor uint64) (ResyncVerdict, decision, error) {
	t.state.Drift = t.Policy.ResyncDrift(now, t.state.Drift, factor+1)
	t.state.Next = factor + 2
	if t.state.Astray > 1 {
		return s.halfFound(t)
	}
	t.state.Astray = 0
	d, err := s.forgiven(ctx, t)
	if err != nil {
		return ResyncVerdict{}, decision{}, err
	}
	return ResyncVerdict{Accepted: true, Drift: t.state.Drift}, d, s.putState(&d, &t)
}

// astrayPairs is how many pairs find a counter that a restore has lost. After the first one all that can be said is that
// somebody has, or had, two passwords in a row: they may have been used after the backup. They are used up, and nothing is
// accepted before two more follow, which is more than anyone has who saw one pair.
const astrayPairs = 2

// halfFound makes the verdict of a pair that is right, but not enough.
func (s *Service) halfFound(t token) (ResyncVerdict, decision, error) {
	t.state.Astray--
	v, d, err := unsynced(t, ReasonAstray, 0)
	if err != nil {
		return v, d, err
	}
	return v, d, s.putState(&d, &t)
}

// forgiven makes the decision that forgives every miss of the token's uses, and those of resynchronising and activating.
func (s *Service) forgiven(ctx context.Context, t token) (decision, error) {
	d := decision{change: store.Change{Require: t.require}, entry: audit.Entry{Outcome: audit.Done}}
	for _, use := range append(slices.Clone(t.Uses), resyncUse, activationUse) {
		b, it, err := s.loadBudget(ctx, t.Subject, use, true)
		if err != nil {
			return decision{}, err
		}
		row, err := s.budgetRow(t.Subject, use, b.forgiven())
		if err != nil {
			return decision{}, err
		}
		if !slices.ContainsFunc(d.change.Require, func(r store.Require) bool { return r.Key == it.Key }) {
			d.change.Require = append(d.change.Require, store.Require{Key: it.Key, Version: it.Version})
		}
		d.change.Put = append(d.change.Put, row)
	}
	return d, nil
}

// Unlock forgives the misses of every use the token is connected to, and those of resynchronising and activating it; of an SMS
// token also how often its passwords were asked for.
func (s *Service) Unlock(ctx context.Context, c authz.Caller, serial string) (Status, error) {
	if err := s.authorise(ctx, c, authz.UnlockToken, serial); err != nil {
		return "", err
	}
	if err := checkSerial(serial); err != nil {
		return "", err
	}
	unlock, err := s.locks.lock(ctx, serial)
	if err != nil {
		return "", err
	}
	defer unlock()
	var status Status
	_, err = s.decide(ctx, c, authz.UnlockToken, serial, func() (decision, error) {
		t, err := s.load(ctx, serial)
		if err != nil {
			return notFound(err)
		}
		if status = t.Status; status == Deactivated {
			no := notWhile(status, "there is nothing to unlock")
			return refuse(no.Code, no.Detail), nil
		}
		d, err := s.forgiven(ctx, t)
		if err != nil || t.state.Asked == nil {
			return d, err
		}
		t.state.Asked = nil
		return d, s.putState(&d, &t)
	})
	if err != nil {
		return "", err
	}
	return status, nil
}
