package keyservice

import (
	"context"
	"fmt"
	"strings"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// SetPIN keeps the digest of the PIN that the customer types into the device for each password (RFC 6287 section 5.1);
// it replaces an earlier one. The PIN itself is never kept.
func (s *Service) SetPIN(ctx context.Context, c authz.Caller, serial string, pin seed.PIN) (Status, error) {
	var status Status
	err := s.change(ctx, c, authz.SetPIN, serial, func(t token) (token, *Error, error) {
		status = t.Status
		if bad := settable(t, pin); bad != nil {
			return t, bad, nil
		}
		digest := pinSum(t, pin)
		defer clear(digest)
		kept, err := s.HSM.Encrypt(ctx, pinAAD(t.Serial), digest)
		t.PIN = &kept
		return t, nil, err
	})
	if err != nil {
		return "", err
	}
	return status, nil
}

// settable says why this cannot be the token's PIN; nil if it can.
func settable(t token, pin seed.PIN) *Error {
	typed := pin.Reveal()
	switch {
	case t.Status == Deactivated:
		return notWhile(t.Status, "its PIN cannot be set any more")
	case t.Policy.PINDigits == 0:
		return &Error{Code: CodeInvalid, Detail: "the passwords of this token take no PIN: its profile has no suite with P"}
	case len(typed) != t.Policy.PINDigits || strings.Trim(typed, "0123456789") != "":
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("the PIN must be %d digits", t.Policy.PINDigits)}
	}
	return nil
}

// pinSum is the digest of the PIN's ASCII digits under the suite's hash; the caller clears it.
func pinSum(t token, pin seed.PIN) []byte {
	typed := []byte(pin.Reveal())
	defer clear(typed)
	h := t.Policy.PINHash().New()()
	h.Write(typed)
	return h.Sum(nil)
}

// pinDigest reads the digest of the token's PIN for one password: nil if its suite takes none, CodePINMissing if it was
// not set. The caller clears it.
func (s *Service) pinDigest(ctx context.Context, t token) ([]byte, error) {
	switch {
	case t.Policy.PINDigits == 0:
		return nil, nil // the suite takes none
	case t.PIN == nil:
		return nil, noPIN()
	}
	return s.HSM.Decrypt(ctx, pinAAD(t.Serial), *t.PIN)
}

func noPIN() *Error {
	return &Error{Code: CodePINMissing, Detail: "the customer's PIN is not set: set it first"}
}

func pinAAD(serial string) []byte { return []byte(serial + "/pin") }
