package hsm

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// checkLength is the length of a key check value in bytes: enough to tell keys apart, too short to serve as a MAC.
const checkLength = 8

// KnownAnswer proves one version of a master key to be the one of the key ceremony. It is noted there, by Hold, and
// is no secret: it gives nothing away about anything else made with the key.
//
// The key check value is, by the key's label:
//
//	seal, digest, lookup  the first 8 bytes of the key's HMAC-SHA-256 over a fixed message, which only the self-check makes
//	derive                the same under the seed derived from a fixed context
//	wrap, import, backup  the same under the seed wrapped in Blob
//	data                  8 random bytes, encrypted in Blob
//	audit                 the first 8 bytes of SHA-256 over the public half in Blob, which a signature must fit
type KnownAnswer struct {
	Key    seed.KeyRef `json:"key"`
	Origin Origin      `json:"origin,omitempty"` // none: Generated
	Check  []byte      `json:"check"`            // the key check value, 8 bytes
	IV     []byte      `json:"iv,omitempty"`     // data: 12 bytes; else none
	Blob   []byte      `json:"blob,omitempty"`   // wrap, backup: 40 bytes; import: 384; data: 24, the tag included; audit: 91; else none
}

func (a KnownAnswer) origin() Origin { return cmp.Or(a.Origin, Generated) }

// originOf is where a key came from, as its known answer says; without one it must be as if it was generated.
func originOf(answers []KnownAnswer, ref seed.KeyRef) Origin {
	for _, a := range answers {
		if a.Key == ref {
			return a.origin()
		}
	}
	return Generated
}

// UnmarshalJSON reads a known answer strictly: unknown fields and wrong sizes are refused.
func (a *KnownAnswer) UnmarshalJSON(in []byte) error {
	type plain KnownAnswer
	d := json.NewDecoder(bytes.NewReader(in))
	d.DisallowUnknownFields()
	var p plain // not a itself: what a held before must not stand in for what is missing
	if err := d.Decode(&p); err != nil {
		return fmt.Errorf("not a known answer as this version's key ceremony notes it: %w", err)
	}
	*a = KnownAnswer(p)
	return a.validate()
}

func (a *KnownAnswer) validate() error {
	if _, known := keySpecs[a.Key.Label]; !known || a.Key.Version == 0 {
		return fmt.Errorf("known answer of %s: no master key has that name", a.Key)
	}
	if !slices.Contains(origins, a.origin()) {
		return fmt.Errorf("known answer of %s: no key comes from %q", a.Key, a.Origin)
	}
	iv, blob := 0, 0
	switch a.Key.Label {
	case labelWrap, labelBackup:
		blob = selfCheckHash.SeedLength() + 8 // RFC 5649
	case labelImport:
		blob = importKeyLength
	case labelData:
		iv, blob = gcmIV, checkLength+gcmTag/8
	case labelAudit:
		blob = auditPublicLength
	}
	if len(a.Check) != checkLength || len(a.IV) != iv || len(a.Blob) != blob {
		return fmt.Errorf("known answer of %s: %d bytes of check, %d of iv and %d of blob; there must be %d, %d and %d",
			a.Key, len(a.Check), len(a.IV), len(a.Blob), checkLength, iv, blob)
	}
	return nil
}

// WithoutAnswer returns the labels of the master keys of which no version has a known answer: what an earlier version of
// this product noted lacks those of the keys that came later.
func WithoutAnswer(answers []KnownAnswer) []string {
	return slices.DeleteFunc(slices.Clone(labels), func(label string) bool {
		return slices.ContainsFunc(answers, func(a KnownAnswer) bool { return a.Key.Label == label })
	})
}

func validateAnswers(answers []KnownAnswer) error {
	seen := map[seed.KeyRef]bool{}
	for _, a := range answers {
		if err := a.validate(); err != nil {
			return err
		}
		if seen[a.Key] {
			return fmt.Errorf("two known answers are given for %s", a.Key)
		}
		seen[a.Key] = true
	}
	return nil
}

// matchAnswers returns the keys that have a known answer, and refuses to go on without one of them, unless it was destroyed
// by DestroyKey: what was made under it would look tampered. At start it refuses a key without a known answer too. One that appears later is left out until
// Refresh, or the next start, brings its answer: so a key ceremony is no outage, and nothing is ever made under a key that
// is not proven.
func (g *generation) matchAnswers(found keyring) (keyring, error) {
	known := newKeyring()
	for _, a := range g.answers {
		_, err := found.get(a.Key)
		if err != nil && found.destroyed[a.Key] {
			continue
		}
		if err != nil {
			return keyring{}, fmt.Errorf("%w, but there is a known answer for it: restore the key from the HSM's backup, or, if it was "+
				"destroyed on purpose, take its answer out of hsm.known_answer_file", err)
		}
		if err := found.single(a.Key); err != nil {
			return keyring{}, err
		}
		known.take(found, a.Key)
	}
	var unknown []string
	for _, ref := range found.sorted() {
		if !known.has(ref) && !found.destroyed[ref] {
			unknown = append(unknown, ref.String())
		}
	}
	slices.Sort(unknown)
	switch {
	case len(unknown) == 0:
	case g.number == 1:
		return keyring{}, fmt.Errorf("no known answer is configured for %s: add what was noted at the key ceremony to hsm.known_answer_file",
			strings.Join(unknown, ", "))
	default:
		g.cfg.Log.Warn("HSM keys that appeared after the start are left out until their known answers are read", "keys", unknown)
	}
	return known, nil
}

func (g *generation) checkKnownAnswers(s *session) error {
	for _, want := range g.answers {
		if !g.ring().has(want.Key) {
			continue // destroyed: matchAnswers has seen to it
		}
		if err := g.checkKnownAnswer(s, want); err != nil {
			return err
		}
	}
	return nil
}

func (g *generation) checkKnownAnswer(s *session, want KnownAnswer) error {
	got, err := g.check(s, want)
	refused := errors.Is(err, seed.ErrBadBlob)
	if err != nil && !refused {
		return fmt.Errorf("known answer of %s: %w", want.Key, err)
	}
	if refused || !hmac.Equal(got, want.Check) {
		return fmt.Errorf("%s does not give the answer noted at the key ceremony: it is another key, or the HSM computes "+
			"wrongly: connect the HSM that holds the ceremony's keys, or correct hsm.known_answer_file", want.Key)
	}
	return nil
}

func (g *generation) noteAnswer(s *session, ref seed.KeyRef) (a KnownAnswer, err error) {
	a.Key = ref
	switch ref.Label {
	case labelWrap, labelBackup:
		a.Blob, err = g.wrapCheckSeed(s, ref)
	case labelImport:
		a.Blob, err = g.wrapCheckSeedAsMaker(s, ref)
	case labelData:
		a.IV, a.Blob, err = g.encryptCheck(s, ref)
	case labelAudit:
		a.Blob, err = s.publicDER(*g.ring(), ref, 0)
	}
	if err == nil {
		a.Check, err = g.check(s, a)
	}
	return a, err
}

func (g *generation) wrapCheckSeed(s *session, ref seed.KeyRef) ([]byte, error) {
	_, derive := g.ring().current(labelDerive)
	w, err := g.bornWrapped(s, derive, ref)
	return w.Blob, err
}

// wrapCheckSeedAsMaker wraps the seed of the self-check as the maker of a hardware token would.
func (g *generation) wrapCheckSeedAsMaker(s *session, ref seed.KeyRef) (blob []byte, err error) {
	key, err := g.ring().get(ref)
	if err != nil {
		return nil, err
	}
	public, err := s.publicHalf(key)
	if err != nil {
		return nil, err
	}
	_, derive := g.ring().current(labelDerive)
	err = s.withBorn(derive, []byte(selfCheckContext), selfCheckHash.SeedLength(), func(born pkcs11.ObjectHandle) (err error) {
		blob, err = s.wrapForDevice(born, public)
		return err
	})
	return blob, err
}

func (g *generation) encryptCheck(s *session, ref seed.KeyRef) (iv, blob []byte, err error) {
	key, err := g.ring().get(ref)
	if err != nil {
		return nil, nil, err
	}
	check, err := s.random(checkLength)
	if err != nil {
		return nil, nil, err
	}
	if iv, err = s.random(gcmIV); err != nil {
		return nil, nil, err
	}
	blob, err = s.encrypt(key, iv, tagged(purposeSelfCheck), check)
	return iv, blob, err
}

// check makes the key check value of a.Key; seed.ErrBadBlob if the key refuses a.Blob. a.Check is not used.
func (g *generation) check(s *session, a KnownAnswer) ([]byte, error) {
	key, err := g.ring().get(a.Key)
	if err != nil {
		return nil, err
	}
	switch a.Key.Label {
	case labelDerive:
		return g.checkDerived(s, key)
	case labelWrap, labelBackup:
		check, err := g.checkWrapped(s, seed.Wrapped{Mech: uint32(g.cfg.Profile.WrapMechanism), Key: a.Key, Blob: a.Blob}, selfCheckHash)
		return check, blobError(err, g.cfg.Profile)
	case labelImport:
		check, err := g.checkMaker(s, key, a.Blob, selfCheckHash)
		return check, blobError(err, g.cfg.Profile)
	case labelData:
		plain, err := s.decrypt(key, a.IV, tagged(purposeSelfCheck), a.Blob)
		return plain, blobError(err, g.cfg.Profile)
	case labelAudit:
		return g.checkAudit(s, key, a)
	}
	return s.checkMAC(key, selfCheckHash)
}

// checkDerived derives, wraps, unwraps and MACs, like an enrolment followed by a verification.
func (g *generation) checkDerived(s *session, key pkcs11.ObjectHandle) ([]byte, error) {
	active, _ := g.ring().current(labelWrap)
	w, err := g.bornWrapped(s, key, active)
	if err != nil {
		return nil, err
	}
	return g.checkWrapped(s, w, selfCheckHash)
}

// bornWrapped derives the seed of the self-check and wraps it under one version of the wrapping master key.
func (g *generation) bornWrapped(s *session, derive pkcs11.ObjectHandle, wrap seed.KeyRef) (w seed.Wrapped, err error) {
	err = s.withBorn(derive, []byte(selfCheckContext), selfCheckHash.SeedLength(), func(born pkcs11.ObjectHandle) (err error) {
		w, err = g.wrapWith(s, wrap, born)
		return err
	})
	return w, err
}

func (g *generation) checkWrapped(s *session, w seed.Wrapped, hash seed.Hash) (check []byte, err error) {
	err = g.withUnwrapped(s, w, hash, func(h pkcs11.ObjectHandle) (err error) {
		check, err = s.checkMAC(h, hash)
		return err
	})
	return check, err
}

func (s *session) checkMAC(key pkcs11.ObjectHandle, hash seed.Hash) ([]byte, error) {
	sum, err := s.hmac(key, hash, tagged(purposeSelfCheck))
	if err != nil {
		return nil, err
	}
	return sum[:checkLength], nil
}
