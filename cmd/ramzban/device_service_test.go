package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// phoneCommand runs `ramzban device` with secrets in the environment, and returns what it prints.
func phoneCommand(t *testing.T, env []string, args ...string) string {
	t.Helper()
	c := exec.Command(ramzban, append([]string{"device"}, args...)...)
	c.Env = append(os.Environ(), env...)
	out, err := c.Output()
	require.NoError(t, err, "%v", args)
	return strings.TrimSpace(string(out))
}

// A card's token that needs a PIN, from its issue to its passwords, on the phone's command line.
func TestPINProtectedTokenFromTheCommandLine(t *testing.T) {
	s := startService(t)
	card := testCard(21)
	issued, err := s.as("branch").Issue(t.Context(), wire.IssueRequest{
		Class: "card", Subject: card, Channel: "app", Profile: "offline-pin-60", Uses: []string{testUse}})
	require.NoError(t, err)
	_, err = s.as("branch").SetPIN(t.Context(), issued.Serial, wire.PINRequest{PIN: rightPIN})
	require.NoError(t, err)
	code, err := s.as("sms-gateway").CollectCode(t.Context(), issued.Activation.ID)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "phone")
	phoneCommand(t, nil, "new", "--dir", dir)
	out := phoneCommand(t, []string{subjectEnv + "=" + card, codeEnv + "=" + code.Code}, "activate", "--dir", dir, "--serial", issued.Serial,
		"--url", "https://"+s.api, "--ca", s.pki("ca.crt"), "--cert", s.pki("mobile-bank.crt"), "--key", s.pki("mobile-bank.key"))
	require.Contains(t, out, "(OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M, with a PIN of 8 digits)")

	wrong := phoneCommand(t, []string{pinEnv + "=12345679"}, "otp", "--dir", dir)
	answer, err := s.verify(t.Context(), issued.Serial, wrong)
	require.NoError(t, err)
	require.Equal(t, "refused mismatch", answer.Result+" "+answer.Reason)
	right := phoneCommand(t, []string{pinEnv + "=" + rightPIN}, "otp", "--dir", dir)
	answer, err = s.verify(t.Context(), issued.Serial, right)
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
	require.False(t, answer.Bound)
}

// A bank that prints no serials: card or account and activation code are enough, on the phone's command line too.
func TestActivationWithoutASerialFromTheCommandLine(t *testing.T) {
	s := startService(t)
	for class, subject := range map[string]string{"card": testCard(24), "account": "0123456789.01"} {
		issued, err := s.as("branch").Issue(t.Context(), wire.IssueRequest{
			Class: class, Subject: subject, Channel: "app", Profile: "offline-60", Uses: []string{testUse}})
		require.NoError(t, err)
		code, err := s.as("sms-gateway").CollectCode(t.Context(), issued.Activation.ID)
		require.NoError(t, err)
		dir := filepath.Join(t.TempDir(), "phone")
		phoneCommand(t, nil, "new", "--dir", dir)
		env := []string{subjectEnv + "=" + subject, codeEnv + "=" + code.Code}
		activate := []string{"activate", "--dir", dir, "--url", "https://" + s.api, "--ca", s.pki("ca.crt"),
			"--cert", s.pki("mobile-bank.crt"), "--key", s.pki("mobile-bank.key"), "--class"}
		_, stderr := runFailing(t, exitFailure, env, append(append([]string{"device"}, activate...), "token")...)
		requireOneLine(t, stderr, "--class must be card or account")
		out := phoneCommand(t, env, append(activate, class)...)
		require.Contains(t, out, "token "+issued.Serial+" is active on this phone")
		answer, err := s.verify(t.Context(), issued.Serial, phoneCommand(t, nil, "otp", "--dir", dir))
		require.NoError(t, err)
		require.Equal(t, "accepted", answer.Result)
	}
}

// The phone's signatures mean to the service what was signed, and its unbound passwords are good for resync alone.
func TestThePhoneSignsForTheService(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "signing-pin-60", testCard(22))
	require.NoError(t, err)
	_, err = s.as("branch").SetPIN(t.Context(), c.serial, wire.PINRequest{PIN: rightPIN})
	require.NoError(t, err)
	p := pinPhone(t)
	c.token.Confirmed = true
	require.NoError(t, p.save(c.token))
	verify := func(password string, t2 *wire.Transaction) wire.VerificationAnswer {
		a, err := s.as("core-banking").Verify(t.Context(), wire.VerificationRequest{Serial: c.serial, Use: testUse, OTP: password, Transaction: t2})
		require.NoError(t, err)
		return a
	}
	env := []string{payeeEnv + "=6037997551493320", pinEnv + "=" + rightPIN}
	signed := phoneCommand(t, env, "sign", "--dir", p.dir, "--amount", "1500000", "--currency", "IRR")
	paid := wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: "6037997551493320"}
	other := paid
	other.Amount = "1500001"
	require.Equal(t, "transaction_missing", verify(signed, nil).Reason)
	require.Equal(t, "mismatch", verify(signed, &other).Reason)
	answer := verify(signed, &paid)
	require.Equal(t, "accepted", answer.Result)
	require.True(t, answer.Bound)

	at := time.Now().Add(time.Minute)
	var two [2]string
	for i := range two {
		password, _, err := c.token.next(at.Add(time.Duration(i)*time.Minute), typed{pin: seed.NewPIN(rightPIN)})
		require.NoError(t, err)
		two[i] = password.Reveal()
	}
	found, err := s.as("mobile-bank").Resync(t.Context(), c.serial, wire.ResyncRequest{OTP1: two[0], OTP2: two[1]})
	require.NoError(t, err)
	require.Equal(t, "accepted", found.Result, found.Reason)
}

// A phone that is ten minutes fast is refused, presses the clock button, and is accepted.
func TestAWrongClockIsPutRightByTheService(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "offline-60", testCard(23))
	require.NoError(t, err)
	p := pinPhone(t)
	require.NoError(t, p.save(c.token))
	clock := func() time.Time { return time.Now().Add(10 * time.Minute) }
	show := func() string {
		token, err := p.token()
		require.NoError(t, err)
		require.Equal(t, otp.TOTP, token.Type)
		password, _, err := token.next(clock(), typed{})
		require.NoError(t, err)
		return password.Reveal()
	}
	answer, err := s.verify(t.Context(), c.serial, show())
	require.NoError(t, err)
	require.Equal(t, "mismatch", answer.Reason)
	offset, err := p.sync(t.Context(), s.as("mobile-bank"), clock)
	require.NoError(t, err)
	require.InDelta(t, -600, offset.Seconds(), 5)
	answer, err = s.verify(t.Context(), c.serial, show())
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)
}
