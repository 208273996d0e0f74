package otp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ramzban/keyservice/seed"
)

// Suite is an OCRA suite (RFC 6287 section 6): how a response is made, and of what.
type Suite struct {
	name     string
	Hash     seed.Hash     // of the HMAC
	Digits   int           // 4 to 10; 0: the whole HMAC in hexadecimal
	Counter  bool          // C: an 8-byte counter
	Question byte          // Q: 'A' alphanumeric, 'N' decimal, 'H' hexadecimal
	Length   int           // Q: the longest question, 4 to 64 characters
	PIN      seed.Hash     // P: the hash of the PIN; 0 without one
	Session  int           // S: length of the session information in bytes; 0 without
	TimeStep time.Duration // T: length of a time step; 0 without
}

// Errors of OCRA. Callers test them with errors.Is.
var (
	ErrSuite = errors.New("not an OCRA suite (RFC 6287 section 6)")
	ErrInput = errors.New("the data input does not fit the OCRA suite (RFC 6287 section 5.1)")
)

var suiteForm = regexp.MustCompile(`^OCRA-1:HOTP-(SHA1|SHA256|SHA512)-(0|4|5|6|7|8|9|10):` +
	`(C-)?Q([ANH])([0-9]{2})(?:-P(SHA1|SHA256|SHA512))?(?:-S([0-9]{3}))?(?:-T([1-9][0-9]?)([SMH]))?$`)

// ParseSuite reads a suite; only the exact form of RFC 6287 section 6 is one. Lengths have all their digits, as in the
// section's table; so QH8, which one of its examples has, is none.
func ParseSuite(name string) (Suite, error) {
	f := suiteForm.FindStringSubmatch(name)
	if f == nil {
		return Suite{}, fmt.Errorf("%w: not of the form OCRA-1:HOTP-hash-digits:[C-]Qfnn[-Phash][-Snnn][-Tstep]", ErrSuite)
	}
	s := Suite{name: name, Digits: number(f[2]), Counter: f[3] != "", Question: f[4][0], Length: number(f[5]), Session: number(f[7])}
	s.Hash, _ = seed.ParseHash(f[1]) // the form allows no other
	s.PIN, _ = seed.ParseHash(f[6])  // 0 when there is none
	switch {
	case s.Length < 4 || s.Length > 64:
		return Suite{}, fmt.Errorf("%w: a question has 4 to 64 characters", ErrSuite)
	case f[7] != "" && (s.Session < 1 || s.Session > 512):
		return Suite{}, fmt.Errorf("%w: session information has 1 to 512 bytes", ErrSuite)
	}
	return s.withStep(f[8], f[9])
}

// withStep adds the time step: 1 to 59 seconds or minutes, 1 to 48 hours.
func (s Suite) withStep(count, unit string) (Suite, error) {
	n := number(count)
	if unit == "H" && n > 48 || unit != "H" && n > 59 {
		return Suite{}, fmt.Errorf("%w: a time step is 1 to 59 seconds or minutes, or 1 to 48 hours", ErrSuite)
	}
	s.TimeStep = time.Duration(n) * map[string]time.Duration{"S": time.Second, "M": time.Minute, "H": time.Hour}[unit]
	return s, nil
}

func number(digits string) int {
	n, _ := strconv.Atoi(digits) // the form allows digits only, or nothing
	return n
}

// String returns the suite as it is written.
func (s Suite) String() string { return s.name }

// Input is what a response is made of, besides the key. What the suite does not name must be left at its zero value.
type Input struct {
	Counter  uint64
	Question string // as typed: characters, decimal or hexadecimal digits; at most the suite's length
	Mutual   bool   // the question is both sides' challenges, one behind the other (section 7.2): at most twice as long
	PIN      []byte // hash of the PIN
	Session  []byte // at most the suite's length; shorter ones are padded with zeroes in front
	Step     uint64 // moving factor: time steps since 1970
}

// Message is what is MACed (RFC 6287 section 5.1): the suite, a zero byte, then counter, question (128 bytes), PIN,
// session and time as far as the suite names them. ErrInput says what does not fit.
func (s Suite) Message(in Input) ([]byte, error) {
	question, err := s.question(in)
	if err != nil {
		return nil, err
	}
	if err := s.fits(in); err != nil {
		return nil, err
	}
	m := append([]byte(s.name), 0)
	if s.Counter {
		m = binary.BigEndian.AppendUint64(m, in.Counter)
	}
	m = append(append(m, question...), in.PIN...)
	m = append(append(m, make([]byte, s.Session-len(in.Session))...), in.Session...)
	if s.TimeStep > 0 {
		m = binary.BigEndian.AppendUint64(m, in.Step)
	}
	return m, nil
}

func (s Suite) fits(in Input) error {
	pin := 0
	if s.PIN != 0 {
		pin = s.PIN.New()().Size()
	}
	switch {
	case len(in.PIN) != pin:
		return fmt.Errorf("%w: the PIN's hash has %d bytes", ErrInput, pin)
	case len(in.Session) > s.Session:
		return fmt.Errorf("%w: session information has at most %d bytes", ErrInput, s.Session)
	case !s.Counter && in.Counter != 0:
		return fmt.Errorf("%w: the suite has no counter", ErrInput)
	case s.TimeStep == 0 && in.Step != 0:
		return fmt.Errorf("%w: the suite has no time", ErrInput)
	}
	return nil
}

// questionBytes is the fixed length of a question in the message.
const questionBytes = 128

// question encodes a question: characters as they are, decimal digits as a number in hexadecimal, hexadecimal digits as
// they are; filled with zeroes behind.
func (s Suite) question(in Input) ([]byte, error) {
	q, longest, digits := in.Question, s.Length, ""
	if in.Mutual {
		longest = 2 * s.Length
	}
	if len(q) == 0 || len(q) > longest {
		return nil, fmt.Errorf("%w: a question has 1 to %d characters", ErrInput, longest)
	}
	switch s.Question {
	case 'A':
		if strings.ContainsFunc(q, notAlphanumeric) {
			return nil, fmt.Errorf("%w: the question must be letters and digits", ErrInput)
		}
		digits = hex.EncodeToString([]byte(q))
	case 'N':
		if strings.Trim(q, "0123456789") != "" {
			return nil, fmt.Errorf("%w: the question must be decimal digits", ErrInput)
		}
		n, _ := new(big.Int).SetString(q, 10) // digits only
		digits = n.Text(16)
	default:
		digits = q
	}
	b, err := hex.DecodeString(digits + strings.Repeat("0", 2*questionBytes-len(digits)))
	if err != nil {
		return nil, fmt.Errorf("%w: the question must be hexadecimal digits", ErrInput)
	}
	return b, nil
}

func notAlphanumeric(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// Response makes the response of a MAC (RFC 6287 section 5.2): the suite's digits, or for a suite of none the whole MAC in
// lower-case hexadecimal digits. The MAC must be one of the suite's hash.
func (s Suite) Response(mac []byte) (seed.Password, error) {
	if size := s.Hash.New()().Size(); len(mac) != size {
		return seed.Password{}, fmt.Errorf("a MAC of %s has %d bytes, not %d", s.Hash, size, len(mac))
	}
	if s.Digits == 0 {
		return seed.NewPassword(hex.EncodeToString(mac)), nil
	}
	return Truncate(mac, s.Digits)
}
