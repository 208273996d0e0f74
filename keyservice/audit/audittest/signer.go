// Package audittest makes audit keys for tests: in software, where what is tested is what is done with signatures.
package audittest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
)

// Signer signs as the HSM's audit key does.
type Signer struct {
	Public  audit.PublicKey
	private *ecdsa.PrivateKey
}

// NewSigner makes a key.
func NewSigner(t testing.TB) Signer {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	require.NoError(t, err)
	public, err := audit.ParsePublicKey(der)
	require.NoError(t, err)
	return Signer{public, private}
}

// Sign is an audit.SignFunc.
func (s Signer) Sign(_ context.Context, message []byte) (audit.PublicKey, []byte, error) {
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, s.private, sum[:])
	return s.Public, sig, err
}
