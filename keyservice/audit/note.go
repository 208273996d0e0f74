package audit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoints are signed notes (https://c2sp.org/signed-note), with the signature type 0x02, ECDSA: the curve is P-256, the
// hash SHA-256, the signature ASN.1 DER over the note's text, so that `openssl dgst -sha256 -verify` agrees. A signature's
// key ID is the first four bytes of the SHA-256 of the key's DER SubjectPublicKeyInfo.

// ErrSignature: a note carries no signature of a known audit key, or a wrong one.
var ErrSignature = errors.New("not signed by a known audit key")

// PublicKey is the public half of one version of the audit key. The zero value is none.
type PublicKey struct {
	key *ecdsa.PublicKey
	der string
}

// ParsePublicKey reads a DER SubjectPublicKeyInfo; only P-256 keys sign checkpoints.
func ParsePublicKey(der []byte) (PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a public audit key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return PublicKey{}, fmt.Errorf("reading a public audit key: %T is no ECDSA key of the curve P-256", parsed)
	}
	canonical, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a public audit key: %w", err)
	}
	return PublicKey{key: key, der: string(canonical)}, nil
}

// ParsePublicKeys reads one or more PEM blocks "PUBLIC KEY", one for each version of the audit key.
func ParsePublicKeys(text []byte) ([]PublicKey, error) {
	var keys []PublicKey
	for rest := text; ; {
		block, after := pem.Decode(rest)
		if block == nil && len(keys) > 0 && strings.TrimSpace(string(rest)) == "" {
			return keys, nil
		}
		if block == nil || block.Type != "PUBLIC KEY" {
			return nil, errors.New(`reading public audit keys: the file must hold PEM blocks "PUBLIC KEY" and nothing else`)
		}
		key, err := ParsePublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		keys, rest = append(keys, key), after
	}
}

// DER is the SubjectPublicKeyInfo.
func (k PublicKey) DER() []byte { return []byte(k.der) }

// PEM is the SubjectPublicKeyInfo as openssl reads it.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.DER()})
}

// ID is the key's ID in signature lines.
func (k PublicKey) ID() uint32 {
	sum := sha256.Sum256([]byte(k.der))
	return binary.BigEndian.Uint32(sum[:])
}

// Verifies tells whether sig (ASN.1 DER) is this key's signature of the message.
func (k PublicKey) Verifies(message, sig []byte) bool {
	sum := sha256.Sum256(message)
	return k.key != nil && ecdsa.VerifyASN1(k.key, sum[:], sig)
}

// SignFunc signs a message with the active audit key (ECDSA P-256 over its SHA-256, ASN.1 DER), and says with which.
type SignFunc func(ctx context.Context, message []byte) (PublicKey, []byte, error)

// signText makes the note of a text. The key is known only after it has signed, so the signature is made first.
func signText(ctx context.Context, name, text string, sign SignFunc) ([]byte, error) {
	key, sig, err := sign(ctx, []byte(text))
	if err != nil {
		return nil, fmt.Errorf("signing as %s: %w", name, err)
	}
	if !key.Verifies([]byte(text), sig) {
		return nil, fmt.Errorf("signing as %s: %w: what the HSM answered", name, ErrSignature)
	}
	return note.Sign(&note.Note{Text: text}, made{named{key, name}, sig})
}

// openText returns the text of a note that one of the keys signed under the name.
func openText(signed []byte, name string, keys []PublicKey) (string, error) {
	n, err := note.Open(signed, verifiers{keys, name})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) { // note.Open takes base64 with stray bits at its end
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return "", fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	return n.Text, nil
}

// named is a key under the name that it signs as. It is a note.Verifier.
type named struct {
	PublicKey
	name string
}

func (n named) Name() string                  { return n.name }
func (n named) KeyHash() uint32               { return n.ID() }
func (n named) Verify(message, s []byte) bool { return n.Verifies(message, s) }

// made is a note.Signer that hands over a signature made before.
type made struct {
	named
	sig []byte
}

func (m made) Sign([]byte) ([]byte, error) { return m.sig, nil }

// verifiers are the keys that may sign as name: note.Verifiers. Of several with the same ID none is taken for the other.
type verifiers struct {
	keys []PublicKey
	name string
}

func (v verifiers) Verifier(name string, id uint32) (note.Verifier, error) {
	var list []note.Verifier
	seen := map[string]bool{}
	for _, k := range v.keys {
		if name == v.name && !seen[k.der] {
			list, seen[k.der] = append(list, named{k, name}), true
		}
	}
	return note.VerifierList(list...).Verifier(name, id)
}
