package hsm

import (
	"context"
	"crypto/hmac"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// The purposes this package keeps for itself.
const (
	purposeStateKey    = "state-key"
	purposeSelfCheck   = "self-check"
	purposeSubject     = "subject"
	purposeFingerprint = "seed-fingerprint"
	purposeReady       = "ready"
)

// scheme is the version of what follows the tag in a MAC's input.
const scheme = "1"

const maxPurpose = 64

// tagged is the input of every MAC under a master key: "ramzban/<purpose>/<scheme>" 0x00 data. The zero byte ends the
// tag, since a purpose holds none; so no purpose's MAC can serve as another's.
func tagged(purpose string, data ...[]byte) []byte {
	in := []byte(labelPrefix + purpose + "/" + scheme + "\x00")
	for _, d := range data {
		in = append(in, d...)
	}
	return in
}

// checkPurpose refuses a purpose that is not of lower-case letters, digits, '-' and '/', and those kept for this package.
func checkPurpose(purpose string) error {
	switch purpose {
	case purposeStateKey, purposeSelfCheck, purposeSubject, purposeFingerprint, purposeReady:
		return fmt.Errorf("MAC purpose %q is reserved", purpose)
	}
	bad := func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-/", r) }
	if purpose == "" || len(purpose) > maxPurpose || strings.ContainsFunc(purpose, bad) {
		return fmt.Errorf("MAC purpose %q must be 1 to %d of a-z, 0-9, '-' and '/'", purpose, maxPurpose)
	}
	return nil
}

// Seal MACs data for one purpose under the active seal key.
func (h *HSM) Seal(ctx context.Context, purpose string, data []byte) (seed.MACed, error) {
	if err := checkPurpose(purpose); err != nil {
		return seed.MACed{}, err
	}
	return h.mac(ctx, labelSeal, purpose, data)
}

// CheckSeal makes the seal again and compares in constant time; seed.ErrBadSeal if it does not match,
// seed.ErrKeyNotFound if the HSM no longer has the version that made it.
func (h *HSM) CheckSeal(ctx context.Context, purpose string, data []byte, seal seed.MACed) error {
	if err := checkPurpose(purpose); err != nil {
		return err
	}
	if seal.Key.Label != labelSeal {
		return fmt.Errorf("%w: it names key %s", seed.ErrBadSeal, seal.Key)
	}
	sum, err := h.macWith(ctx, seal.Key, purpose, data)
	if err != nil {
		return err
	}
	if !hmac.Equal(sum, seal.Sum) {
		return seed.ErrBadSeal
	}
	return nil
}

// StateKey returns the 32-byte key, held by the host, under which the small state rows are MACed: that of one version of
// the seal key. seed.ErrKeyNotFound: the HSM does not have it.
func (h *HSM) StateKey(ctx context.Context, ref seed.KeyRef) ([]byte, error) {
	if ref.Label != labelSeal {
		return nil, fmt.Errorf("%w: %s is not a seal key", seed.ErrKeyNotFound, ref)
	}
	return h.macWith(ctx, ref, purposeStateKey)
}

// Digest MACs data for one purpose under the active digest key.
func (h *HSM) Digest(ctx context.Context, purpose string, data []byte) (seed.MACed, error) {
	if err := checkPurpose(purpose); err != nil {
		return seed.MACed{}, err
	}
	return h.mac(ctx, labelDigest, purpose, data)
}

// DigestWith makes a digest again under the version that made it; seed.ErrKeyNotFound if the HSM does not have it.
func (h *HSM) DigestWith(ctx context.Context, key seed.KeyRef, purpose string, data []byte) ([]byte, error) {
	if err := checkPurpose(purpose); err != nil {
		return nil, err
	}
	if key.Label != labelDigest {
		return nil, fmt.Errorf("%w: %s is not a digest key", seed.ErrKeyNotFound, key)
	}
	return h.macWith(ctx, key, purpose, data)
}

// Pseudonym makes the keyed pseudonym of a subject of one class: a MAC under the active lookup key over the class, a
// zero byte and the subject.
func (h *HSM) Pseudonym(ctx context.Context, class string, subject seed.Subject) (seed.MACed, error) {
	if err := checkClass(class); err != nil {
		return seed.MACed{}, err
	}
	return h.mac(ctx, labelLookup, purposeSubject, []byte(class), []byte{0}, []byte(subject.Reveal()))
}

// PseudonymWith makes a pseudonym under one version of the lookup key; seed.ErrKeyNotFound if the HSM does not have it.
func (h *HSM) PseudonymWith(ctx context.Context, ref seed.KeyRef, class string, subject seed.Subject) ([]byte, error) {
	if err := checkClass(class); err != nil {
		return nil, err
	}
	if ref.Label != labelLookup {
		return nil, fmt.Errorf("%w: %s is not a lookup key", seed.ErrKeyNotFound, ref)
	}
	return h.macWith(ctx, ref, purposeSubject, []byte(class), []byte{0}, []byte(subject.Reveal()))
}

func checkClass(class string) error {
	if class == "" || strings.ContainsRune(class, 0) {
		return fmt.Errorf("subject class %q must be a word without zero bytes", class)
	}
	return nil
}

// mac makes a MAC under the active key of a label.
func (h *HSM) mac(ctx context.Context, label, purpose string, data ...[]byte) (seed.MACed, error) {
	var m seed.MACed
	err := h.run(ctx, func(g *generation) (err error) {
		var key pkcs11.ObjectHandle
		m.Key, key = g.ring().current(label)
		m.Sum, err = g.hmac(ctx, key, seed.SHA256, tagged(purpose, data...))
		return err
	})
	return m, err
}

func (h *HSM) macWith(ctx context.Context, ref seed.KeyRef, purpose string, data ...[]byte) ([]byte, error) {
	var sum []byte
	err := h.run(ctx, func(g *generation) error {
		key, err := g.ring().get(ref)
		if err != nil {
			return err
		}
		sum, err = g.hmac(ctx, key, seed.SHA256, tagged(purpose, data...))
		return err
	})
	return sum, err
}
