package keyservice

import (
	"context"
	"errors"
	"time"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// ChallengeRequest asks for an SMS password.
type ChallengeRequest struct {
	IdempotencyKey string // optional: a repeat with the same key gets the first answer
	Class          string
	Subject        seed.Subject
	Use            string
	Transaction    *otp.Transaction // what it is to be bound to; nil if nothing
}

// Challenge is an SMS password that waits for the courier under its id.
type Challenge struct {
	ID        string
	ExpiresAt time.Time
	Repeated  bool // this is the answer to an earlier request with the same idempotency key
}

// Challenge makes an SMS password for a subject that has opted in: that has an active SMS token of the use.
func (s *Service) Challenge(ctx context.Context, c authz.Caller, r ChallengeRequest) (Challenge, error) {
	return Challenge{}, &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}
