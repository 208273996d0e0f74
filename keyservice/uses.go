package keyservice

import (
	"context"
	"errors"
	"slices"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// SetUses connects the token to exactly these uses; none is allowed. It returns them.
func (s *Service) SetUses(ctx context.Context, c authz.Caller, serial string, uses []string) ([]string, error) {
	return nil, &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}

// SetPIN keeps the digest of the PIN that the customer types into the device for each password.
func (s *Service) SetPIN(ctx context.Context, c authz.Caller, serial string, pin seed.PIN) (Status, error) {
	return "", &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}

// checkUses returns an *Error unless each is a configured use, given once. A token may have none yet.
func (s *Service) checkUses(uses []string) error {
	seen := map[string]bool{}
	for _, u := range uses {
		if !slices.Contains(s.Uses, u) || seen[u] {
			return &Error{Code: CodeInvalid, Detail: "each use must be " + oneOf(s.Uses) + ", and given once"}
		}
		seen[u] = true
	}
	return nil
}
