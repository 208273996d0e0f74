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
)

// Policy is how a token's passwords are made and judged. It is sealed in the token's record when the token is issued.
type Policy struct {
	Type   Type      `cbor:"1,keyasint"`
	Hash   seed.Hash `cbor:"2,keyasint"`
	Digits int       `cbor:"3,keyasint"` // 6 to 8

	// TOTP only, in whole seconds.
	Period      time.Duration `cbor:"4,keyasint,omitempty"` // P, the length of a time step
	Validity    time.Duration `cbor:"5,keyasint,omitempty"` // V: step s is acceptable while s·P ≤ phone time < s·P + V
	DriftSearch time.Duration `cbor:"6,keyasint,omitempty"` // how far either side of the learnt drift a phone's clock is looked for
	DriftBound  time.Duration `cbor:"7,keyasint,omitempty"` // the most a phone's clock may ever be off

	// HOTP only.
	LookAhead uint64 `cbor:"8,keyasint,omitempty"` // how many counters beyond the next one are tried
}

// Validate says what is wrong with a policy, in words for the person who wrote it.
func (p Policy) Validate() error {
	if p.Hash.New() == nil {
		return fmt.Errorf("hash must be SHA1, SHA256 or SHA512")
	}
	if p.Digits < 6 || p.Digits > 8 {
		return fmt.Errorf("digits must be 6, 7 or 8, not %d", p.Digits)
	}
	switch p.Type {
	case TOTP:
		return p.validateTOTP()
	case HOTP:
		return p.validateHOTP()
	}
	return fmt.Errorf("type must be totp or hotp, not %q", p.Type)
}

func (p Policy) validateTOTP() error {
	for name, d := range map[string]time.Duration{
		"period": p.Period, "validity": p.Validity, "drift_search": p.DriftSearch, "drift_bound": p.DriftBound,
	} {
		if d%time.Second != 0 || d < 0 || d > time.Hour {
			return fmt.Errorf("%s must be whole seconds, at most an hour, not %v", name, d)
		}
	}
	switch {
	case p.Period < time.Second:
		return fmt.Errorf("period must be at least one second")
	case p.Validity < p.Period:
		return fmt.Errorf("validity must be at least the period (%v), or a password would die while it is shown", p.Period)
	case p.DriftSearch > p.DriftBound:
		return fmt.Errorf("drift_search (%v) must not exceed drift_bound (%v)", p.DriftSearch, p.DriftBound)
	case p.LookAhead != 0:
		return fmt.Errorf("look_ahead is for hotp only")
	case (2*p.DriftSearch+p.Validity)/p.Period > 50:
		return fmt.Errorf("validity and drift_search span %d time steps; at most 50", (2*p.DriftSearch+p.Validity)/p.Period)
	}
	return nil
}

func (p Policy) validateHOTP() error {
	if p.Period != 0 || p.Validity != 0 || p.DriftSearch != 0 || p.DriftBound != 0 {
		return fmt.Errorf("period, validity and drift are for totp only")
	}
	if p.LookAhead > 50 {
		return fmt.Errorf("look_ahead must be at most 50 (RFC 4226 section 7.4), not %d", p.LookAhead)
	}
	return nil
}
