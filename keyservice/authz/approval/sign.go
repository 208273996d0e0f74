package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
)

// Bounds of what comes with a document, in bytes.
const (
	MaxCertificate = 6 << 10 // the leaf and what leads to the authority
	MaxSignature   = 1 << 10
	maxChain       = 4 // certificates
	minRSA         = 2048
)

// Signed is a document with its detached signature and its signer's certificate. Stored as CBOR with these integer keys.
type Signed struct {
	Document    []byte `cbor:"1,keyasint"`
	Signature   []byte `cbor:"2,keyasint"` // ECDSA (ASN.1) or RSA PKCS #1 v1.5, both with SHA-256; or Ed25519
	Certificate []byte `cbor:"3,keyasint"` // DER, and those of intermediate authorities one after another
}

// Sign signs a document with the key of a certificate: ECDSA P-256 or P-384, RSA of 2048 bits or more, or Ed25519. chain is
// DER, the signer's own certificate first. A key that does not belong to it is ErrCertificate.
func Sign(document []byte, key crypto.Signer, chain ...[]byte) (Signed, error) {
	if len(chain) == 0 {
		return Signed{}, fmt.Errorf("%w: none is given", ErrCertificate)
	}
	s := Signed{Document: document, Certificate: slices.Concat(chain...)}
	leaf, _, err := s.certificates()
	if err != nil {
		return Signed{}, err
	}
	digest, options := document, crypto.Hash(0)
	if _, plain := leaf.PublicKey.(ed25519.PublicKey); !plain {
		sum := sha256.Sum256(document)
		digest, options = sum[:], crypto.SHA256
	}
	if s.Signature, err = key.Sign(rand.Reader, digest, options); err != nil {
		return Signed{}, fmt.Errorf("%w: signing: %w", ErrSignature, err)
	}
	if err := s.matches(leaf); err != nil {
		return Signed{}, fmt.Errorf("%w: the private key belongs to another certificate", ErrCertificate)
	}
	return s, nil
}

// certificates reads the signer's certificate and those of intermediate authorities.
func (s Signed) certificates() (leaf *x509.Certificate, intermediates []*x509.Certificate, err error) {
	if len(s.Certificate) > MaxCertificate {
		return nil, nil, fmt.Errorf("%w: it and its chain have %d bytes, at most %d are allowed", ErrCertificate, len(s.Certificate), MaxCertificate)
	}
	all, err := x509.ParseCertificates(s.Certificate)
	if err != nil || len(all) == 0 || len(all) > maxChain {
		return nil, nil, fmt.Errorf("%w: there must be 1 to %d certificates in DER", ErrCertificate, maxChain)
	}
	return all[0], all[1:], nil
}

// matches checks the signature under the certificate's key.
func (s Signed) matches(leaf *x509.Certificate) error {
	algorithm, err := algorithmOf(leaf)
	if err != nil {
		return err
	}
	if len(s.Signature) > MaxSignature {
		return ErrSignature
	}
	if err := leaf.CheckSignature(algorithm, s.Document, s.Signature); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// algorithmOf is the one algorithm that signs with a key; ErrCertificate if none may.
func algorithmOf(leaf *x509.Certificate) (x509.SignatureAlgorithm, error) {
	switch key := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return x509.ECDSAWithSHA256, nil
		}
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSA {
			return x509.SHA256WithRSA, nil
		}
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	}
	return 0, fmt.Errorf("%w: its key must be ECDSA P-256 or P-384, RSA of %d bits or more, or Ed25519", ErrCertificate, minRSA)
}
