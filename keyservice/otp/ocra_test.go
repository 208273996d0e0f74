package otp_test

import (
	"crypto/sha1" //nolint:gosec // PSHA1 of the vectors
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

func parse(t testing.TB, name string) otp.Suite {
	t.Helper()
	s, err := otp.ParseSuite(name)
	require.NoError(t, err, name)
	return s
}

func TestRFC6287AppendixC(t *testing.T) {
	pin := sha1.Sum([]byte("1234"))
	mutual := 0
	for _, v := range vectors(t, "rfc6287-appendix-c.txt") {
		suite := parse(t, v[0])
		require.Equal(t, v[0], suite.String())
		in := otp.Input{Question: v[2], Mutual: len(v[2]) == 2*suite.Length}
		if in.Mutual {
			mutual++
		}
		var err error
		if v[1] != "-" {
			in.Counter, err = strconv.ParseUint(v[1], 10, 64)
			require.NoError(t, err)
		}
		if v[3] != "-" {
			in.Step, err = strconv.ParseUint(v[3], 16, 64)
			require.NoError(t, err)
		}
		if suite.PIN != 0 {
			in.PIN = pin[:]
		}
		message, err := suite.Message(in)
		require.NoError(t, err)
		key := []byte(strings.Repeat("1234567890", 7)[:map[seed.Hash]int{seed.SHA1: 20, seed.SHA256: 32, seed.SHA512: 64}[suite.Hash]])
		got, err := suite.Response(mac(suite.Hash, key, message))
		require.NoError(t, err)
		require.Equal(t, v[4], got.Reveal(), "%v", v)
	}
	require.Equal(t, 20, mutual)
}

func TestParseSuiteReadsEachPart(t *testing.T) {
	s := parse(t, "OCRA-1:HOTP-SHA512-10:C-QH40-PSHA256-S064-T48H")
	require.Equal(t, seed.SHA512, s.Hash)
	require.Equal(t, 10, s.Digits)
	require.True(t, s.Counter)
	require.EqualValues(t, 'H', s.Question)
	require.Equal(t, 40, s.Length)
	require.Equal(t, seed.SHA256, s.PIN)
	require.Equal(t, 64, s.Session)
	require.Equal(t, 48*time.Hour, s.TimeStep)
	for name, step := range map[string]time.Duration{"T1S": time.Second, "T59S": 59 * time.Second, "T1M": time.Minute, "T59M": 59 * time.Minute, "T1H": time.Hour} {
		require.Equal(t, step, parse(t, "OCRA-1:HOTP-SHA1-6:QN08-"+name).TimeStep)
	}
}

func TestInvalidSuitesAreRefused(t *testing.T) {
	for what, name := range map[string]string{
		"nothing":                     "",
		"another version":             "OCRA-2:HOTP-SHA1-6:QN08",
		"no version":                  "OCRA:HOTP-SHA1-6:QN08",
		"in lower case":               "ocra-1:hotp-sha1-6:qn08",
		"TOTP":                        "OCRA-1:TOTP-SHA1-6:QN08",
		"no hash":                     "OCRA-1:HOTP-6:QN08",
		"hash MD5":                    "OCRA-1:HOTP-MD5-6:QN08",
		"hash SHA384":                 "OCRA-1:HOTP-SHA384-6:QN08",
		"hash with a hyphen":          "OCRA-1:HOTP-SHA-1-6:QN08",
		"no digits":                   "OCRA-1:HOTP-SHA1:QN08",
		"3 digits":                    "OCRA-1:HOTP-SHA1-3:QN08",
		"11 digits":                   "OCRA-1:HOTP-SHA1-11:QN08",
		"digits with a zero in front": "OCRA-1:HOTP-SHA1-06:QN08",
		"no data input":               "OCRA-1:HOTP-SHA1-6",
		"an empty data input":         "OCRA-1:HOTP-SHA1-6:",
		"no question":                 "OCRA-1:HOTP-SHA1-6:C",
		"time alone":                  "OCRA-1:HOTP-SHA1-6:T1M",
		"a bare Q":                    "OCRA-1:HOTP-SHA1-6:Q",
		"question of no length":       "OCRA-1:HOTP-SHA1-6:QN",
		"question format B":           "OCRA-1:HOTP-SHA1-6:QB08",
		"question in lower case":      "OCRA-1:HOTP-SHA1-6:Qn08",
		"question of 3":               "OCRA-1:HOTP-SHA1-6:QN03",
		"question of 0":               "OCRA-1:HOTP-SHA1-6:QN00",
		"question of 65":              "OCRA-1:HOTP-SHA1-6:QN65",
		"question of one digit":       "OCRA-1:HOTP-SHA1-4:QH8-S512",
		"question of three digits":    "OCRA-1:HOTP-SHA1-6:QN008",
		"two questions":               "OCRA-1:HOTP-SHA1-6:QN08-QN08",
		"the counter behind":          "OCRA-1:HOTP-SHA1-6:QN08-C",
		"two counters":                "OCRA-1:HOTP-SHA1-6:C-C-QN08",
		"the counter run on":          "OCRA-1:HOTP-SHA1-6:CQN08",
		"PIN without a hash":          "OCRA-1:HOTP-SHA1-6:QN08-P",
		"PIN in MD5":                  "OCRA-1:HOTP-SHA1-6:QN08-PMD5",
		"two PINs":                    "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-PSHA1",
		"the PIN in front":            "OCRA-1:HOTP-SHA1-6:PSHA1-QN08",
		"session of no length":        "OCRA-1:HOTP-SHA1-6:QN08-S",
		"session of two digits":       "OCRA-1:HOTP-SHA1-6:QN08-S64",
		"session of 0":                "OCRA-1:HOTP-SHA1-6:QN08-S000",
		"session of 513":              "OCRA-1:HOTP-SHA1-6:QN08-S513",
		"the session before the PIN":  "OCRA-1:HOTP-SHA1-6:QN08-S064-PSHA1",
		"a bare T":                    "OCRA-1:HOTP-SHA1-6:QN08-T",
		"time without a unit":         "OCRA-1:HOTP-SHA1-6:QN08-T1",
		"time in days":                "OCRA-1:HOTP-SHA1-6:QN08-T1D",
		"0 seconds":                   "OCRA-1:HOTP-SHA1-6:QN08-T0S",
		"0 hours":                     "OCRA-1:HOTP-SHA1-6:QN08-T0H",
		"60 seconds":                  "OCRA-1:HOTP-SHA1-6:QN08-T60S",
		"60 minutes":                  "OCRA-1:HOTP-SHA1-6:QN08-T60M",
		"49 hours":                    "OCRA-1:HOTP-SHA1-6:QN08-T49H",
		"100 seconds":                 "OCRA-1:HOTP-SHA1-6:QN08-T100S",
		"time with a zero in front":   "OCRA-1:HOTP-SHA1-6:QN08-T01M",
		"the time before the session": "OCRA-1:HOTP-SHA1-6:QN08-T1M-S064",
		"a hyphen behind":             "OCRA-1:HOTP-SHA1-6:QN08-",
		"a colon behind":              "OCRA-1:HOTP-SHA1-6:QN08:",
		"a space in front":            " OCRA-1:HOTP-SHA1-6:QN08",
		"a space behind":              "OCRA-1:HOTP-SHA1-6:QN08 ",
		"a newline behind":            "OCRA-1:HOTP-SHA1-6:QN08\n",
		"a zero byte behind":          "OCRA-1:HOTP-SHA1-6:QN08\x00",
		"digits that are not ASCII":   "OCRA-1:HOTP-SHA1-6:QN٠٨",
		"two suites":                  "OCRA-1:HOTP-SHA1-6:QN08OCRA-1:HOTP-SHA1-6:QN08",
	} {
		s, err := otp.ParseSuite(name)
		require.ErrorIs(t, err, otp.ErrSuite, what)
		require.Zero(t, s, what)
	}
}

// suites draws a suite by its parts, each over its whole range, and what they say.
func suites(t *rapid.T) (string, otp.Suite) {
	hashes := rapid.SampledFrom([]seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512})
	var s otp.Suite
	s.Hash, s.Digits = hashes.Draw(t, "hash"), rapid.SampledFrom([]int{0, 4, 5, 6, 7, 8, 9, 10}).Draw(t, "digits")
	s.Counter, s.Question = rapid.Bool().Draw(t, "counter"), rapid.SampledFrom([]byte("ANH")).Draw(t, "question")
	s.Length = rapid.IntRange(4, 64).Draw(t, "length")
	name := fmt.Sprintf("OCRA-1:HOTP-%s-%d:", s.Hash, s.Digits)
	if s.Counter {
		name += "C-"
	}
	name += fmt.Sprintf("Q%c%02d", s.Question, s.Length)
	if rapid.Bool().Draw(t, "with a PIN") {
		s.PIN = hashes.Draw(t, "PIN")
		name += "-P" + s.PIN.String()
	}
	if rapid.Bool().Draw(t, "with a session") {
		s.Session = rapid.IntRange(1, 512).Draw(t, "session")
		name += fmt.Sprintf("-S%03d", s.Session)
	}
	if rapid.Bool().Draw(t, "with time") {
		unit := rapid.SampledFrom([]string{"S", "M", "H"}).Draw(t, "unit")
		n := rapid.IntRange(1, map[string]int{"S": 59, "M": 59, "H": 48}[unit]).Draw(t, "time")
		s.TimeStep = time.Duration(n) * map[string]time.Duration{"S": time.Second, "M": time.Minute, "H": time.Hour}[unit]
		name += fmt.Sprintf("-T%d%s", n, unit)
	}
	return name, s
}

// Every suite of the RFC's grammar is read, says what was written, and is written as it was read.
func TestParseSuiteIsTheGrammar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name, want := suites(t)
		s, err := otp.ParseSuite(name)
		require.NoError(t, err, name)
		require.Equal(t, name, s.String())
		again, err := otp.ParseSuite(s.String())
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.Equal(t,
			[]any{want.Hash, want.Digits, want.Counter, want.Question, want.Length, want.PIN, want.Session, want.TimeStep},
			[]any{s.Hash, s.Digits, s.Counter, s.Question, s.Length, s.PIN, s.Session, s.TimeStep})
	})
}

// The expected digest is hashlib's in Python over the suite, b"\0", (7).to_bytes(8, "big"),
// bytes.fromhex("ABCDEF0".ljust(256, "0")), sha256(b"1234").digest(), b"session".rjust(10, b"\0"), (99).to_bytes(8, "big").
func TestMessageOfEveryInput(t *testing.T) {
	pin := sha256.Sum256([]byte("1234"))
	message, err := parse(t, "OCRA-1:HOTP-SHA256-8:C-QH08-PSHA256-S010-T20S").Message(otp.Input{
		Counter: 7, Question: "abcdEF0", PIN: pin[:], Session: []byte("session"), Step: 99})
	require.NoError(t, err)
	require.Len(t, message, 232)
	digest := sha256.Sum256(message)
	require.Equal(t, "d27d12af021df74d1587910125e627dc8b6642172b6535e45b0d2e48fc648573", hex.EncodeToString(digest[:]))
}

func TestInputsThatDoNotFitAreRefused(t *testing.T) {
	const plain, whole = "OCRA-1:HOTP-SHA1-6:QN08", "OCRA-1:HOTP-SHA1-6:C-QN08-PSHA1-S010-T1M"
	for what, test := range map[string]struct {
		suite string
		in    otp.Input
	}{
		"no question":                      {plain, otp.Input{}},
		"a question of 9":                  {plain, otp.Input{Question: "123456789"}},
		"a mutual question of 17":          {plain, otp.Input{Question: "12345678123456781", Mutual: true}},
		"no mutual question":               {plain, otp.Input{Mutual: true}},
		"letters for numbers":              {plain, otp.Input{Question: "1234567a"}},
		"a sign":                           {plain, otp.Input{Question: "-1234567"}},
		"a space":                          {plain, otp.Input{Question: "1234 678"}},
		"digits that are not ASCII":        {plain, otp.Input{Question: "١٢٣٤"}},
		"an underscore, as in Go":          {plain, otp.Input{Question: "1_000"}},
		"letters beyond F for hexadecimal": {"OCRA-1:HOTP-SHA1-6:QH08", otp.Input{Question: "0123456G"}},
		"0x for hexadecimal":               {"OCRA-1:HOTP-SHA1-6:QH08", otp.Input{Question: "0x123456"}},
		"a hyphen for alphanumeric":        {"OCRA-1:HOTP-SHA1-6:QA08", otp.Input{Question: "abc-defg"}},
		"a zero byte for alphanumeric":     {"OCRA-1:HOTP-SHA1-6:QA08", otp.Input{Question: "abc\x00defg"}},
		"an umlaut for alphanumeric":       {"OCRA-1:HOTP-SHA1-6:QA08", otp.Input{Question: "abcäefg"}},
		"a counter too many":               {plain, otp.Input{Question: "1", Counter: 1}},
		"a PIN too many":                   {plain, otp.Input{Question: "1", PIN: make([]byte, 20)}},
		"a session too many":               {plain, otp.Input{Question: "1", Session: []byte("s")}},
		"a time too many":                  {plain, otp.Input{Question: "1", Step: 1}},
		"no PIN":                           {whole, otp.Input{Question: "1"}},
		"a PIN of another hash":            {whole, otp.Input{Question: "1", PIN: make([]byte, 32)}},
		"the PIN itself":                   {whole, otp.Input{Question: "1", PIN: []byte("1234")}},
		"a session of 11":                  {whole, otp.Input{Question: "1", PIN: make([]byte, 20), Session: make([]byte, 11)}},
	} {
		message, err := parse(t, test.suite).Message(test.in)
		require.ErrorIs(t, err, otp.ErrInput, what)
		require.Nil(t, message, what)
	}
	_, err := parse(t, whole).Message(otp.Input{Question: "1", PIN: make([]byte, 20), Session: make([]byte, 10), Counter: math.MaxUint64, Step: math.MaxUint64})
	require.NoError(t, err)
}

// The longest questions fill the 128 bytes and no more.
func TestTheLongestQuestionsFit(t *testing.T) {
	for format, digit := range map[string]string{"QA64": "z", "QN64": "9", "QH64": "f"} {
		suite := parse(t, "OCRA-1:HOTP-SHA1-6:"+format)
		message, err := suite.Message(otp.Input{Question: strings.Repeat(digit, 128), Mutual: true})
		require.NoError(t, err)
		require.Len(t, message, len(suite.String())+1+128)
		_, err = suite.Message(otp.Input{Question: strings.Repeat(digit, 65)})
		require.ErrorIs(t, err, otp.ErrInput, "one side's question is half as long")
	}
}

// A suite of 0 digits gives the whole MAC. The expected one is that of
//
//	(printf 'OCRA-1:HOTP-SHA1-0:QN08\0'; python3 -c 'import sys
//	sys.stdout.buffer.write(bytes.fromhex(format(12345678, "x").ljust(256, "0")))') |
//	openssl dgst -sha1 -mac HMAC -macopt key:12345678901234567890
func TestTheWholeMACIsTheResponse(t *testing.T) {
	suite := parse(t, "OCRA-1:HOTP-SHA1-0:QN08")
	message, err := suite.Message(otp.Input{Question: "12345678"})
	require.NoError(t, err)
	sum := mac(seed.SHA1, []byte("12345678901234567890"), message)
	got, err := suite.Response(sum)
	require.NoError(t, err)
	require.Equal(t, "20c95bc9c4f0508d274e75f3e6e8067cbe44c182", got.Reveal())
	for _, length := range []int{0, 19, 21, 32} {
		for _, name := range []string{"OCRA-1:HOTP-SHA1-0:QN08", "OCRA-1:HOTP-SHA1-6:QN08"} {
			_, err := parse(t, name).Response(make([]byte, length))
			require.Error(t, err, "%d bytes", length)
		}
	}
}

func FuzzParseSuite(f *testing.F) {
	for _, name := range []string{"", "OCRA-1:HOTP-SHA1-6:QN08", "OCRA-1:HOTP-SHA512-0:C-QA64-PSHA512-S512-T48H", "OCRA-1:HOTP-SHA256-8:QH04-T59S"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := otp.ParseSuite(name)
		if err != nil {
			require.ErrorIs(t, err, otp.ErrSuite)
			require.Zero(t, s)
			return
		}
		require.Equal(t, name, s.String())
		require.LessOrEqual(t, len(name), len("OCRA-1:HOTP-SHA512-10:C-QA64-PSHA512-S512-T48H"))
		require.Len(t, s.EmptyQuestion(), s.Length)
		require.Len(t, s.TransactionQuestion(otp.Transaction{}), s.Length)
	})
}

// A message is as long as RFC 6287 section 5.1 says, whatever goes in.
func FuzzMessage(f *testing.F) {
	f.Add("OCRA-1:HOTP-SHA1-6:QN08", uint64(0), "12345678", false, []byte(nil), []byte(nil), uint64(0))
	f.Add("OCRA-1:HOTP-SHA256-8:C-QH08-PSHA256-S010-T20S", uint64(7), "abcdEF0", false, make([]byte, 32), []byte("session"), uint64(99))
	f.Add("OCRA-1:HOTP-SHA512-8:QA08-PSHA1", uint64(0), "CLI22220SRV11110", true, make([]byte, 20), []byte(nil), uint64(0))
	f.Fuzz(func(t *testing.T, name string, counter uint64, question string, mutual bool, pin, session []byte, step uint64) {
		s, err := otp.ParseSuite(name)
		if err != nil {
			return
		}
		message, err := s.Message(otp.Input{Counter: counter, Question: question, Mutual: mutual, PIN: pin, Session: session, Step: step})
		if err != nil {
			require.ErrorIs(t, err, otp.ErrInput)
			return
		}
		want := len(name) + 1 + 128 + len(pin) + s.Session
		if s.Counter {
			want += 8
		}
		if s.TimeStep > 0 {
			want += 8
		}
		require.Len(t, message, want)
		require.True(t, strings.HasPrefix(string(message), name+"\x00"))
	})
}
