package keyservice

import (
	"context"
	"slices"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// match is what a typed password turned out to be: nothing, if it has no token.
type match struct {
	token     *token
	again     bool   // the password accepted last, once more
	factor    uint64 // the moving factor it comes from, if it is one of a device …
	challenge int    // … or the challenge it answers
	bound     bool   // it was made for the attempt's transaction
}

// match tries what each token would make, and stops at the first that is the typed password. A valid password normally
// costs one HMAC. Where there is no token it works for nothing, so that a stranger does not see it from the time.
func (s *Service) match(ctx context.Context, a attempt) (match, error) {
	if len(a.tokens) == 0 {
		return match{}, s.decoy(ctx)
	}
	for i := range a.tokens {
		m, err := s.matchToken(ctx, a, &a.tokens[i])
		if err != nil || m.token != nil {
			return m, err
		}
	}
	return match{}, nil
}

// decoyMACs is about the work of a window.
const decoyMACs = 4

func (s *Service) decoy(ctx context.Context) error {
	for range decoyMACs {
		if _, err := s.HSM.Digest(ctx, "decoy", nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) matchToken(ctx context.Context, a attempt, t *token) (match, error) {
	if t.kind() == KindSMS {
		return s.matchChallenge(ctx, a, t)
	}
	return s.matchFactor(ctx, a, t)
}

// matchFactor tries the acceptable moving factors, most likely first, and second of all the one accepted last: a used
// password that is sent again must not get as many chances as the window has factors to be, by accident, a later one.
func (s *Service) matchFactor(ctx context.Context, a attempt, t *token) (match, error) {
	maker, err := s.passwords(ctx, *t, a.Transaction)
	if err != nil {
		return match{}, err
	}
	defer clear(maker.pin)
	plan := t.Policy.Plan(a.now, t.state.Drift, t.state.Next)
	if t.state.Next > 0 {
		plan = slices.Insert(plan, min(1, len(plan)), t.state.Next-1)
	}
	var m match
	err = s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) error {
		m = match{} // the HSM may run this again from its start
		for _, factor := range plan {
			right, err := maker.is(mac, factor, a.OTP)
			if err != nil {
				return err
			}
			if right {
				m = match{token: t, factor: factor, again: factor < t.state.Next, bound: t.Policy.Signs}
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return match{}, err
	}
	return m, nil
}

// maker makes a token's passwords in the HSM, one per moving factor.
type maker struct {
	policy      otp.Policy
	pin         []byte // digest of the customer's PIN, if the suite takes one; to be cleared
	transaction *otp.Transaction
}

// passwords reads what enters the token's passwords besides the moving factor. A token that signs signs the transaction.
func (s *Service) passwords(ctx context.Context, t token, transaction *otp.Transaction) (maker, error) {
	pin, err := s.pinDigest(ctx, t)
	if err != nil {
		return maker{}, err
	}
	if !t.Policy.Signs {
		transaction = nil
	}
	return maker{policy: t.Policy, pin: pin, transaction: transaction}, nil
}

// is says whether the password of this moving factor is the typed one.
func (p maker) is(mac seed.MAC, factor uint64, typed seed.Password) (bool, error) {
	message, err := p.policy.Message(factor, p.pin, p.transaction)
	if err != nil {
		return false, err
	}
	defer clear(message)
	return macIs(mac, message, p.policy.Digits, typed)
}

// macIs says whether the MAC of the message truncates to the typed password, in constant time.
func macIs(mac seed.MAC, message []byte, digits int, typed seed.Password) (bool, error) {
	sum, err := mac(message)
	if err != nil {
		return false, err
	}
	right, err := otp.Truncate(sum, digits)
	clear(sum)
	return err == nil && otp.Equal(right, typed), err
}
