package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as makers of tokens and SoftHSM have it
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// selfCheckHash and selfCheckContext are the derivation behind the key check value of a derivation master key.
// A caller's context is CBOR of several fields and cannot be this.
const (
	selfCheckHash    = seed.SHA256
	selfCheckContext = labelPrefix + purposeSelfCheck + "/" + scheme
)

// selfCheck proves, before anything is served, that the module still does what it did at the key ceremony and still
// refuses what it must. It runs for every generation. Its errors say which check failed.
func (g *generation) selfCheck(ctx context.Context) error {
	err := g.workers.withSession(ctx, func(s *session) error {
		if err := g.checkWrapping(s); err != nil {
			return err
		}
		if err := g.checkRefusals(s); err != nil {
			return err
		}
		return g.checkKnownAnswers(s)
	})
	if err == nil {
		err = g.handles.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("HSM self-check: %w", err)
	}
	return nil
}

// withUnwrapped unwraps a seed for verification, lends it to fn and destroys it, all on one session.
func (g *generation) withUnwrapped(s *session, w seed.Wrapped, hash seed.Hash, fn func(pkcs11.ObjectHandle) error) error {
	key, err := g.ring().get(w.Key)
	if err != nil {
		return err
	}
	h, err := s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, verifyTemplate(hash, len(w.Blob)-8, g.cfg.Profile))
	if err != nil {
		return err
	}
	return s.lend(h, "an unwrapped seed", fn)
}

// wrapVectors are the results of RFC 5649 for a key of bytes 0x40, 0x41, … under a wrapping key of bytes 0x00 to 0x1F:
// as it is, and zero-padded to a multiple of 8 first.
var wrapVectors = []struct {
	length         int
	asItIs, padded string
}{
	{20, "7bfef0b87c224051560df29c7bb1da8293033222efb454d7adf63ba23d35e766",
		"20eb1db275c9cbe45ec7e13c1ba3a2b62b2d7468798718ba55df443ab3905098"},
	{32, "6d10efa7ee3023460945c8a9886e7101353d66337100c5ff2bcb08bf790e9e202eaa28c31d721d87",
		"6d10efa7ee3023460945c8a9886e7101353d66337100c5ff2bcb08bf790e9e202eaa28c31d721d87"},
	{33, "21a843d4c7ad5655090f0cc629d602a570b43043d31c1b44b7029022af323538abfd5b2e5c8778795664766c500246cd",
		"73c15c014441525c39ce4ced6eb16a00ec8622b5e6566bc90fd5b9307ff180342038b84f06cf6f968669bd4a2196c56e"},
}

// checkWrapping proves that the profile's wrap mechanism is RFC 5649: its number means something else in some modules.
func (g *generation) checkWrapping(s *session) error {
	kek, err := s.importObject(vectorKEKTemplate(sequence(0, 32)))
	if err != nil {
		return fmt.Errorf("import the wrapping key of the test vectors: %w", err)
	}
	for _, v := range wrapVectors {
		want := v.asItIs
		if g.cfg.Profile.PadsBeforeWrapping {
			want = v.padded
		}
		if err = g.checkVector(s, kek, sequence(0x40, v.length), want); err != nil {
			err = fmt.Errorf("wrap mechanism 0x%X, key of %d bytes: %w", g.cfg.Profile.WrapMechanism, v.length, err)
			break
		}
	}
	return also(s.destroy(kek, "the wrapping key of the test vectors"), err)
}

func (g *generation) checkVector(s *session, kek pkcs11.ObjectHandle, value []byte, want string) error {
	key, err := s.importObject(vectorKeyTemplate(value))
	if err != nil {
		return fmt.Errorf("import it: %w", err)
	}
	blob, err := s.p.WrapKey(s.handle, mechanism(g.cfg.Profile.WrapMechanism, nil), kek, key)
	if err == nil && hex.EncodeToString(blob) != want {
		err = errors.New("the result is not that of RFC 5649: correct the HSM profile")
	}
	return also(s.destroy(key, "a key of the test vectors"), err)
}

// sequence returns n bytes that count up from first.
func sequence(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// checkRefusals tries what the HSM must refuse. Some modules do not honour the attributes they report.
func (g *generation) checkRefusals(s *session) error {
	for _, ref := range g.ring().sorted() {
		if err := g.checkKeyRefusals(s, ref); err != nil {
			return err
		}
	}
	return g.checkSeedRefusals(s)
}

// checkKeyRefusals tries what one master key must not do.
func (g *generation) checkKeyRefusals(s *session, ref seed.KeyRef) error {
	h, err := g.ring().get(ref)
	if err != nil {
		return err
	}
	if err := g.mustRefuse("reading the value of "+ref.String(), s.readValue(h, keySpecs[ref.Label].value())); err != nil {
		return err
	}
	switch ref.Label {
	case labelImport:
		return g.mustRefuse("decrypting with "+ref.String(), s.decryptOAEP(h))
	case labelWrap, labelBackup:
		return g.mustRefuse("encrypting with "+ref.String(), s.encryptBlock(h))
	case labelDerive:
		return g.mustRefuse("wrapping the unextractable "+ref.String(), g.tryWrap(s, h))
	}
	return nil
}

// checkSeedRefusals tries a seed unwrapped for verification, which must neither be read nor wrapped again.
func (g *generation) checkSeedRefusals(s *session) error {
	_, deriveKey := g.ring().current(labelDerive)
	wrap, _ := g.ring().current(labelWrap)
	w, err := g.bornWrapped(s, deriveKey, wrap)
	if err != nil {
		return err
	}
	return g.withUnwrapped(s, w, selfCheckHash, func(h pkcs11.ObjectHandle) error { return g.checkSeedProbes(s, h) })
}

func (g *generation) checkSeedProbes(s *session, h pkcs11.ObjectHandle) error {
	if err := g.mustRefuse("reading the value of a seed", s.readValue(h, pkcs11.CKA_VALUE)); err != nil {
		return err
	}
	return g.mustRefuse("wrapping a seed that is not extractable", g.tryWrap(s, h))
}

// mustRefuse passes when the module said a clean no. An outage proves nothing and is returned.
func (g *generation) mustRefuse(what string, err error) error {
	switch classify(err, g.cfg.Profile) {
	case classRefusal:
		return nil
	case classOK:
		return fmt.Errorf("the HSM allowed %s: it does not protect its keys; do not use it", what)
	}
	return fmt.Errorf("%s failed, but was not refused: %w", what, err)
}

func (s *session) readValue(h pkcs11.ObjectHandle, secret uint) error {
	_, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(secret, nil)})
	return err
}

// decryptOAEP tries to decrypt what is no seed.
func (s *session) decryptOAEP(h pkcs11.ObjectHandle) error {
	public, err := s.publicHalf(h)
	if err != nil {
		return err
	}
	probe, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, []byte(purposeSelfCheck), nil)
	if err != nil {
		return fmt.Errorf("make a ciphertext: %w", err)
	}
	if err := s.p.DecryptInit(s.handle, oaep(), h); err != nil {
		return err
	}
	_, err = s.p.Decrypt(s.handle, probe)
	return err
}

func (s *session) encryptBlock(h pkcs11.ObjectHandle) error {
	if err := s.p.EncryptInit(s.handle, mechanism(pkcs11.CKM_AES_ECB, nil), h); err != nil {
		return err
	}
	_, err := s.p.Encrypt(s.handle, make([]byte, 16))
	return err
}

func (g *generation) tryWrap(s *session, h pkcs11.ObjectHandle) error {
	_, wrapKey := g.ring().current(labelWrap)
	_, err := s.p.WrapKey(s.handle, mechanism(g.cfg.Profile.WrapMechanism, nil), wrapKey, h)
	return err
}
