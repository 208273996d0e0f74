package hsm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as phones and SoftHSM have it
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

// phone is a device's key; one for all tests, since making one takes long.
var phone = func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}()

func enrol(t *testing.T, h *hsm.HSM, context string, hash seed.Hash) (seed.Enrolled, known) {
	t.Helper()
	e, err := h.Enrol(t.Context(), seed.Derivation{Context: []byte(context), Hash: hash}, &phone.PublicKey)
	require.NoError(t, err)
	value, err := rsa.DecryptOAEP(sha1.New(), nil, phone, e.ForDevice, nil)
	require.NoError(t, err)
	return e, known{hash, value, e.ForStore}
}

func TestThePhonesSeedIsTheHSMsSeed(t *testing.T) {
	h := open(t)
	for _, hash := range []seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512} {
		e, k := enrol(t, h, "context of "+hash.String(), hash)
		require.Equal(t, seed.KeyRef{Label: "derive", Version: 1}, e.Derive)
		require.Equal(t, seed.KeyRef{Label: "wrap", Version: 1}, e.ForStore.Key)
		require.Len(t, k.value, hash.SeedLength())
		sum, err := k.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, k.software([]byte("message")), sum)
	}
}

// An independent device: openssl opens the OAEP ciphertext and makes the MAC.
func TestOpenSSLReceivesTheSeed(t *testing.T) {
	h := open(t)
	e, k := enrol(t, h, "for openssl", seed.SHA1)
	dir := t.TempDir()
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(phone)})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key.pem"), key, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "wrapped"), e.ForDevice, 0o600))
	value := openssl(t, dir, nil, "pkeyutl", "-decrypt", "-inkey", "key.pem", "-in", "wrapped",
		"-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha1", "-pkeyopt", "rsa_mgf1_md:sha1")
	mac := openssl(t, dir, []byte("message"), "dgst", "-sha1", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(value), "-r")
	sum, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(sum), strings.Fields(string(mac))[0])
}

func openssl(t *testing.T, dir string, in []byte, args ...string) []byte {
	t.Helper()
	c := exec.Command("openssl", args...)
	c.Dir, c.Stdin, c.Stderr = dir, bytes.NewReader(in), t.Output()
	out, err := c.Output()
	require.NoError(t, err)
	return out
}

func TestTheSameContextGivesTheSameSeed(t *testing.T) {
	h := open(t)
	a, first := enrol(t, h, "one context", seed.SHA512)
	b, again := enrol(t, h, "one context", seed.SHA512)
	require.Equal(t, first.value, again.value)
	require.Equal(t, a.ForStore, b.ForStore)
	require.NotEqual(t, a.ForDevice, b.ForDevice)

	_, other := enrol(t, h, "another context", seed.SHA512)
	blocks := map[string]bool{}
	for _, v := range [][]byte{first.value, other.value} {
		for i := 0; i < len(v); i += 16 {
			blocks[string(v[i:i+16])] = true
		}
	}
	require.Len(t, blocks, 8, "every block of every seed is distinct")
}

func TestEnrolLeavesNothingInTheHSM(t *testing.T) {
	h := open(t)
	for range 20 {
		enrol(t, h, "leaves nothing", seed.SHA256)
	}
	n, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}

// Without a device nothing leaves the HSM but what the store keeps.
func TestASeedWithoutADevice(t *testing.T) {
	h := open(t)
	d := seed.Derivation{Context: []byte("no device"), Hash: seed.SHA1}
	e, err := h.Enrol(t.Context(), d, nil)
	require.NoError(t, err)
	require.Nil(t, e.ForDevice)
	require.Equal(t, seed.KeyRef{Label: "derive", Version: 1}, e.Derive)
	with, k := enrol(t, h, "no device", seed.SHA1)
	require.Equal(t, with.ForStore, e.ForStore, "a device changes nothing about the seed")
	sum, err := known{seed.SHA1, k.value, e.ForStore}.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, k.software([]byte("message")), sum)
	n, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n, "the seed in the cache, and no other")
}

func TestEnrolRefusesUnsoundDeviceKeys(t *testing.T) {
	h := open(t)
	n := phone.N
	for name, key := range map[string]*rsa.PublicKey{
		"no modulus":    {E: 65537},
		"short":         {N: new(big.Int).Rsh(n, 1), E: 65537},
		"long":          {N: new(big.Int).Lsh(n, 2049), E: 65537},
		"even modulus":  {N: new(big.Int).Xor(n, big.NewInt(1)), E: 65537},
		"exponent 3":    {N: n, E: 3},
		"even exponent": {N: n, E: 65538},
	} {
		_, err := h.Enrol(t.Context(), seed.Derivation{Context: []byte("x"), Hash: seed.SHA1}, key)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, seed.ErrUnavailable, name)
	}
	for _, d := range []seed.Derivation{{Hash: seed.SHA1}, {Context: []byte("x")}, {Context: []byte("x"), Hash: 9}} {
		_, err := h.Enrol(t.Context(), d, &phone.PublicKey)
		require.Error(t, err)
	}
}
