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
	var with decision
	after, err := s.renewToken(ctx, before, &with)
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
	d.add(with.change)
	return d, nil
}

// add makes further rows part of the decision.
func (d *decision) add(change store.Change) {
	d.change.Put, d.change.Delete = append(d.change.Put, change.Put...), append(d.change.Delete, change.Delete...)
	d.require(change.Require)
}

// underActiveSeal says whether the seals and MACs of these rows are under the active version of the seal key.
func (s *Service) underActiveSeal(rows []store.Item) bool {
	active := s.ring.Load().activeOf(sealLabel)
	return !slices.ContainsFunc(rows, func(it store.Item) bool {
		e, err := store.Decode[envelope](it.Value)
		return err != nil || e.Seal != nil && e.Seal.Key != active || e.Seal == nil && e.By != active.Version
	})
}

// renewToken renews what is in a token's rows; what follows for other rows is added to with.
func (s *Service) renewToken(ctx context.Context, t token, with *decision) (_ token, err error) {
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
	return s.renewNames(ctx, ring, t, with)
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

// renewNames brings to the active version of the lookup key what needs no card number for that: the fingerprint of a
// maker's seed. Whose an ended token was is of no more use to anybody, and is let go.
func (s *Service) renewNames(ctx context.Context, ring *keyring, t token, with *decision) (token, error) {
	active := ring.activeOf(lookupLabel)
	if t.Status == Deactivated {
		if t.Subject.Sum != nil && t.Subject.Key != active {
			t.Subject = seed.MACed{}
		}
		return t, nil
	}
	if t.Maker == nil || t.Seed == nil || t.Maker.Fingerprint.Key == active {
		return t, nil
	}
	fingerprint, err := s.HSM.Fingerprint(ctx, *t.Seed, t.Policy.Hash)
	if err != nil {
		return t, err
	}
	return s.moveHolder(ctx, t, fingerprint, with)
}

// moveHolder moves the row of a maker's seed to another fingerprint.
func (s *Service) moveHolder(ctx context.Context, t token, to seed.MACed, with *decision) (token, error) {
	items, err := s.Store.Get(ctx, makerSeedKey(t.Maker.Fingerprint))
	if err != nil {
		return t, storeError(err)
	}
	h, err := unmac[holder](s, items[0], makerSeedRow)
	if err == nil && h.Serial != t.Serial {
		err = &tampered{what: makerSeedRow, err: errors.New("another token has this one's seed"), serial: t.Serial}
	}
	if err != nil {
		return t, err
	}
	maker := *t.Maker
	maker.Fingerprint = to
	t.Maker = &maker
	with.change.Require = append(requireItems(items), store.Require{Key: makerSeedKey(to)})
	with.change.Delete = []store.Key{items[0].Key}
	return t, s.addHolder(t, with)
}
