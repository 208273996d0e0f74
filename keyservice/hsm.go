package keyservice

import (
	"context"
	"crypto/rsa"

	"ramzban/keyservice/seed"
)

// HSM is what the key service needs of a hardware security module, in domain words. Every method may fail with
// seed.ErrUnavailable (an outage, never a verdict) besides what is said of it. All are safe for concurrent use.
type HSM interface {
	// Enrol makes a seed from d.Context under the active derivation master key, wraps it under the active wrapping
	// master key and to the device, and destroys it, in one call. The same context gives the same seed again. Without a
	// device (nil) nobody but the store gets it.
	Enrol(ctx context.Context, d seed.Derivation, device *rsa.PublicKey) (seed.Enrolled, error)

	// ImportKey returns the public key (DER SubjectPublicKeyInfo) to which the maker of hardware tokens wraps their seeds.
	// Import takes such a seed (RSA-OAEP with SHA-1, MGF1-SHA-1 and no label) from the maker to the active wrapping
	// master key without its leaving the HSM. seed.ErrBadBlob: it is not wrapped to an import key, or not a seed of 20 to
	// 64 bytes (32 to 64 for SHA-256, 64 for SHA-512). The fingerprint is the same if and
	// only if two seeds make the same MACs, under whatever keys; who knows the seed can make it.
	ImportKey(ctx context.Context) ([]byte, error)
	Import(ctx context.Context, wrapped []byte, hash seed.Hash) (seed.Imported, error)

	// UseSeed lends fn an HMAC under the wrapped seed, which stays in the HSM and pinned while fn runs. fn may be run
	// again from its start after a session was lost, so it must have no effect but its result. fn must not
	// call other methods of HSM: it would hold up the recovery that the other call waits for, until one of them ends by
	// its deadline. An error of fn is returned as it is. seed.ErrBadBlob: the HSM refuses the blob; for a record whose
	// seal is right that is a fault of the HSM or its keys, not of the customer.
	UseSeed(ctx context.Context, w seed.Wrapped, hash seed.Hash, fn func(seed.MAC) error) error

	// Rewrap takes a stored seed from the wrapping master key that holds it to the active one, without its leaving the HSM;
	// one under the active key is returned as it is. seed.ErrBadBlob: the HSM refuses the blob; seed.ErrKeyNotFound: it
	// lacks its key.
	Rewrap(ctx context.Context, w seed.Wrapped, hash seed.Hash) (seed.Wrapped, error)

	// Seal MACs data for one purpose under the active seal key; CheckSeal returns seed.ErrBadSeal if it does not match.
	Seal(ctx context.Context, purpose string, data []byte) (seed.MACed, error)
	CheckSeal(ctx context.Context, purpose string, data []byte, seal seed.MACed) error

	// StateKey returns the 32-byte key, held by the host, under which the small state rows are MACed: that of one version
	// of the seal key.
	StateKey(ctx context.Context, ref seed.KeyRef) ([]byte, error)

	// Digest MACs data for one purpose under the active digest key; DigestWith under a given version, to make it again.
	Digest(ctx context.Context, purpose string, data []byte) (seed.MACed, error)
	DigestWith(ctx context.Context, key seed.KeyRef, purpose string, data []byte) ([]byte, error)

	// Pseudonym makes the keyed pseudonym of a subject of one class under the active lookup key; PseudonymWith under a
	// given version.
	Pseudonym(ctx context.Context, class string, subject seed.Subject) (seed.MACed, error)
	PseudonymWith(ctx context.Context, ref seed.KeyRef, class string, subject seed.Subject) ([]byte, error)

	// SignAudit signs a message under the active audit key: ECDSA over P-256 with SHA-256, in ASN.1 DER.
	SignAudit(ctx context.Context, message []byte) (seed.Signature, error)

	// Keys returns every version of every master key that may be used. Refresh finds those made since the HSM was opened
	// and takes in the ones that give the known answers of their ceremony; its error says which it left out, while the
	// others are taken in all the same. Use says which versions are active, one of each label; the highest are until then.
	// seed.ErrKeyNotFound: the HSM lacks one of them, and nothing has changed.
	Keys(ctx context.Context) ([]seed.MasterKey, error)
	Refresh(ctx context.Context) error
	Use(versions []seed.KeyRef) error

	// DestroyKey destroys one version of a master key for ever, and leaves a mark in the HSM that it did. To destroy it
	// again is no error. seed.ErrKeyActive: new things are made under it; seed.ErrKeyNotFound: the HSM does not have it, and
	// has no mark of it. Any other error: it may still be there.
	DestroyKey(ctx context.Context, ref seed.KeyRef) error

	// WrapDataKey wraps the data key of a backup, 32 bytes, under the active backup key; UnwrapDataKey returns it.
	// seed.ErrBadBlob: it is damaged, or not of this HSM.
	WrapDataKey(ctx context.Context, key []byte) (seed.Wrapped, error)
	UnwrapDataKey(ctx context.Context, w seed.Wrapped) ([]byte, error)

	// Encrypt keeps a small secret under the active data key (AES-GCM, IV from the HSM, aad bound); Decrypt reads it.
	Encrypt(ctx context.Context, aad, plaintext []byte) (seed.Encrypted, error)
	Decrypt(ctx context.Context, aad []byte, e seed.Encrypted) ([]byte, error)

	// Random returns n bytes, RandomDigits n decimal digits, each uniform, from the HSM's generator.
	Random(ctx context.Context, n int) ([]byte, error)
	RandomDigits(ctx context.Context, n int) (string, error)
}
