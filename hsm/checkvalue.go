package hsm

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// checkValueLength is the length in bytes of the key check value of a secret key, as PKCS#11 has it.
const checkValueLength = 3

// errNoCheckValue: a module that cannot say which key it holds.
var errNoCheckValue = errors.New("the HSM does not give the key check value (CKA_CHECK_VALUE)")

// Keys returns every version of every master key that may be used, with key check values and public halves. The key check
// value (KCV) of
//
//	an AES key (wrap, derive, data, backup)         is the first 3 bytes of the AES-ECB encryption of 16 zero bytes;
//	a MAC key (seal, digest, lookup)                the first 3 bytes of SHA-1 over the key's value;
//	a key pair (import, audit)                      the first 8 bytes of SHA-256 over the DER SubjectPublicKeyInfo.
//
// The first two are PKCS#11's own CKA_CHECK_VALUE and come from the HSM: nothing else can make them of keys that may not
// encrypt, and that nobody can read.
func (h *HSM) Keys(ctx context.Context) ([]seed.MasterKey, error) {
	var all []seed.MasterKey
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			all, err = s.describe(g.ring())
			return err
		})
	})
	return all, err
}

func (s *session) describe(k *keyring) ([]seed.MasterKey, error) {
	var all []seed.MasterKey
	for _, ref := range k.sorted() {
		m, err := s.masterKey(*k, ref)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", ref, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// masterKey reads what identifies one version of a master key.
func (s *session) masterKey(k keyring, ref seed.KeyRef) (seed.MasterKey, error) {
	h, err := k.get(ref)
	if err != nil {
		return seed.MasterKey{}, err
	}
	if !keySpecs[ref.Label].private() {
		kcv, err := s.checkValue(h)
		return seed.MasterKey{Key: ref, KCV: kcv}, err
	}
	public, err := s.publicDER(k, ref, h)
	if err != nil {
		return seed.MasterKey{}, err
	}
	return seed.MasterKey{Key: ref, KCV: publicCheckValue(public), Public: public}, nil
}

// publicDER is the SubjectPublicKeyInfo of a key pair.
func (s *session) publicDER(k keyring, ref seed.KeyRef, h pkcs11.ObjectHandle) ([]byte, error) {
	var public any
	var err error
	if keySpecs[ref.Label].keepsPublic() {
		public, err = s.keptPublicHalf(k, ref)
	} else {
		public, err = s.publicHalf(h)
	}
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(public)
}

// checkValue reads the key check value of a secret key.
func (s *session) checkValue(h pkcs11.ObjectHandle) ([]byte, error) {
	attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CHECK_VALUE, nil)})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCheckValue, err)
	}
	if len(attrs[0].Value) < checkValueLength {
		return nil, errNoCheckValue
	}
	return attrs[0].Value[:checkValueLength], nil
}

// publicCheckValue is the key check value of a key pair.
func publicCheckValue(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:checkLength]
}
