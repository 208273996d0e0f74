package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/otp"
)

func TestPhoneKeepsItsKeyPrivateAndNeverReplacesIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "phone")
	p, err := newPhone(dir)
	require.NoError(t, err)
	require.Equal(t, phoneKeyBits, p.key.N.BitLen())
	requireMode(t, filepath.Join(dir, phoneKeyFile), privateFile)
	_, err = newPhone(dir)
	require.ErrorContains(t, err, "has a key already")
	again, err := openPhone(dir)
	require.NoError(t, err)
	require.True(t, p.key.Equal(again.key))
	_, err = openPhone(t.TempDir())
	require.ErrorContains(t, err, "ramzban device new")
}

func requireMode(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, mode, info.Mode().Perm(), path)
}

func TestPhoneUnwrapsOnlyWhatIsItsOwn(t *testing.T) {
	p, err := newPhone(filepath.Join(t.TempDir(), "a"))
	require.NoError(t, err)
	other, err := rsa.GenerateKey(rand.Reader, phoneKeyBits)
	require.NoError(t, err)
	secret := bytes.Repeat([]byte{7}, 32)
	mine, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &p.key.PublicKey, secret, nil)
	require.NoError(t, err)
	theirs, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &other.PublicKey, secret, nil)
	require.NoError(t, err)

	got, err := p.unwrap(wire.ActivationAnswer{Seed: &wire.WrappedSeed{Wrapped: mine}})
	require.NoError(t, err)
	require.Equal(t, secret, got.Seed)
	_, err = p.unwrap(wire.ActivationAnswer{Seed: &wire.WrappedSeed{Wrapped: theirs}})
	require.Error(t, err)
}

// The passwords of RFC 4226 appendix D, as the phone shows them.
func TestPhoneCountsBeforeItShows(t *testing.T) {
	p, err := newPhone(filepath.Join(t.TempDir(), "phone"))
	require.NoError(t, err)
	require.NoError(t, p.save(phoneToken{Serial: "1", Type: otp.HOTP, Hash: "SHA1", Digits: 6, Confirmed: true, Seed: []byte("12345678901234567890")}))
	requireMode(t, filepath.Join(p.dir, phoneTokenFile), privateFile)
	for i, want := range []string{"755224", "287082", "359152", "969429", "338314"} {
		out := &countingWriter{phone: p}
		require.NoError(t, showPassword(out, p, time.Now(), typed{}))
		require.Equal(t, want, strings.TrimSpace(out.String()))
		require.Equal(t, uint64(i+1), out.keptWhenShown)
	}
}

// countingWriter notes which counter the phone had kept when it showed its password.
type countingWriter struct {
	bytes.Buffer
	phone         phone
	keptWhenShown uint64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	kept, err := w.phone.token()
	if err != nil {
		return 0, err
	}
	w.keptWhenShown = kept.Counter
	return w.Buffer.Write(b)
}

// RFC 6238 appendix B, at 59 s and 1111111109 s, for the three hashes.
func TestPhoneMakesTimedPasswords(t *testing.T) {
	digits := "1234567890123456789012345678901234567890123456789012345678901234"
	for _, v := range []struct {
		hash string
		size int
		at   int64
		want string
	}{
		{"SHA1", 20, 59, "94287082"}, {"SHA256", 32, 59, "46119246"}, {"SHA512", 64, 59, "90693936"},
		{"SHA1", 20, 1111111109, "07081804"}, {"SHA256", 32, 1111111109, "68084774"}, {"SHA512", 64, 1111111109, "25091201"},
	} {
		tok := phoneToken{Type: otp.TOTP, Hash: v.hash, Digits: 8, Period: 30, Seed: []byte(digits[:v.size])}
		got, after, err := tok.next(time.Unix(v.at, 0), typed{})
		require.NoError(t, err)
		require.Equal(t, v.want, got.Reveal())
		require.Equal(t, tok, after)
	}
}

func TestPhoneWithoutAConfirmedTokenShowsNothing(t *testing.T) {
	p, err := newPhone(filepath.Join(t.TempDir(), "phone"))
	require.NoError(t, err)
	require.ErrorContains(t, showPassword(&bytes.Buffer{}, p, time.Now(), typed{}), "ramzban device activate")
	require.NoError(t, p.save(phoneToken{Type: otp.HOTP, Hash: "SHA1", Digits: 6, Seed: []byte("x")}))
	require.ErrorContains(t, showPassword(&bytes.Buffer{}, p, time.Now(), typed{}), "not confirmed")
}

// The sum was made with `openssl dgst -sha1 -hmac key` over the tag, the serial and the SHA-256 of "public".
func TestProofIsAsDocumented(t *testing.T) {
	sum, err := phoneToken{Serial: "402519938461", Hash: "SHA1", Seed: []byte("key")}.proof([]byte("public"))
	require.NoError(t, err)
	require.Equal(t, "24f000a3c63702311fb4811143bfb507adfca382", hex.EncodeToString(sum))
}

func TestSecretsComeFromTheEnvironmentOrStandardInput(t *testing.T) {
	var a activation
	var prompt bytes.Buffer
	require.NoError(t, a.readSecrets(newSecretReader(strings.NewReader("6037991234567893\n12345678\n"), &prompt)))
	require.Equal(t, "6037991234567893", a.subject.Reveal())
	require.Equal(t, "12345678", a.code.Reveal())
	require.NotContains(t, prompt.String(), "6037")

	t.Setenv(subjectEnv, "acc-1")
	require.NoError(t, a.readSecrets(newSecretReader(strings.NewReader("87654321\n"), &prompt)))
	require.Equal(t, "acc-1", a.subject.Reveal())
	require.Equal(t, "87654321", a.code.Reveal())
	require.ErrorContains(t, a.readSecrets(newSecretReader(strings.NewReader(""), &prompt)), codeEnv)
}
