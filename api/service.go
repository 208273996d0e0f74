package api

import (
	"context"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// Service is the use cases as the routes call them; *keyservice.Service carries them out. Errors are *keyservice.Error.
type Service interface {
	Issue(ctx context.Context, c authz.Caller, r keyservice.IssueRequest) (keyservice.IssuedToken, error)
	RenewCode(ctx context.Context, c authz.Caller, serial string) (keyservice.IssuedToken, error)
	CollectCode(ctx context.Context, c authz.Caller, id string) (keyservice.CollectedCode, error)
	Activate(ctx context.Context, c authz.Caller, r keyservice.ActivateRequest) (keyservice.ActivatedToken, error)
	Confirm(ctx context.Context, c authz.Caller, r keyservice.ConfirmRequest) (keyservice.Status, error)
	Token(ctx context.Context, c authz.Caller, serial string) (keyservice.TokenView, error)
	Suspend(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Resume(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Deactivate(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Verify(ctx context.Context, c authz.Caller, r keyservice.VerifyRequest) (keyservice.Verdict, error)
	AuditEntries(ctx context.Context, c authz.Caller, from uint64, limit int) ([]keyservice.LoggedEntry, error)
	CompareAudit(ctx context.Context, c authz.Caller) ([]keyservice.Discrepancy, error)
}

var _ Service = (*keyservice.Service)(nil)
