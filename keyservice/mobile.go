package keyservice

import (
	"context"
	"regexp"
	"strings"

	"ramzban/keyservice/seed"
)

var mobileForm = regexp.MustCompile(`^\+?[0-9]{10,15}$`)

// checkMobile returns an *Error unless the number is empty or has its form.
func checkMobile(m seed.Mobile) error {
	if v := m.Reveal(); v != "" && !mobileForm.MatchString(v) {
		return &Error{Code: CodeInvalid, Detail: "mobile must be 10 to 15 digits with or without a leading +"}
	}
	return nil
}

// keepMobile puts a mobile number, if one was given, into the record of a new token, encrypted.
func (s *Service) keepMobile(ctx context.Context, r *record, m seed.Mobile) error {
	if m.Reveal() == "" {
		return nil
	}
	kept, err := s.HSM.Encrypt(ctx, mobileAAD(r.Serial), []byte(m.Reveal()))
	r.Mobile = &kept
	return err
}

// mobile reads the token's mobile number; empty if none was given.
func (s *Service) mobile(ctx context.Context, r record) (seed.Mobile, error) {
	if r.Mobile == nil {
		return seed.NewMobile(""), nil
	}
	number, err := s.HSM.Decrypt(ctx, mobileAAD(r.Serial), *r.Mobile)
	return seed.NewMobile(string(number)), err
}

// masked shows the first and last four digits of a mobile number, as its owner knows it again.
func masked(m seed.Mobile) string {
	digits, plus := strings.CutPrefix(m.Reveal(), "+")
	if digits == "" {
		return ""
	}
	shown := digits[:4] + "***" + digits[len(digits)-4:]
	if plus {
		return "+" + shown
	}
	return shown
}

func mobileAAD(serial string) []byte { return []byte(serial + "/mobile") }
