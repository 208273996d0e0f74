package keyservice

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

var errNothingToRenew = errors.New("all of it is under the active keys")

// hopeless says that something cannot be renewed as it is, though HSM and database work.
func hopeless(err error) bool {
	var u *unknownKey
	code := CodeOf(err)
	return isTampered(err) || errors.As(err, &u) || errors.Is(err, seed.ErrBadBlob) || errors.Is(err, seed.ErrKeyNotFound) ||
		code == CodeKeyRetired || code == CodeKeyDestroyed
}

// renewed makes the decision that brings everything in a token under the active keys, and leaves what it says as it is.
func (s *Service) renewed(ctx context.Context, serial string) (decision, error) {
	keys := []store.Key{recordKey(serial), stateRowKey(serial)}
	ctx, err := s.readAhead(ctx, keys)
	if err != nil {
		return decision{}, err
	}
	before, err := s.load(ctx, serial)
	if err != nil {
		return decision{}, err
	}
	rows, err := s.get(ctx, keys...)
	if err != nil {
		return decision{}, storeError(err)
	}
	after, err := s.renewToken(ctx, before)
	if err != nil {
		return decision{}, err
	}
	if s.underActiveSeal(rows) && reflect.DeepEqual(before, after) {
		return decision{}, errNothingToRenew
	}
	d, err := s.save(ctx, after)
	if err != nil {
		return decision{}, err
	}
	d.entry.Serial = serial
	return d, nil
}

// underActiveSeal says whether the seals and MACs of these rows are under the active version of the seal key.
func (s *Service) underActiveSeal(rows []store.Item) bool {
	active := s.ring.Load().activeOf(sealLabel)
	return !slices.ContainsFunc(rows, func(it store.Item) bool {
		e, err := store.Decode[envelope](it.Value)
		return err != nil || e.Seal != nil && e.Seal.Key != active || e.Seal == nil && e.By != active.Version
	})
}

// renewToken renews what is in a token's rows.
func (s *Service) renewToken(ctx context.Context, t token) (_ token, err error) {
	ring := s.ring.Load()
	if t.Seed != nil && t.Seed.Key != ring.activeOf(wrapLabel) {
		moved, err := s.HSM.Rewrap(ctx, *t.Seed, t.Policy.Hash)
		if err != nil {
			return t, err
		}
		t.Seed = &moved
	}
	if t, err = s.renewSecrets(ctx, t); err != nil {
		return t, err
	}
	if t.Code != nil && t.Code.Key != ring.activeOf(digestLabel) && s.codeDead(t) != nil {
		dead := *t.Code // nobody can collect or use it any more, so it need not be the same
		dead.Key = ring.activeOf(digestLabel)
		t.Code = &dead
	}
	return t.forgotten(ring.activeOf(lookupLabel)), nil
}

// renewSecrets encrypts what the token keeps of its customer under the active data key.
func (s *Service) renewSecrets(ctx context.Context, t token) (_ token, err error) {
	lastFour := &t.LastFour
	if err = s.renewSecret(ctx, &lastFour, lastFourAAD(t.Serial)); err != nil {
		return t, err
	}
	t.LastFour = *lastFour
	if err = s.renewSecret(ctx, &t.Mobile, mobileAAD(t.Serial)); err != nil {
		return t, err
	}
	if err = s.renewSecret(ctx, &t.PIN, pinAAD(t.Serial)); err != nil {
		return t, err
	}
	t.state.Challenges = slices.Clone(t.state.Challenges)
	for i := range t.state.Challenges {
		ch := &t.state.Challenges[i]
		if err = s.renewSecret(ctx, &ch.Transaction, transactionAAD(ch.ID)); err != nil {
			return t, err
		}
	}
	if t.state.Answered != nil {
		answered := *t.state.Answered
		err = s.renewSecret(ctx, &answered.Transaction, transactionAAD(answered.ID))
		t.state.Answered = &answered
	}
	return t, err
}

// renewSecret replaces an encrypted secret, if there is one, unless it is under the active data key.
func (s *Service) renewSecret(ctx context.Context, at **seed.Encrypted, aad []byte) error {
	if *at == nil || (*at).Key == s.ring.Load().activeOf(dataLabel) {
		return nil
	}
	plain, err := s.HSM.Decrypt(ctx, aad, **at)
	if err != nil {
		return err
	}
	defer clear(plain)
	anew, err := s.HSM.Encrypt(ctx, aad, plain)
	*at = &anew
	return err
}

// forgotten lets go of whose an ended token was, if that is named under an older version of the lookup key: it is of no
// more use to anybody. Whose a live one is moves when its customer is seen.
func (t token) forgotten(active seed.KeyRef) token {
	if t.Status == Deactivated && t.Subject.Sum != nil && t.Subject.Key != active {
		t.Subject = seed.MACed{}
	}
	return t
}
