package hsm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as makers of tokens and SoftHSM have it
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
	fault "ramzban/softhsm/faultmodule"
)

// importKey reads the public key as the maker of a hardware token would.
func importKey(t testing.TB, h *hsm.HSM) *rsa.PublicKey {
	t.Helper()
	der, err := h.ImportKey(t.Context())
	require.NoError(t, err)
	key, err := x509.ParsePKIXPublicKey(der)
	require.NoError(t, err)
	require.IsType(t, &rsa.PublicKey{}, key)
	return key.(*rsa.PublicKey)
}

// asMaker wraps a seed as the maker of a hardware token would.
func asMaker(t testing.TB, h *hsm.HSM, value []byte) []byte {
	t.Helper()
	return wrapTo(t, importKey(t, h), value)
}

func wrapTo(t testing.TB, key *rsa.PublicKey, value []byte) []byte {
	t.Helper()
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, value, nil)
	require.NoError(t, err)
	return wrapped
}

func TestTheImportKeyIsItsPublicHalfAlone(t *testing.T) {
	h := open(t)
	key := importKey(t, h)
	require.Equal(t, 3072, key.N.BitLen())
	require.Equal(t, 65537, key.E)
	require.True(t, key.Equal(importKey(t, h)))
}

// The seed of a hardware token makes the same MACs in the HSM as in the token, whatever its length, and nothing of it
// stays in the HSM.
func TestAMakersSeedReachesTheStore(t *testing.T) {
	h := open(t)
	for hash, lengths := range map[seed.Hash][]int{
		seed.SHA1: {20, 21, 24, 25, 32, 63, 64}, seed.SHA256: {32, 33, 40, 64}, seed.SHA512: {64},
	} {
		for _, length := range lengths {
			value := make([]byte, length)
			_, err := rand.Read(value)
			require.NoError(t, err)
			made, err := h.Import(t.Context(), asMaker(t, h, value), hash)
			require.NoError(t, err, "%s, %d bytes", hash, length)
			require.Equal(t, seed.KeyRef{Label: "wrap", Version: 1}, made.ForStore.Key)
			k := known{hash, value, made.ForStore}
			sum, err := k.mac(t.Context(), h, []byte("message"))
			require.NoError(t, err)
			require.Equal(t, k.software([]byte("message")), sum, "%s, %d bytes", hash, length)
		}
	}
	n, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Equal(t, h.Stats().CachedSeeds, n)
}

// A seed is known again by its fingerprint, however it was wrapped, and though zeroes were put behind it: to HMAC that is
// the same key (RFC 2104 section 2). It says nothing about what the seed makes otherwise.
func TestASeedIsKnownByItsFingerprint(t *testing.T) {
	h := open(t)
	printOf := func(value []byte, hash seed.Hash) []byte {
		made, err := h.Import(t.Context(), asMaker(t, h, value), hash)
		require.NoError(t, err)
		require.Len(t, made.Fingerprint, sha256.Size)
		return made.Fingerprint
	}
	value := rfcSecret(32)
	first, other := printOf(value, seed.SHA1), slices.Clone(value)
	other[31] ^= 1
	require.Equal(t, first, printOf(value, seed.SHA1))
	require.Equal(t, first, printOf(append(slices.Clone(value), 0, 0), seed.SHA1))
	require.NotEqual(t, first, printOf(other, seed.SHA1))
	require.NotEqual(t, first, printOf(value, seed.SHA256), "it makes other passwords")
	raw := known{seed.SHA1, value, seed.Wrapped{}}.software([]byte("ramzban/self-check/1\x00"))
	require.NotContains(t, string(first), string(raw[:8]))
}

// An independent maker: openssl reads the public key and wraps the seed.
func TestOpenSSLSendsASeed(t *testing.T) {
	h := open(t)
	der, err := h.ImportKey(t.Context())
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.der"), der, 0o600))
	wrapped := openssl(t, dir, rfcSecret(20), "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "key.der",
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1", "-pkeyopt", "rsa_mgf1_md:sha1")
	made, err := h.Import(t.Context(), wrapped, seed.SHA1)
	require.NoError(t, err)
	k := known{seed.SHA1, rfcSecret(20), made.ForStore}
	sum, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, k.software([]byte("message")), sum)
}

// The length is judged in the HSM, to the byte: too short by what it makes MACs with, too long by the ciphertext.
func TestMakersSeedsOfWrongLengthsAreRefused(t *testing.T) {
	h := open(t)
	for hash, lengths := range map[seed.Hash][]int{
		seed.SHA1: {0, 1, 8, 15, 16, 17, 18, 19, 65, 72, 214, 342}, seed.SHA256: {0, 20, 24, 31, 65, 342}, seed.SHA512: {0, 32, 63, 65, 342},
	} {
		for _, length := range lengths {
			t.Run(fmt.Sprintf("%s, %d bytes", hash, length), func(t *testing.T) {
				made, err := h.Import(t.Context(), asMaker(t, h, bytes.Repeat([]byte{0xA5}, length)), hash)
				require.ErrorIs(t, err, seed.ErrBadBlob)
				require.Zero(t, made)
			})
		}
	}
	n, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	require.EqualValues(t, 1, h.Stats().Generation)
}

// Where a module makes MACs with any key, the ciphertext still shows a seed that is 8 bytes or more too short.
func TestTheCiphertextShowsTheLength(t *testing.T) {
	for hash, accepted := range map[seed.Hash][]int{seed.SHA1: {32, 40, 48, 56, 64, 72}, seed.SHA256: {40, 48, 56, 64, 72}, seed.SHA512: {72}} {
		for length := 0; length <= 216; length += 8 {
			err := hsm.CheckLengths(length, hash)
			require.Equal(t, slices.Contains(accepted, length), err == nil, "%s, %d bytes", hash, length)
			if err != nil {
				require.ErrorIs(t, err, seed.ErrBadBlob)
			}
		}
	}
}

func TestWhatIsNotForTheImportKeyIsRefused(t *testing.T) {
	h := open(t)
	key, good := importKey(t, h), asMaker(t, h, rfcSecret(20))
	other, err := rsa.GenerateKey(rand.Reader, 3072)
	require.NoError(t, err)
	sha2, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, rfcSecret(20), nil)
	require.NoError(t, err)
	labelled, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, rfcSecret(20), []byte("label"))
	require.NoError(t, err)
	//lint:ignore SA1019 it is what must be refused
	pkcs1, err := rsa.EncryptPKCS1v15(rand.Reader, key, rfcSecret(20))
	require.NoError(t, err)
	flipped := slices.Clone(good)
	flipped[200] ^= 1
	for name, wrapped := range map[string][]byte{
		"nothing": nil, "a byte short": good[1:], "a byte long": append(slices.Clone(good), 0), "a bit flipped": flipped,
		"zeroes": make([]byte, 384), "above the modulus": bytes.Repeat([]byte{0xFF}, 384),
		"to another key": wrapTo(t, &other.PublicKey, rfcSecret(20)), "to a phone": wrapTo(t, &phone.PublicKey, rfcSecret(20)),
		"OAEP with SHA-256": sha2, "with a label": labelled, "PKCS#1 v1.5": pkcs1,
	} {
		_, err := h.Import(t.Context(), wrapped, seed.SHA1)
		require.ErrorIs(t, err, seed.ErrBadBlob, name)
		require.NotErrorIs(t, err, seed.ErrUnavailable, name)
	}
	_, err = h.Import(t.Context(), good, 9)
	require.ErrorContains(t, err, "unknown hash")
	_, err = h.Import(t.Context(), good, seed.SHA1)
	require.NoError(t, err)
	require.EqualValues(t, 1, h.Stats().Generation)
}

// A seed on its way when the import key gets a new version still arrives.
func TestSeedsToOlderImportKeysAreImported(t *testing.T) {
	tok := softhsm.New(t)
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	first, old := importKey(t, h), asMaker(t, h, rfcSecret(20))
	require.NoError(t, h.Close())

	require.NoError(t, hsm.CreateKey(tok.Config(), seed.KeyRef{Label: "import", Version: 3}))
	renote(t, tok)
	h, err = hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	defer func() { require.NoError(t, h.Close()) }()
	require.False(t, first.Equal(importKey(t, h)))
	prints := map[string]bool{}
	for name, wrapped := range map[string][]byte{"old": old, "new": asMaker(t, h, rfcSecret(20))} {
		made, err := h.Import(t.Context(), wrapped, seed.SHA1)
		require.NoError(t, err, name)
		prints[string(made.Fingerprint)] = true
		k := known{seed.SHA1, rfcSecret(20), made.ForStore}
		sum, err := k.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, k.software([]byte("message")), sum, name)
	}
	require.Len(t, prints, 1)
	// The reason given is that of the key it was wrapped to, not of the one tried last.
	_, err = h.Import(t.Context(), asMaker(t, h, rfcSecret(19)), seed.SHA1)
	require.ErrorIs(t, err, seed.ErrBadBlob)
	require.ErrorContains(t, err, "too short")
}

// The seed is never read: these are all the calls there are, and none returns a key or decrypts.
func TestFaultImportReadsNothing(t *testing.T) {
	r := newRig(t)
	r.works()
	wrapped := asMaker(t, r.HSM, rfcSecret(20))
	made := r.callsOf(func() error { _, err := r.Import(t.Context(), wrapped, seed.SHA1); return err }, "import")
	require.Equal(t, calls{
		fault.UnwrapKey: 3,                                  // for the proof, for the store, and back from it
		fault.SignInit:  2, fault.Sign: 4, fault.WrapKey: 2, // miekg/pkcs11 asks for lengths first
		fault.DestroyObject: 3,
	}, made)
}

// A refusal of the seed and an outage are told apart.
func TestFaultImportErrorsAreNoVerdict(t *testing.T) {
	r := newRig(t)
	r.works()
	wrapped := asMaker(t, r.HSM, rfcSecret(20))
	for name, test := range map[string]struct {
		fault   fault.Fault
		refused bool
	}{
		"the key refuses":         {fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_GENERAL_ERROR}, true},
		"not a key":               {fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_WRAPPED_KEY_INVALID}, true},
		"the seed is short":       {fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_KEY_SIZE_RANGE}, true},
		"unwraps no more":         {fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_GENERAL_ERROR, Skip: 1}, false},
		"the store's own refused": {fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_WRAPPED_KEY_INVALID, Skip: 2}, false},
		"no MAC":                  {fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_GENERAL_ERROR}, false},
		"no MAC of the store's":   {fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_KEY_SIZE_RANGE, Skip: 1}, false},
		"not wrapped":             {fault.Fault{Function: fault.WrapKey, Code: pkcs11.CKR_KEY_UNEXTRACTABLE}, false},
		"function failed":         {fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_FUNCTION_FAILED}, false},
	} {
		t.Run(name, func(t *testing.T) {
			test.fault.Times = 1
			r.faults.Inject(test.fault)
			_, err := r.Import(t.Context(), wrapped, seed.SHA1)
			if test.refused {
				require.ErrorIs(t, err, seed.ErrBadBlob)
			} else {
				unavailable(t, err)
			}
			r.faults.Clear()
			_, err = r.Import(t.Context(), wrapped, seed.SHA1)
			require.NoError(t, err)
		})
	}
	require.Zero(t, r.faults.Stats().SessionObjects)
}
