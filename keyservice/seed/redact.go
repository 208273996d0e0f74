package seed

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret carries a value that must never be shown. Every way of printing, logging or encoding it gives "[redacted]";
// only Reveal returns the value, so that a search for Reveal finds every place that handles one.
type Secret struct{ value *string } // a pointer: fmt prints unexported fields of unexported fields without asking them

// Reveal returns the value itself.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb shows the value.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalBinary implements encoding.BinaryMarshaler, and with it CBOR and gob.
func (Secret) MarshalBinary() ([]byte, error) { return []byte(redacted), nil }

// Subject is a card number or an account id.
type Subject struct{ Secret }

// NewSubject hides a card number or account id.
func NewSubject(v string) Subject { return Subject{Secret{&v}} }

// Code is an activation code as typed or delivered.
type Code struct{ Secret }

// NewCode hides an activation code.
func NewCode(v string) Code { return Code{Secret{&v}} }

// Password is a one-time password as typed.
type Password struct{ Secret }

// NewPassword hides a one-time password.
func NewPassword(v string) Password { return Password{Secret{&v}} }

// Mobile is a customer's mobile number.
type Mobile struct{ Secret }

// NewMobile hides a mobile number.
func NewMobile(v string) Mobile { return Mobile{Secret{&v}} }

// PIN is the HSM slot's user PIN, or a customer's.
type PIN struct{ Secret }

// NewPIN hides a PIN.
func NewPIN(v string) PIN { return PIN{Secret{&v}} }
