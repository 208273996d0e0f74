package api

import (
	"context"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
)

// Service is the use cases as the routes call them; *keyservice.Service carries them out. Errors are *keyservice.Error.
type Service interface {
	Issue(ctx context.Context, c authz.Caller, r keyservice.IssueRequest) (keyservice.IssuedToken, error)
	MayIssue(ctx context.Context, c authz.Caller) error
	RenewCode(ctx context.Context, c authz.Caller, serial string) (keyservice.IssuedToken, error)
	CollectCode(ctx context.Context, c authz.Caller, id string) (keyservice.CollectedCode, error)
	Activate(ctx context.Context, c authz.Caller, r keyservice.ActivateRequest) (keyservice.ActivatedToken, error)
	Confirm(ctx context.Context, c authz.Caller, r keyservice.ConfirmRequest) (keyservice.Status, error)
	Remove(ctx context.Context, c authz.Caller, r keyservice.RemoveRequest) (keyservice.Status, error)
	Token(ctx context.Context, c authz.Caller, serial string) (keyservice.TokenView, error)
	Suspend(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Resume(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Deactivate(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	SetUses(ctx context.Context, c authz.Caller, serial string, uses []string) ([]string, error)
	SetPIN(ctx context.Context, c authz.Caller, serial string, pin seed.PIN) (keyservice.Status, error)
	SetMobile(ctx context.Context, c authz.Caller, serial string, mobile seed.Mobile) (keyservice.IssuedToken, error)
	Unlock(ctx context.Context, c authz.Caller, serial string) (keyservice.Status, error)
	Resync(ctx context.Context, c authz.Caller, r keyservice.ResyncRequest) (keyservice.ResyncVerdict, error)
	SubjectTokens(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]keyservice.TokenView, error)
	DeactivateSubject(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]string, error)
	ImportKey(ctx context.Context, c authz.Caller) ([]byte, error)
	Challenge(ctx context.Context, c authz.Caller, r keyservice.ChallengeRequest) (keyservice.Challenge, error)
	Verify(ctx context.Context, c authz.Caller, r keyservice.VerifyRequest) (keyservice.Verdict, error)
	TakeBackup(ctx context.Context, c authz.Caller) (*keyservice.Backup, error)
	AuditLogs(ctx context.Context, c authz.Caller) ([]keyservice.AuditLog, error)
	AuditEntries(ctx context.Context, c authz.Caller, q keyservice.AuditQuery) (keyservice.AuditPage, error)
	StreamAudit(ctx context.Context, c authz.Caller, q keyservice.AuditQuery) (keyservice.AuditStream, error)
	AuditCheckpoint(ctx context.Context, c authz.Caller, node string) (keyservice.SignedCheckpoint, error)
	Inclusion(ctx context.Context, c authz.Caller, node string, index, size uint64) (keyservice.InclusionProof, error)
	Consistency(ctx context.Context, c authz.Caller, node string, from, to uint64) (keyservice.ConsistencyProof, error)
	AuditKeys(ctx context.Context, c authz.Caller) ([]keyservice.AuditKey, error)
	Propose(ctx context.Context, c authz.Caller, signed approval.Signed) (keyservice.ProposalView, error)
	Approve(ctx context.Context, c authz.Caller, id string, signed approval.Signed) (keyservice.ProposalView, error)
	Withdraw(ctx context.Context, c authz.Caller, id string) (keyservice.ProposalView, error)
	Proposal(ctx context.Context, c authz.Caller, id string) (keyservice.ProposalView, error)
	Proposals(ctx context.Context, c authz.Caller) (keyservice.Control, error)
	Keys(ctx context.Context, c authz.Caller) ([]keyservice.KeyView, error)
	Rotations(ctx context.Context, c authz.Caller) (keyservice.RotationList, error)
	Rotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error)
	PauseRotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error)
	ResumeRotation(ctx context.Context, c authz.Caller, id string) (keyservice.RotationView, error)
	FeedSubjects(ctx context.Context, c authz.Caller, id string, subjects []keyservice.FedSubject) (keyservice.FedResult, error)
	MayImportClear(ctx context.Context, c authz.Caller) error
	ImportClear(ctx context.Context, c authz.Caller, id string, file []byte) ([]keyservice.WrappedSeed, error)
	CompareAudit(ctx context.Context, c authz.Caller) ([]keyservice.Discrepancy, error)
}

var _ Service = (*keyservice.Service)(nil)
