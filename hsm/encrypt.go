package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// AES-GCM with a 96-bit IV and a 128-bit tag (SP 800-38D section 8.2.2: at most 2^32 random IVs under one key).
const (
	gcmIV      = 12  // bytes
	gcmTag     = 128 // bits
	maxEncrypt = 4096
)

// Encrypt keeps a small secret, of at most 4096 bytes, under the active data key: AES-GCM with an IV from the HSM's
// generator. aad is bound: Decrypt needs the same.
func (h *HSM) Encrypt(ctx context.Context, aad, plaintext []byte) (seed.Encrypted, error) {
	if len(plaintext) > maxEncrypt {
		return seed.Encrypted{}, fmt.Errorf("%d bytes are too many to encrypt in the HSM: at most %d", len(plaintext), maxEncrypt)
	}
	var e seed.Encrypted
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			var key pkcs11.ObjectHandle
			e.Key, key = g.ring().current(labelData)
			if e.IV, err = s.random(gcmIV); err != nil {
				return err
			}
			e.Blob, err = s.encrypt(key, e.IV, aad, plaintext)
			return err
		})
	})
	return e, err
}

// Decrypt reads what Encrypt kept; seed.ErrBadBlob if it, or aad, was changed.
func (h *HSM) Decrypt(ctx context.Context, aad []byte, e seed.Encrypted) ([]byte, error) {
	if e.Key.Label != labelData || len(e.IV) != gcmIV || len(e.Blob) < gcmTag/8 {
		return nil, fmt.Errorf("%w: it is not a small secret of this product", seed.ErrBadBlob)
	}
	var plain []byte
	err := h.run(ctx, func(g *generation) error {
		key, err := g.ring().get(e.Key)
		if err != nil {
			return err
		}
		err = g.workers.withSession(ctx, func(s *session) (err error) {
			plain, err = s.decrypt(key, e.IV, aad, e.Blob)
			return err
		})
		return blobError(err, g.cfg.Profile)
	})
	return plain, err
}

// encrypt returns the ciphertext and its tag. The parameters stay in C memory until Free, which must come after the
// operation has ended.
func (s *session) encrypt(key pkcs11.ObjectHandle, iv, aad, plaintext []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, aad, gcmTag)
	defer params.Free()
	if err := s.p.EncryptInit(s.handle, mechanism(pkcs11.CKM_AES_GCM, params), key); err != nil {
		return nil, fmt.Errorf("start encrypting: %w", err)
	}
	blob, err := s.p.Encrypt(s.handle, plaintext)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	if string(params.IV()) != string(iv) {
		return nil, fmt.Errorf("encrypt: the module replaced the IV it was given")
	}
	return blob, nil
}

func (s *session) decrypt(key pkcs11.ObjectHandle, iv, aad, blob []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, aad, gcmTag)
	defer params.Free()
	if err := s.p.DecryptInit(s.handle, mechanism(pkcs11.CKM_AES_GCM, params), key); err != nil {
		return nil, fmt.Errorf("start decrypting: %w", err)
	}
	plain, err := s.p.Decrypt(s.handle, blob)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return plain, nil
}
