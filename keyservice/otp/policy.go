package otp

import (
	"fmt"
	"time"

	"ramzban/keyservice/seed"
)

// Type is the kind of moving factor.
type Type string

// The types.
const (
	TOTP Type = "totp" // RFC 6238: the time step
	HOTP Type = "hotp" // RFC 4226: a counter
	OCRA Type = "ocra" // RFC 6287: a time step or a counter, and a question; perhaps a PIN
	SMS  Type = "sms"  // a code for one challenge, made from its nonce and transaction
)

// Policy is how a token's passwords are made and judged. It is sealed in the token's record when the token is issued.
type Policy struct {
	Type   Type      `cbor:"1,keyasint"`
	Hash   seed.Hash `cbor:"2,keyasint"`
	Digits int       `cbor:"3,keyasint"` // 6 to 8

	// TOTP, OCRA with a time step, and (Validity only) SMS; in whole seconds.
	Period      time.Duration `cbor:"4,keyasint,omitempty"` // P, the length of a time step
	Validity    time.Duration `cbor:"5,keyasint,omitempty"` // V: step s is acceptable while s·P ≤ phone time < s·P + V; of SMS, the life of a code
	DriftSearch time.Duration `cbor:"6,keyasint,omitempty"` // how far either side of the learnt drift a phone's clock is looked for
	DriftBound  time.Duration `cbor:"7,keyasint,omitempty"` // the most a phone's clock may ever be off

	// HOTP, and OCRA with a counter.
	LookAhead   uint64 `cbor:"8,keyasint,omitempty"`  // how many counters beyond the next one are tried
	ResyncAhead uint64 `cbor:"13,keyasint,omitempty"` // how many are searched for two consecutive passwords

	// OCRA only.
	Suite     string `cbor:"9,keyasint,omitempty"`  // its hash, digits and time step are also the policy's
	PINDigits int    `cbor:"10,keyasint,omitempty"` // length of the customer's PIN, 4 to 12; 0 if the suite takes none
	Signs     bool   `cbor:"11,keyasint,omitempty"` // every password is for one transaction, which is its question

	AllowUnbound bool `cbor:"12,keyasint,omitempty"` // a password bound to no transaction is good for one all the same
}

// Validate says what is wrong with a policy, in words for the person who wrote it.
func (p Policy) Validate() error {
	if p.Hash.New() == nil {
		return fmt.Errorf("hash must be SHA1, SHA256 or SHA512")
	}
	if p.Digits < 6 || p.Digits > 8 {
		return fmt.Errorf("digits must be 6, 7 or 8, not %d", p.Digits)
	}
	if p.Type != OCRA {
		if err := none("is for ocra only", key{"suite", p.Suite != ""}, key{"pin_digits", p.PINDigits != 0}, key{"signs", p.Signs}); err != nil {
			return err
		}
	}
	switch p.Type {
	case TOTP:
		return p.validateTimed()
	case HOTP:
		return p.validateCounted()
	case OCRA:
		return p.validateOCRA()
	case SMS:
		return p.validateSMS()
	}
	return fmt.Errorf("type must be totp, hotp, ocra or sms, not %q", p.Type)
}

// key is a key of the configuration, by its name there, and whether the policy has a value for it.
type key struct {
	name  string
	given bool
}

// none says of the first key that is given why it must not be.
func none(why string, keys ...key) error {
	for _, k := range keys {
		if k.given {
			return fmt.Errorf("%s %s: leave it out", k.name, why)
		}
	}
	return nil
}

func (p Policy) stepKeys() []key {
	return []key{{"period", p.Period != 0}, {"drift_search", p.DriftSearch != 0}, {"drift_bound", p.DriftBound != 0}}
}

func (p Policy) counterKeys() []key {
	return []key{{"look_ahead", p.LookAhead != 0}, {"resync_ahead", p.ResyncAhead != 0}}
}

// inSeconds writes a duration as the configuration does: 120s, not 2m0s.
func inSeconds(d time.Duration) string {
	if d%time.Second != 0 {
		return d.String()
	}
	return fmt.Sprintf("%ds", int64(d/time.Second))
}

func (p Policy) validateTimed() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"period", p.Period}, {"validity", p.Validity}, {"drift_search", p.DriftSearch}, {"drift_bound", p.DriftBound}} {
		if f.value%time.Second != 0 || f.value < 0 || f.value > time.Hour {
			return fmt.Errorf("%s must be whole seconds, at most 3600s, not %s", f.name, inSeconds(f.value))
		}
	}
	if err := none("is for counters only", p.counterKeys()...); err != nil {
		return err
	}
	switch {
	case p.Period < time.Second:
		return fmt.Errorf("period must be at least one second")
	case p.Validity < p.Period:
		return fmt.Errorf("validity must be at least the period (%s), or a password would die while it is shown", inSeconds(p.Period))
	case p.DriftSearch > p.DriftBound:
		return fmt.Errorf("drift_search (%s) must not exceed drift_bound (%s)", inSeconds(p.DriftSearch), inSeconds(p.DriftBound))
	case (2*p.DriftSearch+p.Validity)/p.Period > 50:
		return fmt.Errorf("validity and drift_search span %d time steps; at most 50", (2*p.DriftSearch+p.Validity)/p.Period)
	case (2*p.DriftBound+p.Validity)/p.Period > maxResync:
		return fmt.Errorf("validity and drift_bound span %d time steps; at most %d", (2*p.DriftBound+p.Validity)/p.Period, maxResync)
	}
	return nil
}

// maxResync bounds the work of one resynchronisation.
const maxResync = 1000

func (p Policy) validateCounted() error {
	if err := none("is for time steps only", p.stepKeys()...); err != nil {
		return err
	}
	if err := none("is for time steps and sms only", key{"validity", p.Validity != 0}); err != nil {
		return err
	}
	switch {
	case p.LookAhead > 50:
		return fmt.Errorf("look_ahead must be at most 50 (RFC 4226 section 7.4), not %d", p.LookAhead)
	case p.ResyncAhead < p.LookAhead || p.ResyncAhead > maxResync:
		return fmt.Errorf("resync_ahead must be between look_ahead (%d) and %d, not %d", p.LookAhead, maxResync, p.ResyncAhead)
	}
	return nil
}

func (p Policy) validateOCRA() error {
	s, err := ParseSuite(p.Suite)
	if err != nil {
		return fmt.Errorf("suite: %w", err)
	}
	switch {
	case s.Counter == (s.TimeStep > 0):
		return fmt.Errorf("suite must have either C or T: a password's moving factor is what makes it good only once")
	case s.Session > 0:
		return fmt.Errorf("suite must not have S: nothing here could give the session information")
	case s.Hash != p.Hash || s.Digits != p.Digits || s.TimeStep != p.Period:
		return fmt.Errorf("hash, digits and period must be the suite's")
	case (s.PIN != 0) != (p.PINDigits != 0):
		return fmt.Errorf("pin_digits must be given if the suite has P, and only then")
	case p.PINDigits != 0 && (p.PINDigits < 4 || p.PINDigits > 12):
		return fmt.Errorf("pin_digits must be between 4 and 12, not %d", p.PINDigits)
	case p.Signs && !s.Binds():
		return fmt.Errorf("suite must have a question of at least QH32, QA32 or QN39 to sign: a shorter one fits other transactions too")
	case p.Signs && p.AllowUnbound:
		return fmt.Errorf("allow_unbound is not for a suite that signs: all its passwords are bound")
	case s.Counter:
		return p.validateCounted()
	}
	return p.validateTimed()
}

func (p Policy) validateSMS() error {
	if p.Validity%time.Second != 0 || p.Validity < 30*time.Second || p.Validity > 10*time.Minute {
		return fmt.Errorf("validity must be whole seconds, 30s to 600s, not %s", inSeconds(p.Validity))
	}
	return none("is not for sms", append(p.stepKeys(), p.counterKeys()...)...)
}

// Counted says whether the moving factor is a counter; else it is a time step.
func (p Policy) Counted() bool { return p.Type == HOTP || p.Type == OCRA && p.Period == 0 }

// PINHash is the hash under which the customer's PIN enters a password; 0 if it does not.
func (p Policy) PINHash() seed.Hash {
	s, err := ParseSuite(p.Suite)
	if err != nil {
		return 0
	}
	return s.PIN
}

// Message is what is MACed to make the password of one moving factor: RFC 4226 section 5.1, or for OCRA RFC 6287 section
// 5.1 with the digest of the PIN if the suite takes one, and with the transaction, if any, as its question. HOTP and TOTP
// know neither. SMS codes are not made from a moving factor: an error.
func (p Policy) Message(factor uint64, pin []byte, t *Transaction) ([]byte, error) {
	switch p.Type {
	case HOTP, TOTP:
		return Message(factor), nil
	case OCRA:
		return p.ocraMessage(factor, pin, t)
	}
	return nil, fmt.Errorf("%q passwords have no moving factor", p.Type)
}

func (p Policy) ocraMessage(factor uint64, pin []byte, t *Transaction) ([]byte, error) {
	s, err := ParseSuite(p.Suite)
	if err != nil {
		return nil, err
	}
	in := Input{Question: s.EmptyQuestion(), PIN: pin}
	if t != nil {
		if err := t.Validate(); err != nil {
			return nil, err
		}
		in.Question = s.TransactionQuestion(*t)
	}
	if s.Counter {
		in.Counter = factor
	} else {
		in.Step = factor
	}
	return s.Message(in)
}
