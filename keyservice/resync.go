package keyservice

import (
	"context"
	"errors"
	"time"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// ResyncRequest proves possession of a token with two consecutive passwords.
type ResyncRequest struct {
	Serial string
	First  seed.Password
	Second seed.Password // the one after First
}

// ResyncVerdict answers Resync. A refusal is a verdict, not an error.
type ResyncVerdict struct {
	Accepted   bool
	Reason     Reason        // set when refused
	RetryAfter time.Duration // set when throttled or locked
	Drift      time.Duration // of the device's clock, as learnt
	AuditIndex uint64
}

// Resync finds a token again whose clock or counter went astray, and unlocks its uses.
func (s *Service) Resync(ctx context.Context, c authz.Caller, r ResyncRequest) (ResyncVerdict, error) {
	return ResyncVerdict{}, &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}

// Unlock forgives the misses of every use the token is connected to.
func (s *Service) Unlock(ctx context.Context, c authz.Caller, serial string) (Status, error) {
	return "", &Error{Code: CodeInternal, Err: errors.ErrUnsupported}
}
