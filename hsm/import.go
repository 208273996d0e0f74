package hsm

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// The import keys: RSA of 3072 bits, as long as what is wrapped to them may lie in a courier's files (NIST SP 800-57).
const (
	importKeyLength = 384 // bytes
	publicExponent  = 65537
)

// errOtherKey: a maker's ciphertext was not made for the import key it was tried with.
var errOtherKey = fmt.Errorf("%w: it is not wrapped to an import key", seed.ErrBadBlob)

// ImportKey returns the public half (DER SubjectPublicKeyInfo) of the active import key, to which makers of hardware
// tokens wrap their seeds: RSA of 3072 bits.
func (h *HSM) ImportKey(ctx context.Context) ([]byte, error) {
	var public *rsa.PublicKey
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			_, key := g.ring().current(labelImport)
			public, err = s.publicHalf(key)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(public)
}

// publicHalf reads modulus and public exponent off a private key.
func (s *session) publicHalf(key pkcs11.ObjectHandle) (*rsa.PublicKey, error) {
	attrs, err := s.p.GetAttributeValue(s.handle, key, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil)})
	if err != nil {
		return nil, fmt.Errorf("read the public half of a key: %w", err)
	}
	exponent := new(big.Int).SetBytes(attrs[1].Value)
	if !exponent.IsInt64() || exponent.Int64() > 1<<31-1 {
		return nil, errors.New("read the public half of a key: its exponent is too large")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(attrs[0].Value), E: int(exponent.Int64())}, nil
}

// Import takes a maker's seed (RSA-OAEP with SHA-1, MGF1-SHA-1 and no label, under any version of the import key) to the
// active wrapping master key (RFC 5649). It never leaves the HSM in clear, and nothing of it stays there.
//
// Two seeds have the same fingerprint if and only if they make the same MACs, however they were wrapped: it is a digest of a
// MAC made with the seed. No master key is in it, so no rotation changes it: a device may come again after years. Who has
// the seed, as its maker has, can make it too: whoever stores it keys it.
//
// seed.ErrBadBlob: it is not wrapped to an import key, or not as long as the hash asks for: 20 to 64 bytes for SHA-1, 32
// to 64 for SHA-256, 64 for SHA-512. A module that makes MACs with shorter keys than these lets pass a seed that is up
// to 7 bytes too short: RFC 5649 shows lengths in steps of 8 only.
func (h *HSM) Import(ctx context.Context, wrapped []byte, hash seed.Hash) (seed.Imported, error) {
	switch {
	case hash.New() == nil:
		return seed.Imported{}, fmt.Errorf("import a seed: unknown hash %v", hash)
	case len(wrapped) != importKeyLength:
		return seed.Imported{}, fmt.Errorf("%w: it has %d bytes, not %d", errOtherKey, len(wrapped), importKeyLength)
	}
	var made seed.Imported
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			made, err = g.importSeed(s, wrapped, hash)
			return err
		})
	})
	if err != nil {
		return seed.Imported{}, err
	}
	return made, nil
}

// importSeed tries the versions of the import key, the active one first, until one fits.
func (g *generation) importSeed(s *session, wrapped []byte, hash seed.Hash) (made seed.Imported, err error) {
	for _, ref := range g.ring().newestFirst(labelImport) {
		if made, err = g.importWith(s, ref, wrapped, hash); !errors.Is(err, errOtherKey) {
			break
		}
	}
	return made, err
}

// importWith proves, before anything is stored, that the seed can make MACs as the maker wrapped it and that the one
// wrapped for the store makes the same.
func (g *generation) importWith(s *session, ref seed.KeyRef, wrapped []byte, hash seed.Hash) (seed.Imported, error) {
	key, err := g.ring().get(ref)
	if err != nil {
		return seed.Imported{}, err
	}
	want, err := g.signMaker(s, key, wrapped, hash)
	if err != nil {
		return seed.Imported{}, err
	}
	defer clear(want)
	w, err := g.rewrap(s, key, wrapped, hash)
	if err != nil {
		return seed.Imported{}, err
	}
	if err := checkLengths(w, hash); err != nil {
		return seed.Imported{}, err
	}
	got, err := g.checkWrapped(s, w, hash)
	if err == nil && !hmac.Equal(got, want[:checkLength]) {
		err = errors.New("import a seed: the seed wrapped for the store is another one")
	}
	if err != nil {
		return seed.Imported{}, err
	}
	fingerprint := sha256.Sum256(tagged(purposeFingerprint, want))
	return seed.Imported{ForStore: w, Fingerprint: fingerprint[:]}, nil
}

// checkMaker makes the check MAC of a seed as its maker wrapped it.
func (g *generation) checkMaker(s *session, key pkcs11.ObjectHandle, wrapped []byte, hash seed.Hash) ([]byte, error) {
	sum, err := g.signMaker(s, key, wrapped, hash)
	if err != nil {
		return nil, err
	}
	return sum[:checkLength], nil
}

// signMaker makes the whole MAC of which the check MAC is the beginning. So the module judges the seed's length: where it
// starts the MAC, it refuses a key that is too short for the hash.
func (g *generation) signMaker(s *session, key pkcs11.ObjectHandle, wrapped []byte, hash seed.Hash) (sum []byte, err error) {
	h, err := s.unwrap(oaep(), key, wrapped, verifyTemplate(hash, macLength(hash), g.cfg.Profile))
	if errors.Is(blobError(err, g.cfg.Profile), seed.ErrBadBlob) {
		return nil, fmt.Errorf("%w: %w", errOtherKey, err)
	}
	if err != nil {
		return nil, err
	}
	err = s.lend(h, "a maker's seed", func(h pkcs11.ObjectHandle) (err error) {
		sum, err = s.hmac(h, hash, tagged(purposeSelfCheck))
		if errors.Is(err, pkcs11.Error(pkcs11.CKR_KEY_SIZE_RANGE)) {
			err = fmt.Errorf("%w: the seed is too short for %s: %w", seed.ErrBadBlob, hash, err)
		}
		return err
	})
	return sum, err
}

// rewrap takes a seed from the maker's wrapping to the store's. The key has unwrapped it before: that it refuses it now is
// an outage.
func (g *generation) rewrap(s *session, key pkcs11.ObjectHandle, wrapped []byte, hash seed.Hash) (w seed.Wrapped, err error) {
	h, err := s.unwrap(oaep(), key, wrapped, rewrapTemplate(macLength(hash), g.cfg.Profile))
	if err != nil {
		return seed.Wrapped{}, err
	}
	err = s.lend(h, "a maker's seed", func(h pkcs11.ObjectHandle) (err error) {
		w, err = g.wrapForStore(s, h)
		return err
	})
	return w, err
}

// maxImport is the longest seed in bytes: the block of SHA-1 and SHA-256, up to which zero-padding leaves an HMAC alone.
const maxImport = 64

// checkLengths judges the seed by its RFC 5649 ciphertext, which is its length rounded up to a multiple of 8, and 8 more.
func checkLengths(w seed.Wrapped, hash seed.Hash) error {
	shortest, longest := (macLength(hash)+7)/8*8+8, maxImport+8
	if len(w.Blob) < shortest || len(w.Blob) > longest {
		return fmt.Errorf("%w: the seed has about %d bytes; %d to %d are accepted for %s",
			seed.ErrBadBlob, len(w.Blob)-8, macLength(hash), maxImport, hash)
	}
	return nil
}
