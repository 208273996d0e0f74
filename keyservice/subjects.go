package keyservice

import (
	"context"
	"errors"

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
