package keyservice

import (
	"context"
	"regexp"
	"strings"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

var mobileForm = regexp.MustCompile(`^\+?[0-9]{10,15}$`)

// checkMobile returns an *Error unless the number is empty or has its form.
func checkMobile(m seed.Mobile) error {
	if v := m.Reveal(); v != "" && !mobileForm.MatchString(v) {
		return badMobile()
	}
	return nil
}

// SetMobile changes the mobile number that the courier sends the token's codes to. What was on its way to the old number
// dies with it: SMS passwords that wait are forgotten, and a token that is not yet activated gets a fresh activation
// code, whose id the answer has; of all other tokens Activation is nil.
func (s *Service) SetMobile(ctx context.Context, c authz.Caller, serial string, m seed.Mobile) (IssuedToken, error) {
	var answer IssuedToken
	err := s.change(ctx, c, authz.SetMobile, serial, func(t token) (token, *Error, error) {
		if bad := reachable(t, m); bad != nil {
			return t, bad, nil
		}
		t, err := s.moveTo(ctx, t, m)
		answer = IssuedToken{Serial: t.Serial, Status: t.Status}
		if t.Status == Issued {
			answer = t.issuedRow().answer(false)
		}
		return t, nil, err
	})
	if err != nil {
		return IssuedToken{}, err
	}
	return answer, nil
}

// reachable says why this cannot become the token's mobile number; nil if it can.
func reachable(t token, m seed.Mobile) *Error {
	switch {
	case t.Status == Deactivated:
		return notWhile(t.Status, "nothing is sent for it any more")
	case !mobileForm.MatchString(m.Reveal()):
		return badMobile()
	}
	return nil
}

// moveTo keeps the new number, and drops every code that was made for the old one.
func (s *Service) moveTo(ctx context.Context, t token, m seed.Mobile) (token, error) {
	if err := s.keepMobile(ctx, &t.record, m); err != nil {
		return t, err
	}
	t.state.Challenges = nil
	if t.Status != Issued {
		return t, nil
	}
	code, err := s.newCode(ctx, t.record)
	t.Code, t.state.CodeTries = code, 0
	return t, err
}

func badMobile() *Error {
	return &Error{Code: CodeInvalid, Detail: "mobile must be 10 to 15 digits with or without a leading +"}
}

// keepMobile puts a mobile number, if one was given, into the record of a token, encrypted.
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
