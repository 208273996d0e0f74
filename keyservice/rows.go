package keyservice

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Keys of the rows. Every value is bound to its key by the seal or MAC, so that no row passes for another.
func recordKey(serial string) store.Key   { return store.Key("t/" + serial) }
func stateRowKey(serial string) store.Key { return store.Key("s/" + serial) }
func codeKey(id string) store.Key         { return store.Key("c/" + id) }

func liveKey(class, kind string, subject seed.MACed) store.Key {
	return store.Key("l/" + class + "/" + kind + "/" + named(subject))
}

func budgetKey(subject seed.MACed, use string) store.Key { return budgetsOf(subject) + store.Key(use) }

// budgetsOf begins the keys of all guess budgets of a subject.
func budgetsOf(subject seed.MACed) store.Key { return store.Key("b/" + named(subject) + "/") }

// named is a pseudonym as it stands in keys: the version of the lookup key that made it, 4 bytes, big endian, and the MAC.
// So what stands under an older version can be told without knowing whose it is.
func named(m seed.MACed) string {
	return string(binary.BigEndian.AppendUint32(nil, m.Key.Version)) + string(m.Sum)
}

// tampered: a stored row is missing, or is not what the service wrote there.
type tampered struct {
	what   string // "token record", "token state", "guess budget", "live token", "code", "maker seed"
	err    error
	serial string // of the token concerned, if it is known
}

func (t *tampered) Error() string { return fmt.Sprintf("stored %s fails its check: %v", t.what, t.err) }
func (t *tampered) Unwrap() error { return t.err }

// sealPurpose tags the seals of token records.
const sealPurpose = "token-record"

// envelope is how every row is stored: the body, and either an HSM seal or a MAC under the state key.
type envelope struct {
	Body []byte      `cbor:"1,keyasint"`
	Seal *seed.MACed `cbor:"2,keyasint,omitempty"`
	MAC  []byte      `cbor:"3,keyasint,omitempty"`
	By   uint32      `cbor:"4,keyasint,omitempty"` // version of the seal key that makes the MAC's key
}

// bind is what seals and MACs are made over: the body together with the key it is stored under.
func bind(key store.Key, body []byte) ([]byte, error) {
	return store.Encode([][]byte{[]byte(key), body})
}

// seal makes the row of a token record.
func (s *Service) seal(ctx context.Context, r record) (store.Put, error) {
	key := recordKey(r.Serial)
	if err := s.ring.Load().allWritable(r.keys()); err != nil {
		return store.Put{}, err
	}
	r.Schema = schema
	body, bound, err := encodeBody(key, r)
	if err != nil {
		return store.Put{}, err
	}
	sealed, err := s.HSM.Seal(ctx, sealPurpose, bound)
	if err != nil {
		return store.Put{}, err
	}
	value, err := store.Encode(envelope{Body: body, Seal: &sealed})
	return store.Put{Key: key, Value: value}, err
}

// unseal reads the row of a token record. Rows whose seal was found right before cost no call to the HSM: they are
// remembered by the digest of their key and value, so that any edit is seen. A scan of all tokens does not remember, or
// it would push out the tokens in use.
func (s *Service) unseal(ctx context.Context, it store.Item, remember bool) (record, error) {
	const what = "token record"
	e, err := store.Decode[envelope](it.Value)
	if err != nil || e.Seal == nil {
		return record{}, &tampered{what: what, err: errors.Join(errors.New("no sealed envelope"), err)}
	}
	bound, err := bind(it.Key, e.Body)
	if err != nil {
		return record{}, err
	}
	digest := sha256.Sum256(append(bound, it.Value...))
	if _, checked := s.sealed.Get(digest); !checked {
		if err := s.checkSeal(ctx, bound, *e.Seal); err != nil {
			return record{}, err
		}
		if remember {
			s.sealed.Add(digest, struct{}{})
		}
	}
	r, err := store.Decode[record](e.Body)
	if err != nil || r.Schema != schema || recordKey(r.Serial) != it.Key {
		return record{}, &tampered{what: what, err: errors.Join(errors.New("not a record of this version"), err)}
	}
	return r, nil
}

func (s *Service) checkSeal(ctx context.Context, bound []byte, sealed seed.MACed) error {
	err := s.HSM.CheckSeal(ctx, sealPurpose, bound, sealed)
	if errors.Is(err, seed.ErrBadSeal) {
		return &tampered{what: "token record", err: err}
	}
	if errors.Is(err, seed.ErrKeyNotFound) {
		return &tampered{what: "token record", err: &unknownKey{sealed.Key}}
	}
	return err
}

// mac makes a row under the state MAC.
func (s *Service) mac(key store.Key, body any) (store.Put, error) {
	encoded, bound, err := encodeBody(key, body)
	if err != nil {
		return store.Put{}, err
	}
	k := s.ring.Load()
	value, err := store.Encode(envelope{Body: encoded, MAC: sum(k.state[k.sealing], bound), By: k.sealing})
	return store.Put{Key: key, Value: value}, err
}

// unmac reads a row under the state MAC; what names it in errors.
func unmac[T any](s *Service, it store.Item, what string) (T, error) {
	var none T
	if it.Version == 0 {
		return none, &tampered{what: what, err: errors.New("the row is missing")}
	}
	e, err := store.Decode[envelope](it.Value)
	if err != nil {
		return none, &tampered{what: what, err: err}
	}
	bound, err := bind(it.Key, e.Body)
	if err != nil {
		return none, err
	}
	by, err := s.stateKey(e.By)
	if err != nil {
		return none, &tampered{what: what, err: err}
	}
	if !hmac.Equal(sum(by, bound), e.MAC) {
		return none, &tampered{what: what, err: errors.New("the MAC is wrong")}
	}
	body, err := store.Decode[T](e.Body)
	if err != nil {
		return none, &tampered{what: what, err: err}
	}
	return body, nil
}

// stateKey returns the key of the state MAC that one version of the seal key makes.
func (s *Service) stateKey(version uint32) ([]byte, error) {
	key, known := s.ring.Load().state[version]
	if !known {
		return nil, &unknownKey{seed.KeyRef{Label: sealLabel, Version: version}}
	}
	return key, nil
}

func encodeBody(key store.Key, v any) (body, bound []byte, err error) {
	if body, err = store.Encode(v); err != nil {
		return nil, nil, fmt.Errorf("encoding a row: %w", err)
	}
	bound, err = bind(key, body)
	return body, bound, err
}
