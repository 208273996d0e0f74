package hsm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// The audit keys: ECDSA over P-256 (FIPS 186-5), which every module and every openssl has.
const (
	auditKeyLength    = 32 // bytes of a coordinate
	auditPublicLength = 91 // bytes of the SubjectPublicKeyInfo (RFC 5480)
)

// curveP256 is the DER object identifier of the curve (RFC 5480 section 2.1.1.1), as CKA_EC_PARAMS has it.
var curveP256 = []byte{0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}

// errWrongSignature: the module said CKR_OK, but the signature is not one of the key's. So its handle may be another's.
var errWrongSignature = errors.New("the HSM made a signature that does not verify")

// SignAudit signs a message under the active audit key: ECDSA over P-256 with SHA-256, in ASN.1 DER, so that
// "openssl dgst -sha256 -verify" agrees. Nothing is returned that does not verify.
//
// It has sessions of its own, so that it takes none from verification. crypto11's signer would draw from a pool that
// never drops a dead session, and would fail from a lost session on until the next generation.
func (h *HSM) SignAudit(ctx context.Context, message []byte) (seed.Signature, error) {
	digest := sha256.Sum256(message)
	var made seed.Signature
	err := h.run(ctx, func(g *generation) error {
		ring := g.ring()
		ref, key := ring.current(labelAudit)
		return g.signers.withSession(ctx, func(s *session) (err error) {
			made.Key = ref
			made.DER, err = s.signDigest(key, ring.signers[ref], digest[:])
			return err
		})
	})
	h.stats.signatures.Add(1)
	if err != nil {
		return seed.Signature{}, err
	}
	return made, nil
}

// signDigest makes an ECDSA signature and verifies it.
func (s *session) signDigest(key pkcs11.ObjectHandle, public *ecdsa.PublicKey, digest []byte) ([]byte, error) {
	if err := s.p.SignInit(s.handle, mechanism(pkcs11.CKM_ECDSA, nil), key); err != nil {
		return nil, fmt.Errorf("start a signature: %w", err)
	}
	raw, err := s.p.Sign(s.handle, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if len(raw) != 2*auditKeyLength {
		return nil, fmt.Errorf("sign: the module returned %d bytes instead of %d", len(raw), 2*auditKeyLength)
	}
	r, t := new(big.Int).SetBytes(raw[:auditKeyLength]), new(big.Int).SetBytes(raw[auditKeyLength:])
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, t})
	if err != nil {
		return nil, fmt.Errorf("encode a signature: %w", err)
	}
	if public == nil || !ecdsa.VerifyASN1(public, digest, der) {
		return nil, errWrongSignature
	}
	return der, nil
}

// keptPublicHalf reads the public half of an EC key off the object that is kept beside the private one.
func (s *session) keptPublicHalf(k keyring, ref seed.KeyRef) (*ecdsa.PublicKey, error) {
	h, ok := k.publics[ref]
	if !ok {
		return nil, fmt.Errorf("%w: the public half of %s is missing: import it under the same label", seed.ErrKeyNotFound, ref)
	}
	attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, fmt.Errorf("read the public half of %s: %w", ref, err)
	}
	if string(attrs[0].Value) != string(curveP256) {
		return nil, notOurs(ref, "the public half's CKA_EC_PARAMS", "P-256")
	}
	public, err := parsePoint(attrs[1].Value)
	if err != nil {
		return nil, notOurs(ref, "the public half's CKA_EC_POINT", "a point of P-256")
	}
	return public, nil
}

// parsePoint reads an uncompressed point: in a DER octet string as the standard has it, or bare, as some modules have it.
func parsePoint(in []byte) (*ecdsa.PublicKey, error) {
	var point []byte
	if rest, err := asn1.Unmarshal(in, &point); err != nil || len(rest) > 0 {
		point = in
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

// checkAudit proves an audit key by its public half, as noted at the ceremony, and by a signature that this verifies. The
// check value is the key check value.
func (g *generation) checkAudit(s *session, key pkcs11.ObjectHandle, a KnownAnswer) ([]byte, error) {
	public := g.ring().signers[a.Key]
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode a public key: %w", err)
	}
	if string(der) != string(a.Blob) {
		return nil, fmt.Errorf("%w: its public half is another one", seed.ErrBadBlob)
	}
	digest := sha256.Sum256(tagged(purposeSelfCheck))
	_, err = s.signDigest(key, public, digest[:])
	if errors.Is(err, errWrongSignature) {
		return nil, fmt.Errorf("%w: %w", seed.ErrBadBlob, err)
	}
	return publicCheckValue(der), err
}
