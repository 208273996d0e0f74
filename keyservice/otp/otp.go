// Package otp is the arithmetic of one-time passwords: RFC 4226 (HOTP), RFC 6238 (TOTP) and RFC
// 6287 (OCRA). It plans which moving factors a password may come from, truncates the MACs it is handed, and compares.
//
// It must not know keys, clocks or storage: it is pure, and is handed the time and the MACs.
package otp

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"ramzban/keyservice/seed"
)

// ErrMalformed: what was typed is not a password of this token's form, so it was not looked at.
var ErrMalformed = errors.New("a password is ASCII digits only, exactly as many as the token makes")

// CheckDigits returns ErrMalformed unless the password is made of ASCII digits only: no white space, no other digits.
func CheckDigits(p seed.Password) error {
	typed := p.Reveal()
	for i := range len(typed) {
		if typed[i] < '0' || typed[i] > '9' {
			return ErrMalformed
		}
	}
	return nil
}

// Message is the 8-byte big-endian moving factor that is MACed (RFC 4226 section 5.1).
func Message(factor uint64) []byte { return binary.BigEndian.AppendUint64(nil, factor) }

// Truncate makes the password of a MAC (RFC 4226 section 5.3): dynamic truncation to 31 bits, then the last digits. The
// MAC must be at least 20 bytes and digits between 4 and 10 (RFC 6287 section 5.2).
func Truncate(mac []byte, digits int) (seed.Password, error) {
	if len(mac) < 20 || digits < 4 || digits > 10 {
		return seed.Password{}, fmt.Errorf("cannot make %d digits of a MAC of %d bytes", digits, len(mac))
	}
	offset := mac[len(mac)-1] & 0x0f
	code := binary.BigEndian.Uint32(mac[offset:]) & 0x7fffffff
	modulus := uint64(1)
	for range digits {
		modulus *= 10
	}
	return seed.NewPassword(fmt.Sprintf("%0*d", digits, uint64(code)%modulus)), nil
}

// Equal compares two passwords in constant time for passwords of one length; those of different lengths are never equal.
func Equal(a, b seed.Password) bool {
	return subtle.ConstantTimeCompare([]byte(a.Reveal()), []byte(b.Reveal())) == 1
}
