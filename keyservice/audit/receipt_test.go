package audit

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"
)

func receiptSigner(t testing.TB) (PublicKey, SignFunc) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	public, err := ParsePublicKey(der)
	require.NoError(t, err)
	return public, func(_ context.Context, message []byte) (PublicKey, []byte, error) {
		sum := sha256.Sum256(message)
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		return public, sig, err
	}
}

var fullReceipt = Receipt{
	Origin: "ramzban/bank/node-1", Index: 1842, Leaf: tlog.RecordHash([]byte("entry")), Time: time.Date(2026, 11, 22, 10, 0, 0, 123e6, time.UTC),
	Serial: "402519938466", Commitment: bytes.Repeat([]byte{7}, 32), Use: "second-pin", Outcome: Refused, Reason: "not_bound",
	Transaction: TransactionDigest([]byte("salt"), "1500000", "IRR", "6037997551493324"), Bound: true,
}

func TestAReceiptIsReadAsItWasWritten(t *testing.T) {
	key, sign := receiptSigner(t)
	for _, r := range []Receipt{fullReceipt, {Origin: "ramzban/b/n", Outcome: Accepted, Time: time.UnixMilli(0).UTC()}} {
		signed, err := r.Sign(t.Context(), sign)
		require.NoError(t, err)
		got, err := OpenReceipt(signed, []PublicKey{key})
		require.NoError(t, err)
		require.Equal(t, r, got)
	}
}

// Nothing of a receipt can be changed, and no other note of the same key passes for one, nor a receipt for a checkpoint.
func TestOnlyReceiptsAreReceipts(t *testing.T) {
	key, sign := receiptSigner(t)
	signed, err := fullReceipt.Sign(t.Context(), sign)
	require.NoError(t, err)
	for i := range signed {
		changed := bytes.Clone(signed)
		changed[i] ^= 1 << (i % 7)
		_, err := OpenReceipt(changed, []PublicKey{key})
		require.Error(t, err, "byte %d: %q", i, changed)
	}
	other, _ := receiptSigner(t)
	_, err = OpenReceipt(signed, []PublicKey{other})
	require.ErrorIs(t, err, ErrSignature)

	checkpoint, err := Checkpoint{Origin: fullReceipt.Origin, Tree: tlog.Tree{N: 1, Hash: fullReceipt.Leaf}, Time: fullReceipt.Time}.Sign(t.Context(), sign)
	require.NoError(t, err)
	_, err = OpenReceipt(checkpoint, []PublicKey{key})
	require.ErrorIs(t, err, ErrReceipt)
	_, err = OpenCheckpoint(signed, fullReceipt.Origin, []PublicKey{key})
	require.ErrorIs(t, err, ErrCheckpoint)
}

// What would read as another receipt is not signed.
func TestNoAmbiguousReceiptIsSigned(t *testing.T) {
	_, sign := receiptSigner(t)
	for name, change := range map[string]func(*Receipt){
		"a use of two lines": func(r *Receipt) { r.Use = "x\noutcome accepted" },
		"the sign of none":   func(r *Receipt) { r.Use = "-" },
		"no origin":          func(r *Receipt) { r.Origin = "x" },
		"a short commitment": func(r *Receipt) { r.Commitment = []byte{1} },
		"a short digest":     func(r *Receipt) { r.Transaction = []byte{1} },
	} {
		r := fullReceipt
		change(&r)
		_, err := r.Sign(t.Context(), sign)
		require.Error(t, err, name)
	}
}

// Two transactions have two digests, also where the same text is divided in another way.
func TestTransactionDigestsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range [][4]string{{"s", "1", "IRR", "x"}, {"s", "1I", "RR", "x"}, {"s", "1", "IR", "Rx"}, {"t", "1", "IRR", "x"}, {"s", "2", "IRR", "x"}} {
		seen[string(TransactionDigest([]byte(f[0]), f[1], f[2], f[3]))] = true
	}
	require.Len(t, seen, 5)
}

func FuzzParseReceipt(f *testing.F) {
	f.Add(fullReceipt.Text())
	f.Add(strings.Replace(fullReceipt.Text(), "402519938466", "-", 1))
	f.Add(strings.Replace(fullReceipt.Text(), "index 1842", "index 01842", 1))
	f.Add(strings.Replace(fullReceipt.Text(), " bound", " Bound", 1))
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseReceipt(text)
		if err == nil {
			require.Equal(t, text, r.Text())
		}
	})
}
