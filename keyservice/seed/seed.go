// Package seed holds the plain types and sentinel errors that the HSM side and the key service share: where a
// wrapped seed lives, what a MAC is, and the values that must never be shown.
//
// It must not know any HSM, any engine or any transport. It imports the standard library only.
package seed

import (
	"crypto/sha1" //nolint:gosec // RFC 4226 is defined over HMAC-SHA-1
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
)

// Sentinel errors of everything that is done with an HSM. Callers test them with errors.Is.
var (
	// ErrUnavailable says that the HSM cannot answer now: an outage, never a verdict on the data.
	ErrUnavailable = errors.New("the HSM is not available")
	// ErrBadBlob says that the HSM refused to unwrap or decrypt a blob.
	ErrBadBlob = errors.New("the HSM refused a wrapped blob")
	// ErrKeyNotFound says that no key, or more than one, carries the label and version.
	ErrKeyNotFound = errors.New("no such key in the HSM")
	// ErrKeyActive says that a key cannot be destroyed because new things are made under it.
	ErrKeyActive = errors.New("the key is active")
	// ErrBadSeal says that data does not carry the seal it was stored with: it was changed.
	ErrBadSeal = errors.New("the seal does not match the data")
)

// KeyRef names one version of a master key. The object's label in the HSM is "ramzban/<Label>/<Version>".
type KeyRef struct {
	Label   string `cbor:"1,keyasint" json:"label"`
	Version uint32 `cbor:"2,keyasint" json:"version"`
}

// String returns the object's label in the HSM.
func (k KeyRef) String() string { return fmt.Sprintf("ramzban/%s/%d", k.Label, k.Version) }

// Wrapped is a seed at rest: ciphertext, the mechanism (a PKCS#11 CKM number) and the key that unwrap it.
type Wrapped struct {
	Mech uint32 `cbor:"1,keyasint"`
	Key  KeyRef `cbor:"2,keyasint"`
	Blob []byte `cbor:"3,keyasint"`
}

// Encrypted is a small secret that the service must read back: AES-GCM ciphertext with its tag, its 12-byte IV and key.
type Encrypted struct {
	Key  KeyRef `cbor:"1,keyasint"`
	IV   []byte `cbor:"2,keyasint"`
	Blob []byte `cbor:"3,keyasint"`
}

// MACed is a MAC together with the key version that made it.
type MACed struct {
	Key KeyRef `cbor:"1,keyasint"`
	Sum []byte `cbor:"2,keyasint"`
}

// MasterKey is one version of a master key, as the HSM describes it.
type MasterKey struct {
	Key    KeyRef
	KCV    []byte // key check value: 3 bytes of a secret key, 8 of a key pair
	Public []byte // the public half of a key pair, DER SubjectPublicKeyInfo; nil of a secret key
}

// Signature is a signature together with the key version that made it.
type Signature struct {
	Key KeyRef `cbor:"1,keyasint"`
	DER []byte `cbor:"2,keyasint"` // ASN.1 ECDSA-Sig-Value (RFC 3279 section 2.2.3)
}

// Derivation says how a new seed is made: the bytes of Context must be different for every seed.
type Derivation struct {
	Context []byte // unique per seed: scheme, serial, nonce, purpose, hash, length
	Hash    Hash   // the HMAC the seed will serve; decides its length: 32 bytes, 64 for SHA-512
}

// Enrolled is a new seed, wrapped twice: for the store, and for one phone.
type Enrolled struct {
	Derive    KeyRef  // the derivation master key that made it
	ForStore  Wrapped // under the active wrapping master key (RFC 5649)
	ForDevice []byte  // RSA-OAEP ciphertext under the phone's public key; nil if there is no phone
}

// Imported is the seed of a hardware token, which its maker wrapped.
type Imported struct {
	ForStore    Wrapped // under the active wrapping master key (RFC 5649)
	Fingerprint []byte  // 32 bytes, the same for every wrapping of the seed and under every version of every key
}

// MAC computes the HMAC of message under one pinned seed, inside the HSM. It is valid only inside the call that lent it.
type MAC func(message []byte) ([]byte, error)

// Hash is the hash function of an HMAC: SHA-1, SHA-256 or SHA-512.
type Hash uint8

// The hashes of RFC 6238.
const (
	SHA1 Hash = iota + 1
	SHA256
	SHA512
)

// ParseHash reads "SHA1", "SHA256" or "SHA512".
func ParseHash(name string) (Hash, error) {
	for _, h := range []Hash{SHA1, SHA256, SHA512} {
		if h.String() == name {
			return h, nil
		}
	}
	return 0, fmt.Errorf("hash %q is not one of SHA1, SHA256, SHA512", name)
}

// String returns the name used in configuration and answers.
func (h Hash) String() string {
	switch h {
	case SHA1:
		return "SHA1"
	case SHA256:
		return "SHA256"
	case SHA512:
		return "SHA512"
	}
	return fmt.Sprintf("Hash(%d)", uint8(h))
}

// New returns the hash in software; nil for an unknown one. The server uses it for no seed: only devices do.
func (h Hash) New() func() hash.Hash {
	switch h {
	case SHA1:
		return sha1.New
	case SHA256:
		return sha256.New
	case SHA512:
		return sha512.New
	}
	return nil
}

// SeedLength is the length in bytes of the seeds we derive for this hash: 32, and 64 for SHA-512. Both are multiples
// of 8, so RFC 5649 as modules expose it adds no padding, and both meet every module's HMAC minimum.
func (h Hash) SeedLength() int {
	if h == SHA512 {
		return 64
	}
	return 32
}
