package hsm

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// This file lets the tests be a key ceremony, another node or another program that works on the same HSM.

// NoteMeanwhile notes the known answers of all keys there are, as a key ceremony beside the running service does.
func (h *HSM) NoteMeanwhile() (answers []KnownAnswer, err error) {
	err = h.meanwhile(func(g *generation, s *session) error {
		found, err := listKeys(s)
		if err != nil {
			return err
		}
		trial := &generation{cfg: g.cfg, stats: g.stats, handles: g.handles}
		for _, ref := range found.sorted() {
			if err := trial.checkFound(s, found, ref, Generated); err != nil {
				return err
			}
		}
		trial.keys.Store(&found)
		answers, err = trial.noteAnswers(s)
		return err
	})
	return answers, err
}

// CreateKeyWrongly makes a master key while the HSM is at work, with the given attributes instead of the template's.
func (h *HSM) CreateKeyWrongly(ref seed.KeyRef, instead ...Attribute) error {
	return h.meanwhile(func(g *generation, s *session) error { return g.createWith(s, ref, instead) })
}

// CheckValueOf imports a secret key that is no secret and reads its key check value.
func (h *HSM) CheckValueOf(keyType uint, value []byte) (kcv []byte, err error) {
	err = h.meanwhile(func(_ *generation, s *session) error {
		key, err := s.importObject(append([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
		}, usageAttributes(0)...))
		if err != nil {
			return err
		}
		kcv, err = s.checkValue(key)
		return also(s.destroy(key, "a known key"), err)
	})
	return kcv, err
}

// SignExtractable unwraps a seed as Rewrap does and tries to make a MAC with it.
func (h *HSM) SignExtractable(w seed.Wrapped, hash seed.Hash) error {
	return h.meanwhile(func(g *generation, s *session) error {
		key, err := g.ring().get(w.Key)
		if err != nil {
			return err
		}
		extractable, err := s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, rewrapTemplate(len(w.Blob)-8, g.cfg.Profile))
		if err != nil {
			return err
		}
		_, err = s.hmac(extractable, hash, []byte("message"))
		return also(s.destroy(extractable, "an extractable seed"), err)
	})
}

// CountObjects counts the token objects that carry a label.
func (h *HSM) CountObjects(label string) (n int, err error) {
	err = h.meanwhile(func(_ *generation, s *session) error {
		found, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
		n = len(found)
		return err
	})
	return n, err
}

// CreateDigests makes versions 2 to n of the digest key.
func CreateDigests(config Config, n int) error {
	return administer(config, func(g *generation) error {
		return g.workers.withSession(context.Background(), func(s *session) error {
			for version := 2; version <= n; version++ {
				if err := g.createWith(s, seed.KeyRef{Label: labelDigest, Version: uint32(version)}, nil); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// DestroyMeanwhile destroys a key as another node on the same HSM does.
func (h *HSM) DestroyMeanwhile(ref seed.KeyRef) error {
	return h.meanwhile(func(_ *generation, s *session) error {
		if _, err := s.p.CreateObject(s.handle, markTemplate(ref)); err != nil {
			return err
		}
		return s.destroyMaster(ref)
	})
}

// RemoveMeanwhile destroys a key as another program does.
func (h *HSM) RemoveMeanwhile(ref seed.KeyRef) error {
	return h.meanwhile(func(_ *generation, s *session) error { return s.destroyMaster(ref) })
}

// MarkMeanwhile marks a key as destroyed and leaves it there.
func (h *HSM) MarkMeanwhile(ref seed.KeyRef) error {
	return h.meanwhile(func(_ *generation, s *session) error {
		_, err := s.p.CreateObject(s.handle, markTemplate(ref))
		return err
	})
}

// CheckErased looks, as DestroyKey does in the end, whether a key is gone.
func (h *HSM) CheckErased(ref seed.KeyRef) error {
	var verdict error
	err := h.meanwhile(func(_ *generation, s *session) error {
		verdict = s.checkErased(ref)
		return nil
	})
	return errors.Join(err, verdict)
}

// WrapUnderBackup wraps any value under the active backup key.
func (h *HSM) WrapUnderBackup(value []byte) (w seed.Wrapped, err error) {
	err = h.meanwhile(func(g *generation, s *session) error {
		key, err := s.importObject(dataKeyTemplate(value))
		if err != nil {
			return err
		}
		return s.lend(key, "a value", func(key pkcs11.ObjectHandle) (err error) {
			active, _ := g.ring().current(labelBackup)
			w, err = g.wrapWith(s, active, key)
			return err
		})
	})
	return w, err
}
