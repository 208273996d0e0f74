package hsm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

// described finds one version among the keys of the HSM.
func described(t testing.TB, h *hsm.HSM, ref seed.KeyRef) seed.MasterKey {
	t.Helper()
	all, err := h.Keys(t.Context())
	require.NoError(t, err)
	for _, m := range all {
		if m.Key == ref {
			return m
		}
	}
	require.Fail(t, "no such key", "%s", ref)
	return seed.MasterKey{}
}

func auditPublic(t testing.TB, h *hsm.HSM, ref seed.KeyRef) *ecdsa.PublicKey {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(described(t, h, ref).Public)
	require.NoError(t, err)
	return key.(*ecdsa.PublicKey)
}

// verifies checks a signature by Go's own ECDSA.
func verifies(t testing.TB, h *hsm.HSM, message []byte, s seed.Signature) bool {
	t.Helper()
	sum := sha256.Sum256(message)
	return ecdsa.VerifyASN1(auditPublic(t, h, s.Key), sum[:], s.DER)
}

// An independent judge: openssl verifies the signature with the public half as Keys gives it.
func TestOpenSSLVerifiesASignature(t *testing.T) {
	h := open(t)
	dir := t.TempDir()
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: described(t, h, seed.KeyRef{Label: "audit", Version: 1}).Public})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "audit.pem"), public, 0o600))
	for _, message := range [][]byte{nil, []byte("ramzban/installation/node\n1842\n"), bytes.Repeat([]byte("x"), 100_000)} {
		signed, err := h.SignAudit(t.Context(), message)
		require.NoError(t, err)
		require.Equal(t, seed.KeyRef{Label: "audit", Version: 1}, signed.Key)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "signature"), signed.DER, 0o600))
		require.Contains(t, string(openssl(t, dir, message, "dgst", "-sha256", "-verify", "audit.pem", "-signature", "signature")), "Verified OK")
		require.True(t, verifies(t, h, message, signed))
		require.False(t, verifies(t, h, append(message, 'x'), signed))
	}
}

// Signing has sessions of its own: it works while verification has taken all others, and takes none from it.
func TestSigningTakesNoSessionFromVerification(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.PoolSessions = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, h.WithAllSessions(func() {
		signed, err := h.SignAudit(ctx, []byte("checkpoint"))
		require.NoError(t, err)
		require.NotEmpty(t, signed.DER)
	}))
	require.EqualValues(t, 1, h.Stats().Signatures)
}

// Whatever is lost in a call of a signature, it is made in the end, and verifies.
func TestFaultSigningRecovers(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.PoolSessions, c.SignSessions = 4, 2 })
	r.forgetful = true
	message := []byte("checkpoint")
	sign := func(int) error {
		signed, err := r.SignAudit(t.Context(), message)
		if err == nil && !verifies(t, r.HSM, message, signed) {
			err = errWrong
		}
		return err
	}
	require.NoError(t, together(16, sign))
	for name, lose := range map[string]func(){
		"sessions": r.faults.LoseSessions,
		"objects":  r.faults.LoseObjects,
		"login":    r.faults.LoseLogin,
		"all":      func() { r.faults.LoseSessions(); r.faults.LoseObjects(); r.faults.LoseLogin() },
		"device":   func() { r.faults.Break(pkcs11.CKR_DEVICE_REMOVED) },
	} {
		lose()
		require.NoError(t, together(16, sign), name)
	}
	for _, f := range []fault.Function{fault.SignInit, fault.Sign} {
		for _, code := range sweepCodes {
			for _, done := range []bool{false, true} {
				r.faults.Inject(fault.Fault{Function: f, Code: code, Times: 1, Done: done})
				if err := sign(0); err != nil {
					unavailable(t, err)
				}
				r.faults.Clear()
				eventually(t, "a signature", func() bool { return sign(0) == nil })
			}
		}
	}
}

// A handle that stands for another key after all does not get a signature out: the keys are found again.
func TestASignatureThatDoesNotVerifyIsNeverReturned(t *testing.T) {
	h := quick(t, copyOf(t, token))
	require.NoError(t, h.ConfuseAuditKey())
	signed, err := h.SignAudit(t.Context(), []byte("checkpoint"))
	require.NoError(t, err)
	require.True(t, verifies(t, h, []byte("checkpoint"), signed))
	require.EqualValues(t, 2, h.Stats().Generation)
	require.EqualValues(t, 1, h.Stats().HandlesLost)
}
