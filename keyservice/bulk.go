package keyservice

import (
	"context"

	"ramzban/keyservice/authz"
)

// MayIssue returns nil if the caller may issue tokens, and writes a denial to the log as Issue would. It is for who is
// going to call Issue for each line of a stream, and must refuse the stream before it reads any.
func (s *Service) MayIssue(ctx context.Context, c authz.Caller) error {
	return s.authorise(ctx, c, authz.IssueToken, "")
}
