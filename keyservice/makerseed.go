package keyservice

import (
	"context"
	"errors"
	"slices"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// The seed of a hardware token outlives the token: its device goes on counting, and may be handed to another customer. So
// each seed that a maker delivered has a row, found by its fingerprint, that names the token it was given to last. The row
// stays when that token is deactivated: whoever gets the seed next begins where it ended, and no used password is accepted
// again. It is written in the commit of the activation only, on condition that it is as it was when that was decided.
//
// The row stands under the fingerprint's digest by the host's key, which no rotation changes: once a token has ended, its
// seed is forgotten, and nobody could bring the row to another key before the device comes again, if it ever does. Whoever
// only has the database cannot hold a maker's list of seeds against it.

// makerRecord says in a token's record which maker's seed it has, so that the seed's row can be held against it.
type makerRecord struct {
	Fingerprint []byte `cbor:"1,keyasint"` // a digest of it: see keyring.digest
	Holder      uint64 `cbor:"2,keyasint"` // the token is the seed's first, second … holder
}

// holder is the row of a maker's seed: the token that has it, or had it last.
type holder struct {
	Schema uint8  `cbor:"0,keyasint"`
	Serial string `cbor:"1,keyasint"`
	Holder uint64 `cbor:"2,keyasint"` // counts the tokens that had the seed, this one included

	Lost   bool   `cbor:"3,keyasint"` // the token was issued after the backup that was restored, and is not there: all that is known of it is …
	Next   uint64 `cbor:"4,keyasint"` // … its state.Next
	Astray int    `cbor:"5,keyasint"` // … and state.Astray
}

const makerSeedRow = "maker seed" // as errors and the log name it

func makerSeedKey(fingerprint []byte) store.Key { return store.Key("h/" + string(fingerprint)) }

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
	t, inUse, err := s.takeOver(ctx, t, s.ring.Load().makerSeed(made))
	if err != nil || inUse != nil {
		return t, inUse, err
	}
	return t.pending(dev), nil, nil
}

// makerSeed names a seed in its row's key and in the log.
func (k *keyring) makerSeed(made seed.Imported) []byte {
	return k.digest(slices.Concat([]byte("ramzban/maker-seed/1\x00"), made.Fingerprint))
}

// takeOver makes the token the next holder of a maker's seed, from the watermark of the last one on. It refuses while that
// one is not deactivated.
func (s *Service) takeOver(ctx context.Context, t token, fingerprint []byte) (token, *Error, error) {
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
	t.Maker.Holder, t.state.Next, t.state.Astray = last.Maker.Holder+1, last.state.Next, last.state.Astray
	return t, nil, nil
}

// lastHolder loads the token that the row of a maker's seed names; a row that names one that never had the seed is
// *tampered.
func (s *Service) lastHolder(ctx context.Context, it store.Item) (token, error) {
	h, err := unmac[holder](s, it, makerSeedRow)
	if err != nil {
		return token{}, err
	}
	if h.Lost {
		return h.lost(it.Key), nil
	}
	t, err := s.load(ctx, h.Serial)
	if CodeOf(err) == CodeTokenNotFound || err == nil && !t.Maker.is(it.Key, h) {
		return token{}, &tampered{what: makerSeedRow, err: errors.New("it names a token that did not have the seed"), serial: h.Serial}
	}
	return t, err
}

// lost is a token that ended with a restore, as far as it is known.
func (h holder) lost(row store.Key) token {
	digest := []byte(strings.TrimPrefix(string(row), string(makerSeedKey(nil))))
	return token{
		record: record{Serial: h.Serial, Status: Deactivated, Maker: &makerRecord{Fingerprint: digest, Holder: h.Holder}},
		state:  state{Next: h.Next, Astray: h.Astray},
	}
}

// is says whether the record is of the token that this row names.
func (m *makerRecord) is(row store.Key, h holder) bool {
	return m != nil && makerSeedKey(m.Fingerprint) == row && m.Holder == h.Holder
}

// addHolder adds the row of the maker's seed that the token got; its precondition is among the token's.
func (s *Service) addHolder(t token, d *decision) error {
	row, err := s.mac(makerSeedKey(t.Maker.Fingerprint), holder{Schema: schema, Serial: t.Serial, Holder: t.Maker.Holder})
	if err != nil {
		return err
	}
	d.change.Put = append(d.change.Put, row)
	d.entry.Maker = &audit.MakerSeed{Digest: t.Maker.Fingerprint, Holder: t.Maker.Holder}
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
	return d, err
}
