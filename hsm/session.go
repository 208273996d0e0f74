package hsm

import (
	"crypto/sha1" //nolint:gosec // for its length only
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// session is one PKCS#11 session. It serves one goroutine at a time, which its pool sees to.
type session struct {
	p       *pkcs11.Ctx
	handle  pkcs11.SessionHandle
	handles *handles     // of its generation
	since   atomic.Int64 // Unix nanoseconds at which the running use began; 0 when idle
}

// running says for how long the present use has been going on.
func (s *session) running(now time.Time) time.Duration {
	began := s.since.Load()
	if began == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, began))
}

func mechanism(m uint, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, parameter)}
}

func hmacMechanism(h seed.Hash) uint {
	switch h {
	case seed.SHA1:
		return pkcs11.CKM_SHA_1_HMAC
	case seed.SHA256:
		return pkcs11.CKM_SHA256_HMAC
	default:
		return pkcs11.CKM_SHA512_HMAC
	}
}

// hmac makes one MAC. miekg/pkcs11 calls C_Sign twice for it, the first time only for the length.
func (s *session) hmac(key pkcs11.ObjectHandle, h seed.Hash, message []byte) ([]byte, error) {
	if err := s.p.SignInit(s.handle, mechanism(hmacMechanism(h), nil), key); err != nil {
		return nil, fmt.Errorf("start a MAC: %w", err)
	}
	sum, err := s.p.Sign(s.handle, message)
	if err != nil {
		return nil, fmt.Errorf("make a MAC: %w", err)
	}
	if len(sum) != macLength(h) {
		return nil, fmt.Errorf("make a MAC: the module returned %d bytes for %s", len(sum), h)
	}
	return sum, nil
}

// macLength is the length of a MAC in bytes.
func macLength(h seed.Hash) int {
	switch h {
	case seed.SHA1:
		return sha1.Size
	case seed.SHA256:
		return sha256.Size
	default:
		return sha512.Size
	}
}

// find returns all objects that match.
func (s *session) find(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := s.p.FindObjectsInit(s.handle, template); err != nil {
		return nil, err
	}
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := s.p.FindObjects(s.handle, 100)
		if err != nil {
			_ = s.p.FindObjectsFinal(s.handle)
			return nil, err
		}
		if len(some) == 0 {
			return all, s.p.FindObjectsFinal(s.handle)
		}
		all = append(all, some...)
	}
}

// unwrap makes a session object of a blob, to the given template.
func (s *session) unwrap(mech []*pkcs11.Mechanism, key pkcs11.ObjectHandle, blob []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if len(blob) == 0 { // miekg/pkcs11 panics on it
		return 0, fmt.Errorf("%w: it is empty", seed.ErrBadBlob)
	}
	h, err := s.handles.newObject(func() (pkcs11.ObjectHandle, error) {
		return s.p.UnwrapKey(s.handle, mech, key, blob, template)
	})
	if err != nil {
		return 0, fmt.Errorf("unwrap: %w", err)
	}
	return h, nil
}

// importObject makes a session object of values that are no secret.
func (s *session) importObject(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return s.handles.newObject(func() (pkcs11.ObjectHandle, error) { return s.p.CreateObject(s.handle, template) })
}

// lend lends a session object to fn and destroys it. Should that fail, the pool closes the session, and the object goes
// with it.
func (s *session) lend(h pkcs11.ObjectHandle, what string, fn func(pkcs11.ObjectHandle) error) error {
	err := fn(h)
	return also(s.destroy(h, what), err) // its own failure first: the pool goes by it
}

// destroy destroys an object.
func (s *session) destroy(h pkcs11.ObjectHandle, what string) error {
	s.handles.forgetObject(h)
	s.handles.destroyed.Add(1)
	if err := s.p.DestroyObject(s.handle, h); err != nil {
		return fmt.Errorf("%w: destroy %s: %w", errLeftover, what, err)
	}
	return nil
}
