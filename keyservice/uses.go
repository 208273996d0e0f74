package keyservice

import (
	"context"
	"slices"

	"ramzban/keyservice/authz"
)

// SetUses connects the token to exactly these uses; none is allowed. It returns them.
func (s *Service) SetUses(ctx context.Context, c authz.Caller, serial string, uses []string) ([]string, error) {
	err := s.change(ctx, c, authz.SetUses, serial, func(t token) (token, *Error, error) {
		if t.Status == Deactivated {
			return t, notWhile(t.Status, "it is not connected to any use again"), nil
		}
		t.Uses = append([]string{}, uses...)
		return t, s.checkUses(uses), nil
	})
	if err != nil {
		return nil, err
	}
	return append([]string{}, uses...), nil
}

// checkUses says what is wrong unless each is a configured use, given once. A token may have none yet.
func (s *Service) checkUses(uses []string) *Error {
	seen := map[string]bool{}
	for _, u := range uses {
		if !slices.Contains(s.Uses, u) || seen[u] {
			return &Error{Code: CodeInvalid, Detail: "each use must be " + oneOf(s.Uses) + ", and given once"}
		}
		seen[u] = true
	}
	return nil
}
