package otp_test

import (
	"crypto/sha1" //nolint:gosec // PSHA1 of the suites
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// One sound policy of each sort.
func offline() otp.Policy {
	return otp.Policy{Type: otp.OCRA, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute,
		DriftBound: 5 * time.Minute, Suite: "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M", PINDigits: 8}
}

func signing() otp.Policy {
	return otp.Policy{Type: otp.OCRA, Hash: seed.SHA256, Digits: 8, LookAhead: 10, ResyncAhead: 100,
		Suite: "OCRA-1:HOTP-SHA256-8:C-QH64", Signs: true}
}

func counted() otp.Policy {
	return otp.Policy{Type: otp.HOTP, Hash: seed.SHA1, Digits: 6, LookAhead: 10, ResyncAhead: 100}
}

func timed() otp.Policy {
	return otp.Policy{Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: 2 * time.Minute, DriftSearch: time.Minute,
		DriftBound: 5 * time.Minute, AllowUnbound: true}
}

func sms() otp.Policy {
	return otp.Policy{Type: otp.SMS, Hash: seed.SHA256, Digits: 6, Validity: 2 * time.Minute}
}

func TestSoundPolicies(t *testing.T) {
	for name, p := range map[string]otp.Policy{"offline": offline(), "signing": signing(), "counted": counted(), "timed": timed(), "sms": sms()} {
		require.NoError(t, p.Validate(), name)
		require.Equal(t, name == "signing" || name == "counted", p.Counted(), name)
	}
	require.Equal(t, seed.SHA1, offline().PINHash())
	for _, p := range []otp.Policy{signing(), counted(), timed(), sms()} {
		require.Zero(t, p.PINHash())
	}
}

func TestPolicyRules(t *testing.T) {
	type spoil = func(*otp.Policy)
	suite := func(name string) spoil { return func(p *otp.Policy) { p.Suite = name } }
	for _, test := range []struct {
		name  string
		of    func() otp.Policy
		spoil spoil
		say   string
	}{
		{"suite for totp", timed, suite("OCRA-1:HOTP-SHA1-6:QN08-T1M"), "for ocra only"},
		{"PIN for hotp", counted, func(p *otp.Policy) { p.PINDigits = 4 }, "for ocra only"},
		{"signing for sms", sms, func(p *otp.Policy) { p.Signs = true }, "for ocra only"},
		{"unknown type", timed, func(p *otp.Policy) { p.Type = "u2f" }, `not "u2f"`},

		{"no suite", offline, suite(""), "suite: not an OCRA suite"},
		{"broken suite", offline, suite("OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1D"), "suite: not an OCRA suite"},
		{"no moving factor", offline, suite("OCRA-1:HOTP-SHA1-6:QN08-PSHA1"), "either C or T"},
		{"two moving factors", offline, suite("OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1-T1M"), "either C or T"},
		{"a session", offline, suite("OCRA-1:HOTP-SHA1-6:QN08-PSHA1-S064-T1M"), "must not have S"},
		{"another hash", offline, suite("OCRA-1:HOTP-SHA256-6:QN08-PSHA1-T1M"), "must be the suite's"},
		{"other digits", offline, suite("OCRA-1:HOTP-SHA1-8:QN08-PSHA1-T1M"), "must be the suite's"},
		{"the whole MAC", offline, func(p *otp.Policy) { p.Suite, p.Digits = "OCRA-1:HOTP-SHA1-0:QN08-PSHA1-T1M", 0 }, "digits must be 6, 7 or 8"},
		{"another period", offline, suite("OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T2M"), "must be the suite's"},
		{"a period with a counter", signing, func(p *otp.Policy) { p.Period = time.Minute }, "must be the suite's"},
		{"PIN without P", signing, func(p *otp.Policy) { p.PINDigits = 8 }, "pin_digits must be given"},
		{"P without PIN", offline, func(p *otp.Policy) { p.PINDigits = 0 }, "pin_digits must be given"},
		{"PIN of 3", offline, func(p *otp.Policy) { p.PINDigits = 3 }, "between 4 and 12"},
		{"PIN of 13", offline, func(p *otp.Policy) { p.PINDigits = 13 }, "between 4 and 12"},
		{"PIN of -4", offline, func(p *otp.Policy) { p.PINDigits = -4 }, "between 4 and 12"},
		{"signing with 8 digits", offline, func(p *otp.Policy) { p.Signs = true }, "to sign"},
		{"signing with QH31", signing, suite("OCRA-1:HOTP-SHA256-8:C-QH31"), "to sign"},
		{"signing, yet unbound", signing, func(p *otp.Policy) { p.AllowUnbound = true }, "allow_unbound"},
		{"OCRA validity", offline, func(p *otp.Policy) { p.Validity = time.Second }, "validity must be at least the period"},
		{"OCRA look-ahead with T", offline, func(p *otp.Policy) { p.LookAhead = 1 }, "for counters only"},
		{"OCRA drift with C", signing, func(p *otp.Policy) { p.DriftBound = time.Minute }, "for time steps only"},
		{"OCRA look-ahead of 51", signing, func(p *otp.Policy) { p.LookAhead = 51 }, "at most 50"},
		{"OCRA period of two hours", offline, func(p *otp.Policy) {
			p.Suite, p.Period, p.Validity = "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T2H", 2*time.Hour, 2*time.Hour
		}, "at most 3600s"},

		{"resync below look-ahead", counted, func(p *otp.Policy) { p.ResyncAhead = 9 }, "between look_ahead (10) and 1000"},
		{"resync of 1001", counted, func(p *otp.Policy) { p.ResyncAhead = 1001 }, "between look_ahead (10) and 1000"},
		{"resync with time", timed, func(p *otp.Policy) { p.ResyncAhead = 1 }, "for counters only"},
		{"drift of 1001 steps", timed, func(p *otp.Policy) {
			p.Period, p.Validity, p.DriftSearch, p.DriftBound = 5*time.Second, 5*time.Second, 0, 2500*time.Second
		}, "at most 1000"},

		{"sms of no validity", sms, func(p *otp.Policy) { p.Validity = 0 }, "30s to 600s"},
		{"sms of 29 s", sms, func(p *otp.Policy) { p.Validity = 29 * time.Second }, "30s to 600s"},
		{"sms of 601 s", sms, func(p *otp.Policy) { p.Validity = 601 * time.Second }, "30s to 600s"},
		{"sms of half seconds", sms, func(p *otp.Policy) { p.Validity += time.Second / 2 }, "whole seconds"},
		{"sms with a period", sms, func(p *otp.Policy) { p.Period = time.Minute }, "period is not for sms"},
		{"sms with drift", sms, func(p *otp.Policy) { p.DriftBound = time.Minute }, "drift_bound is not for sms"},
		{"sms with a search", sms, func(p *otp.Policy) { p.DriftSearch = time.Minute }, "drift_search is not for sms"},
		{"sms with a look-ahead", sms, func(p *otp.Policy) { p.LookAhead = 1 }, "look_ahead is not for sms"},
		{"sms with resync", sms, func(p *otp.Policy) { p.ResyncAhead = 1 }, "resync_ahead is not for sms"},
	} {
		p := test.of()
		test.spoil(&p)
		require.ErrorContains(t, p.Validate(), test.say, test.name)
	}
	for _, spare := range []func(*otp.Policy){ // the limits themselves
		func(p *otp.Policy) { *p = counted(); p.ResyncAhead = p.LookAhead },
		func(p *otp.Policy) { *p = counted(); p.LookAhead, p.ResyncAhead = 50, 1000 },
		func(p *otp.Policy) { *p = offline(); p.PINDigits = 4 },
		func(p *otp.Policy) { *p = offline(); p.PINDigits = 12 },
		func(p *otp.Policy) { *p = sms(); p.Validity = 30 * time.Second },
		func(p *otp.Policy) { *p = sms(); p.Validity = 10 * time.Minute },
	} {
		var p otp.Policy
		spare(&p)
		require.NoError(t, p.Validate())
	}
}

func TestMessageOfEachType(t *testing.T) {
	pay := transaction("250000000", "IRR", "6037991234567893")
	factor := []byte{0, 0, 0, 0, 0, 0, 0x12, 0x34}
	for _, p := range []otp.Policy{counted(), timed()} {
		got, err := p.Message(0x1234, nil, nil)
		require.NoError(t, err)
		require.Equal(t, factor, got)
	}

	pin := sha1.Sum([]byte("12345678"))
	got, err := offline().Message(0x1234, pin[:], nil)
	require.NoError(t, err)
	require.Equal(t, "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M\x00"+strings.Repeat("\x00", 128)+string(pin[:])+string(factor), string(got))

	digest := pay.Digest()
	got, err = signing().Message(0x1234, nil, &pay)
	require.NoError(t, err)
	require.Equal(t, "OCRA-1:HOTP-SHA256-8:C-QH64\x00"+string(factor)+string(digest[:])+strings.Repeat("\x00", 96), string(got))

	long := sha256.Sum256([]byte("12345678"))
	for what, wrong := range map[string]func() ([]byte, error){
		"no PIN":                func() ([]byte, error) { return offline().Message(1, nil, nil) },
		"a PIN of another hash": func() ([]byte, error) { return offline().Message(1, long[:], nil) },
		"a PIN too many":        func() ([]byte, error) { return signing().Message(1, pin[:], &pay) },
		"sms":                   func() ([]byte, error) { return sms().Message(1, nil, nil) },
		"no type":               func() ([]byte, error) { return otp.Policy{}.Message(1, nil, nil) },
		"no suite":              func() ([]byte, error) { return otp.Policy{Type: otp.OCRA}.Message(1, nil, nil) },
	} {
		_, err := wrong()
		require.Error(t, err, what)
	}
}
