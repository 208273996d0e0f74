package keyservice

import (
	"context"
	"errors"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// The seed of a hardware token outlives the token: its device goes on counting, and may be handed to another customer. So
// each seed that a maker delivered has a row, found by its fingerprint, that names the token it was given to last. The row
// stays when that token is deactivated: whoever gets the seed next begins where it ended, and no used password is accepted
// again. It is written in the commit of the activation only, on condition that it is as it was when that was decided.

// makerRecord says in a token's record which maker's seed it has, so that the seed's row can be held against it.
type makerRecord struct {
	Fingerprint seed.MACed `cbor:"1,keyasint"`
	Holder      uint64     `cbor:"2,keyasint"` // the token is the seed's first, second … holder
}

// holder is the row of a maker's seed: the token that has it, or had it last.
type holder struct {
	Schema uint8  `cbor:"0,keyasint"`
	Serial string `cbor:"1,keyasint"`
	Holder uint64 `cbor:"2,keyasint"` // counts the tokens that had the seed, this one included
}

const makerSeedRow = "maker seed" // as errors and the log name it

func makerSeedKey(fingerprint seed.MACed) store.Key { return store.Key("h/" + named(fingerprint)) }

// enrolHardware takes the seed of a hardware token from its maker, inside the HSM. A blob that the HSM refuses is the
// caller's fault: the service did not make it.
func (s *Service) enrolHardware(ctx context.Context, t token, dev device) (token, *Error, error) {
	made, err := s.HSM.Import(ctx, dev.maker, t.Policy.Hash)
	if errors.Is(err, seed.ErrBadBlob) {
		return t, &Error{Code: CodeSeedInvalid, Detail: "maker_seed is not wrapped to the import key, or is not a seed of a length that the token's hash takes"}, nil
	}
	if err != nil {
		return t, nil, err
	}
	t.Seed = &made.ForStore
	if err := s.seeSeed(ctx, made, t.Policy.Hash); err != nil {
		return t, nil, err
	}
	t, inUse, err := s.takeOver(ctx, t, made.Fingerprint)
	if err != nil || inUse != nil {
		return t, inUse, err
	}
	return t.pending(dev), nil, nil
}

// seeSeed moves the row of a maker's seed to the active version of the lookup key, if it stands under an older one: nobody
// else can, once the token that had the seed last has ended.
func (s *Service) seeSeed(ctx context.Context, made seed.Imported, hash seed.Hash) error {
	for _, key := range s.ring.Load().older(lookupLabel) {
		sum, err := s.HSM.FingerprintWith(ctx, key, made.ForStore, hash)
		if err != nil {
			return err
		}
		from := makerSeedKey(seed.MACed{Key: key, Sum: sum})
		_, err = s.decide(ctx, itself, moveSubject, "", func() (decision, error) { return s.seedMoved(ctx, from, made.Fingerprint) })
		if err != nil && !errors.Is(err, errNothingToMove) {
			return err
		}
	}
	return nil
}

// seedMoved makes the decision that moves a seed's row, and the fingerprint in the record of the token that it names.
func (s *Service) seedMoved(ctx context.Context, from store.Key, to seed.MACed) (decision, error) {
	items, err := s.Store.Get(ctx, from)
	if err != nil {
		return decision{}, storeError(err)
	}
	if items[0].Version == 0 {
		return decision{}, errNothingToMove
	}
	last, err := s.lastHolder(ctx, items[0])
	if err != nil {
		return decision{}, err
	}
	var with decision
	if last, err = s.moveHolder(ctx, last, to, &with); err != nil {
		return decision{}, err
	}
	d, err := s.save(ctx, last)
	d.entry.Serial = last.Serial
	d.add(with.change)
	return d, err
}

// takeOver makes the token the next holder of a maker's seed, from the watermark of the last one on. It refuses while that
// one is not deactivated.
func (s *Service) takeOver(ctx context.Context, t token, fingerprint seed.MACed) (token, *Error, error) {
	items, err := s.Store.Get(ctx, makerSeedKey(fingerprint))
	if err != nil {
		return t, nil, storeError(err)
	}
	t.Maker = &makerRecord{Fingerprint: fingerprint, Holder: 1}
	t.require = append(t.require, requireItems(items)...)
	if items[0].Version == 0 {
		return t, nil, nil
	}
	last, err := s.lastHolder(ctx, items[0])
	if err != nil {
		return t, nil, err
	}
	if last.Status != Deactivated {
		return t, &Error{Code: CodeSeedInUse, Detail: "another token has this seed: deactivate that one first"}, nil
	}
	t.require = append(t.require, last.require...)
	t.Maker.Holder, t.state.Next = last.Maker.Holder+1, last.state.Next
	return t, nil, nil
}

// lastHolder loads the token that the row of a maker's seed names; a row that names one that never had the seed is
// *tampered.
func (s *Service) lastHolder(ctx context.Context, it store.Item) (token, error) {
	h, err := unmac[holder](s, it, makerSeedRow)
	if err != nil {
		return token{}, err
	}
	t, err := s.load(ctx, h.Serial)
	if CodeOf(err) == CodeTokenNotFound || err == nil && !t.Maker.is(it.Key, h) {
		return token{}, &tampered{what: makerSeedRow, err: errors.New("it names a token that did not have the seed"), serial: h.Serial}
	}
	return t, err
}

// is says whether the record is of the token that this row names.
func (m *makerRecord) is(row store.Key, h holder) bool {
	return m != nil && makerSeedKey(m.Fingerprint) == row && m.Holder == h.Holder
}

// addHolder adds the row of the maker's seed that the token got; its precondition is among the token's.
func (s *Service) addHolder(t token, d *decision) error {
	if err := s.ring.Load().writable(t.Maker.Fingerprint.Key); err != nil {
		return err
	}
	row, err := s.mac(makerSeedKey(t.Maker.Fingerprint), holder{Schema: schema, Serial: t.Serial, Holder: t.Maker.Holder})
	if err != nil {
		return err
	}
	d.change.Put = append(d.change.Put, row)
	return nil
}

// compareHolder looks whether the row of a hardware token's seed names the token, or one that had the seed later.
func (s *Service) compareHolder(ctx context.Context, snap store.Snapshot, r record) (Discrepancy, error) {
	d := Discrepancy{Serial: r.Serial, What: makerSeedRow}
	if r.Maker == nil {
		return d, nil
	}
	d.Logged = r.Maker.Holder
	h, err := stored(ctx, snap, makerSeedKey(r.Maker.Fingerprint), func(it store.Item) (holder, error) { return unmac[holder](s, it, makerSeedRow) })
	if h.Serial == r.Serial || h.Holder != r.Maker.Holder {
		d.Stored = h.Holder
	}
	if h.Schema == 0 && s.outlived(r, r.Maker.Fingerprint) {
		d.Logged = 0 // a later holder's row stands under another fingerprint
	}
	return d, err
}
