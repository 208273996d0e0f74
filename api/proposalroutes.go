package api

import (
	"context"
	"net/http"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// The inputs of the routes.
type (
	proposeInput struct{ Body wire.Signed }
	approveInput struct {
		ID   string `path:"id" doc:"The proposal: 32 hexadecimal digits" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
		Body wire.Signed
	}
	proposalInput struct {
		ID string `path:"id" doc:"The proposal: 32 hexadecimal digits" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	}
)

// proposalRoutes are dual control: what one officer proposes and another one approves.
func (s *Server) proposalRoutes() {
	signed := []keyservice.Code{keyservice.CodeDocumentInvalid, keyservice.CodeSignatureInvalid, keyservice.CodeNotOfficer, keyservice.CodeProposalClosed, keyservice.CodeTampered}
	handle(s, route{
		method: post, path: "/v1/proposals", id: "propose", role: authz.Officer, status: http.StatusCreated,
		summary: "Propose what takes two officers",
		description: "The document is a proposal as `ramzban` makes it, signed with the caller's own key: the bytes that are signed are the " +
			"bytes that another officer approves. The same document is taken once: after a lost answer, look at it under its id.",
		codes: append([]keyservice.Code{keyservice.CodeProposalExists, keyservice.CodeProposalsPending}, signed...),
	}, s.propose)
	handle(s, route{
		method: get, path: "/v1/proposals", id: "proposals", role: authz.Officer, status: http.StatusOK,
		summary: "List proposals and officers", description: "With the installation and the caller by name, as the documents of this caller must hold them.",
		codes: []keyservice.Code{keyservice.CodeTampered},
	}, s.proposals)
	handle(s, proposalRoute(get, "", "proposal", "Show a proposal", "With the exact text that was signed, and what became of it."), s.proposal)
	handle(s, proposalRoute(post, "/approval", "approve", "Approve another officer's proposal",
		"The document is an approval as `ramzban` makes it: it names the SHA-256 of the proposal, and is signed with the caller's own key. "+
			"The proposal is then carried out within moments: ask for it until its status is `done` or `failed`.",
		append([]keyservice.Code{keyservice.CodeSamePerson}, signed...)...), s.approve)
	handle(s, proposalRoute(post, "/withdrawal", "withdraw", "Withdraw a proposal that waits", "Only its proposer can.",
		keyservice.CodeNotProposer, keyservice.CodeProposalClosed), s.withdraw)
}

func proposalRoute(method, path, id, summary, description string, codes ...keyservice.Code) route {
	return route{
		method: method, path: "/v1/proposals/{id}" + path, id: id, role: authz.Officer, status: http.StatusOK, summary: summary, description: description,
		codes: append([]keyservice.Code{keyservice.CodeProposalNotFound, keyservice.CodeTampered}, codes...),
	}
}

func (s *Server) propose(ctx context.Context, c authz.Caller, in *proposeInput) (wire.Proposal, error) {
	v, err := s.Service.Propose(ctx, c, signedOf(in.Body))
	return proposalAnswer(v), err
}

func (s *Server) approve(ctx context.Context, c authz.Caller, in *approveInput) (wire.Proposal, error) {
	v, err := s.Service.Approve(ctx, c, in.ID, signedOf(in.Body))
	return proposalAnswer(v), err
}

func (s *Server) withdraw(ctx context.Context, c authz.Caller, in *proposalInput) (wire.Proposal, error) {
	v, err := s.Service.Withdraw(ctx, c, in.ID)
	return proposalAnswer(v), err
}

func (s *Server) proposal(ctx context.Context, c authz.Caller, in *proposalInput) (wire.Proposal, error) {
	v, err := s.Service.Proposal(ctx, c, in.ID)
	return proposalAnswer(v), err
}

func (s *Server) proposals(ctx context.Context, c authz.Caller, _ *noInput) (wire.ProposalsAnswer, error) {
	all, err := s.Service.Proposals(ctx, c)
	a := wire.ProposalsAnswer{
		Caller: all.Caller, Installation: all.Installation, Officers: append([]string{}, all.Officers...), Proposals: make([]wire.Proposal, len(all.Proposals)),
		Damaged: append([]string{}, all.Damaged...),
	}
	for i, v := range all.Proposals {
		a.Proposals[i] = proposalAnswer(v)
	}
	return a, err
}

func signedOf(s wire.Signed) approval.Signed {
	return approval.Signed{Document: []byte(s.Document), Signature: s.Signature, Certificate: s.Certificate}
}

func signedAnswer(s approval.Signed) wire.Signed {
	return wire.Signed{Document: string(s.Document), Signature: s.Signature, Certificate: s.Certificate}
}

func proposalAnswer(v keyservice.ProposalView) wire.Proposal {
	a := wire.Proposal{
		ID: v.ID, Status: string(v.State), Action: v.Document.Action, Proposer: v.Document.Proposer, Approver: v.Approver,
		MadeAt: v.MadeAt, ExpiresAt: v.Document.ExpiresAt, ApprovedAt: given(v.ApprovedAt), EndedAt: given(v.EndedAt),
		Result: v.Result, Proposal: signedAnswer(v.Signed),
	}
	if v.Approval != nil {
		a.Approval = new(signedAnswer(*v.Approval))
	}
	return a
}

// given is a time that may be missing.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
