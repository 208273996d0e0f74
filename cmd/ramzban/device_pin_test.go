package main

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// The key of RFC 6287 appendix C, and its PIN 1234 made longer.
const (
	rfcSeed  = "12345678901234567890"
	rightPIN = "12345678"
)

// pinPhone is a phone with a confirmed token that takes a PIN of eight digits.
func pinPhone(t *testing.T) phone {
	t.Helper()
	key, err := phoneKey()
	require.NoError(t, err)
	p := phone{dir: t.TempDir(), key: key}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, createFile(filepath.Join(p.dir, phoneKeyFile), encodePEM("PRIVATE KEY", der), privateFile))
	require.NoError(t, p.save(phoneToken{
		Serial: "402519938461", Type: otp.OCRA, Hash: "SHA1", Digits: 6, Period: 60, Suite: "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M",
		PINDigits: 8, Confirmed: true, Seed: []byte(rfcSeed),
	}))
	return p
}

func withPIN(pin string) typed { return typed{pin: seed.NewPIN(pin)} }

// A thief has the phone's file and 10,000 minutes. For each he makes the password with another wrong PIN. The last digit
// matches the right password's as often as chance has it, one in ten, within six standard deviations (30); so do the last
// two (one in 100, 10). All six match for at most three of the 10,000: four or more have a chance below 10^-9.
func TestAWrongPINMatchesNoBetterThanChance(t *testing.T) {
	p := pinPhone(t)
	token, err := p.token()
	require.NoError(t, err)
	matches := map[int]int{} // by how many of the last digits
	for i := range 10_000 {
		at := time.Unix(1_800_000_000+int64(i)*60, 0)
		right, _, err := token.next(at, withPIN(rightPIN))
		require.NoError(t, err)
		wrong, _, err := token.next(at, withPIN(fmt.Sprintf("%08d", i*7919)))
		require.NoError(t, err)
		for n := 1; n <= 6 && right.Reveal()[6-n:] == wrong.Reveal()[6-n:]; n++ {
			matches[n]++
		}
	}
	require.InDelta(t, 1000, matches[1], 6*30)
	require.InDelta(t, 100, matches[2], 6*10)
	require.LessOrEqual(t, matches[6], 3)
}

// Whatever PIN is typed, the phone says and keeps the same, but for the password.
func TestThePhoneKnowsNoRightPIN(t *testing.T) {
	p := pinPhone(t)
	before := readAll(t, p.dir)
	for path, content := range before {
		for _, digest := range [][]byte{[]byte(rightPIN), sha1Of(rightPIN), []byte(hex.EncodeToString(sha1Of(rightPIN)))} {
			require.NotContains(t, content, string(digest), path)
		}
	}
	otpWith := func(pin string) (string, string, error) {
		var out, errs bytes.Buffer
		c := exec.Command(ramzban, "device", "otp", "--dir", p.dir)
		c.Env = append(os.Environ(), pinEnv+"="+pin)
		c.Stdout, c.Stderr = &out, &errs
		err := c.Run()
		require.NotContains(t, errs.String(), pin)
		return out.String(), errs.String(), err
	}
	for _, pin := range []string{rightPIN, "00000000", "99999999", "12345679"} {
		out, errs, err := otpWith(pin)
		require.NoError(t, err, errs)
		require.Empty(t, errs)
		require.Regexp(t, `^[0-9]{6}\n$`, out)
		require.Equal(t, before, readAll(t, p.dir))
	}
	for _, pin := range []string{"1234567", "123456789", "1234567x", "１２３４５６７８"} {
		_, errs, err := otpWith(pin)
		require.Error(t, err)
		requireOneLine(t, errs, "the PIN has 8 digits")
	}
}

func sha1Of(pin string) []byte {
	sum := sha1.Sum([]byte(pin))
	return sum[:]
}

// The PIN is asked for on standard input too, and enters the password as its digest: the expected one was made with
// openssl, over suite, zero byte, 128 zero bytes, SHA-1 of the PIN and the step.
func TestThePINIsReadFromStandardInput(t *testing.T) {
	p := pinPhone(t)
	token, err := p.token()
	require.NoError(t, err)
	var prompt bytes.Buffer
	in, err := token.ask(newSecretReader(strings.NewReader(rightPIN+"\n"), &prompt))
	require.NoError(t, err)
	require.Equal(t, "PIN: ", prompt.String())
	var out bytes.Buffer
	require.NoError(t, showPassword(&out, p, time.Unix(1_800_000_000, 0), in))
	require.Equal(t, opensslOCRA(t, token.Suite, sha1Of(rightPIN), 30_000_000), strings.TrimSpace(out.String()))
	_, err = token.ask(newSecretReader(strings.NewReader(""), &prompt))
	require.ErrorContains(t, err, pinEnv)
}

// opensslOCRA makes the password of a step, with nothing of this project's.
func opensslOCRA(t *testing.T, suite string, pin []byte, step uint64) string {
	t.Helper()
	message := append([]byte(suite), make([]byte, 1+128)...)
	message = append(message, pin...)
	message = binary.BigEndian.AppendUint64(message, step)
	c := exec.Command("openssl", "dgst", "-sha1", "-hmac", rfcSeed, "-binary")
	c.Stdin = bytes.NewReader(message)
	sum, err := c.Output()
	require.NoError(t, err)
	at := sum[len(sum)-1] & 15
	code := (int(sum[at])&127)<<24 | int(sum[at+1])<<16 | int(sum[at+2])<<8 | int(sum[at+3])
	return fmt.Sprintf("%06d", code%1_000_000)
}

// Transactions are signed with the payee off the command line; what is signed for one is not the other's.
func TestThePhoneSignsTransactions(t *testing.T) {
	p := pinPhone(t)
	token, err := p.token()
	require.NoError(t, err)
	sign := func(env []string, args ...string) (string, error) {
		c := exec.Command(ramzban, append([]string{"device", "sign", "--dir", p.dir}, args...)...)
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	payee := payeeEnv + "=6037997551493320"
	amount := []string{"--amount", "1500000", "--currency", "IRR"}
	out, err := sign([]string{payee}, amount...)
	require.Error(t, err)
	requireOneLine(t, out, "signs no transactions", "ramzban device otp --dir "+p.dir)

	token.Suite, token.Hash, token.PINDigits, token.Signs = "OCRA-1:HOTP-SHA256-6:QH64-T1M", "SHA256", 0, true
	require.NoError(t, p.save(token))
	out, err = sign([]string{payee}, amount...)
	require.NoError(t, err, out)
	require.Regexp(t, `^[0-9]{6}\n$`, out)
	for _, wrong := range [][]string{{"--amount", "0150", "--currency", "IRR"}, {"--amount", "1"}, {"--amount", "1.5", "--currency", "IRR"}} {
		out, err = sign([]string{payee}, wrong...)
		require.Error(t, err)
		requireOneLine(t, out, "--amount, --currency, payee: a transaction is")
		require.NotContains(t, out, "6037997551493320")
	}
	unbound, err := exec.Command(ramzban, "device", "otp", "--dir", p.dir).CombinedOutput()
	require.NoError(t, err, "%s", unbound)
	require.Regexp(t, `for resynchronisation only: pay with .ramzban device sign`, string(unbound))

	at := time.Unix(1_800_000_000, 0)
	made := map[string]bool{}
	for _, tr := range []*otp.Transaction{
		nil,
		{Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject("6037997551493320")},
		{Amount: "1500001", Currency: "IRR", Payee: seed.NewSubject("6037997551493320")},
		{Amount: "1500000", Currency: "USD", Payee: seed.NewSubject("6037997551493320")},
		{Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject("6037997551493321")},
	} {
		password, _, err := token.next(at, typed{transaction: tr})
		require.NoError(t, err)
		made[password.Reveal()] = true
	}
	require.Len(t, made, 5)
}

// A counter in a suite is saved before its password is shown, as that of RFC 4226 is.
func TestAnOCRACounterIsCountedBeforeItIsShown(t *testing.T) {
	p := pinPhone(t)
	require.NoError(t, p.save(phoneToken{Serial: "1", Type: otp.OCRA, Hash: "SHA1", Digits: 6, Suite: "OCRA-1:HOTP-SHA1-6:C-QN08",
		Confirmed: true, Seed: []byte(rfcSeed)}))
	shown := map[string]bool{}
	for i := range uint64(3) {
		out := &countingWriter{phone: p}
		require.NoError(t, showPassword(out, p, time.Unix(0, 0), typed{}))
		require.Equal(t, i+1, out.keptWhenShown)
		shown[out.String()] = true
	}
	require.Len(t, shown, 3)
}
