package keyservice

import (
	"context"
	"errors"
	"strings"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// DeactivateSubject ends every live token of a subject at once, and returns their serials; none if it has none.
func (s *Service) DeactivateSubject(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]string, error) {
	return nil, &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}

// ImportKey shows the public key (DER SubjectPublicKeyInfo) to which makers of hardware tokens wrap seeds.
func (s *Service) ImportKey(ctx context.Context, c authz.Caller) ([]byte, error) {
	return nil, &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}

// checkSubject returns an *Error unless the subject has the form of its class.
func checkSubject(class string, subject seed.Subject) error {
	v := subject.Reveal()
	switch class {
	case ClassCard:
		if len(v) < 16 || len(v) > 19 || !luhnValid(v) {
			return &Error{Code: CodeSubjectInvalid, Detail: "a card number is 16 to 19 digits with a check digit: one of them is mistyped"}
		}
	case ClassAccount:
		if v == "" || len(v) > 64 || strings.ContainsFunc(v, notAccountRune) {
			return &Error{Code: CodeSubjectInvalid, Detail: "an account id is 1 to 64 of the characters A-Z a-z 0-9 . _ -"}
		}
	default:
		return &Error{Code: CodeInvalid, Detail: `class must be "card" or "account"`}
	}
	return nil
}

func notAccountRune(r rune) bool {
	return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
}
