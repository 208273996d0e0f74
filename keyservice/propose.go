package keyservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// maxProposalsADay bounds what one officer can fill the database with.
const maxProposalsADay = 100

// Propose takes a signed proposal in. Its proposer must be the caller and an officer; another officer must then approve it.
// The same document is taken once: who heard no answer finds it under its id.
func (s *Service) Propose(ctx context.Context, c authz.Caller, signed approval.Signed) (ProposalView, error) {
	if err := s.authorise(ctx, c, authz.MakeProposal, ""); err != nil {
		return ProposalView{}, err
	}
	var v ProposalView
	err := s.aboutProposal(ctx, c, authz.MakeProposal, approval.ID(signed.Document), func() (d decision, refusal *Error, err error) {
		v, d, refusal, err = s.propose(ctx, c, signed)
		return d, refusal, err
	})
	if err != nil {
		return ProposalView{}, err
	}
	return v, nil
}

func (s *Service) propose(ctx context.Context, c authz.Caller, signed approval.Signed) (v ProposalView, d decision, refusal *Error, err error) {
	now, err := s.latest(ctx)
	if err != nil {
		return v, d, nil, err
	}
	o, officersNow, err := s.loadOfficers(ctx)
	if err != nil {
		return v, d, nil, err
	}
	p, err := s.verifier().Proposal(signed, s.rules(o, now))
	if err == nil && p.Proposer != c.Name {
		err = approval.ErrSigner
	}
	if err != nil {
		return v, d, paperwork(err), nil
	}
	if refusal, err = s.outdated(ctx, p.CreatedAt); refusal != nil || err != nil {
		return v, d, refusal, err
	}
	if refusal, err = s.mayPropose(ctx, p, now); refusal != nil || err != nil {
		return v, d, refusal, err
	}
	made := storedProposal{id: approval.ID(signed.Document), document: p}
	made.proposed = proposed{State: ProposalWaiting, Signed: signed, MadeAt: now.UnixMilli()}
	made.require = store.Require{Key: proposalKey(made.id)}
	if refusal, err = s.isNew(ctx, made); refusal != nil || err != nil {
		return v, d, refusal, err
	}
	d, err = s.step(made, signed)
	d.change.Require = append(d.change.Require, officersNow)
	return made.view(now), d, nil, err
}

// step is the decision that writes a proposal as it is now, in place of the row it was loaded from, until it expires. What
// was signed for it goes into the log.
func (s *Service) step(p storedProposal, signed approval.Signed) (decision, error) {
	row, sequence, err := s.writeProposal(p)
	return decision{
		change: store.Change{Require: []store.Require{p.require}, Put: []store.Put{row}, Until: p.document.ExpiresAt},
		entry: audit.Entry{
			Outcome: audit.Done, Detail: p.document.Action, State: sequence, Proposal: p.id,
			Document: signed.Document, Signature: signed.Signature, Certificate: signed.Certificate,
		},
	}, err
}

// rules are what a document must hold to now.
func (s *Service) rules(o officers, now time.Time) approval.Rules {
	return approval.Rules{Installation: s.installation(), Officers: o.Names, At: now}
}

// mayPropose says why an officer's well signed proposal is not taken all the same.
func (s *Service) mayPropose(ctx context.Context, p approval.Proposal, now time.Time) (*Error, error) {
	all := s.actions
	e, known := all[p.Action]
	if !known {
		return &Error{Code: CodeDocumentInvalid, Detail: fmt.Sprintf("the action is none of %s", strings.Join(slices.Sorted(maps.Keys(all)), ", "))}, nil
	}
	if refusal, err := s.withinLimit(ctx, p, now); refusal != nil || err != nil {
		return refusal, err
	}
	if refusal, err := e.check(ctx, p); refusal != nil || err != nil || e.look == nil {
		return refusal, err
	}
	return e.look(ctx, p)
}

// withinLimit refuses more proposals of one officer than a day may have. It comes before what takes long to find out.
func (s *Service) withinLimit(ctx context.Context, p approval.Proposal, now time.Time) (*Error, error) {
	others, err := s.allProposals(ctx)
	if err != nil {
		return nil, err
	}
	today := 0
	for _, o := range others {
		if o.document.Proposer == p.Proposer && now.Sub(time.UnixMilli(o.MadeAt)) < 24*time.Hour {
			today++
		}
	}
	if today >= maxProposalsADay {
		return &Error{Code: CodeProposalsPending, Detail: fmt.Sprintf("one officer may make %d proposals in 24 hours", maxProposalsADay), RetryAfter: time.Hour}, nil
	}
	return nil, nil
}

// isNew refuses a document that was taken before.
func (s *Service) isNew(ctx context.Context, p storedProposal) (*Error, error) {
	_, refusal, err := s.loadProposal(ctx, p.id)
	switch {
	case err != nil:
		return nil, err
	case refusal == nil:
		return &Error{Code: CodeProposalExists, Detail: "this very proposal was made before: look at it under its id"}, nil
	}
	return nil, nil
}

// Withdraw ends a proposal that waits. Only its proposer may.
func (s *Service) Withdraw(ctx context.Context, c authz.Caller, id string) (ProposalView, error) {
	if err := s.authorise(ctx, c, authz.EndProposal, ""); err != nil {
		return ProposalView{}, err
	}
	var v ProposalView
	err := s.aboutProposal(ctx, c, authz.EndProposal, id, func() (decision, *Error, error) {
		p, now, refusal, err := s.proposalNow(ctx, id)
		if refusal != nil || err != nil {
			return decision{}, refusal, err
		}
		if p.document.Proposer != c.Name {
			return decision{}, &Error{Code: CodeNotProposer, Detail: "only its proposer can withdraw it"}, nil
		}
		if refusal := mustWait(p, now); refusal != nil {
			return decision{}, refusal, nil
		}
		p.State, p.EndedAt = ProposalWithdrawn, now.UnixMilli()
		d, err := s.step(p, approval.Signed{})
		v = p.view(now)
		return d, nil, err
	})
	if err != nil {
		return ProposalView{}, err
	}
	return v, nil
}

// mustWait refuses what can only be done to a proposal that waits.
func mustWait(p storedProposal, now time.Time) *Error {
	if is := p.state(now); is != ProposalWaiting {
		return &Error{Code: CodeProposalClosed, Detail: fmt.Sprintf("the proposal is %s: it does not wait for an approval", is)}
	}
	return nil
}

// paperwork turns what is wrong with a document or signature into a refusal. Its text repeats nothing of either.
func paperwork(err error) *Error {
	codes := []struct {
		is   error
		code Code
	}{
		{approval.ErrSamePerson, CodeSamePerson}, {approval.ErrNotOfficer, CodeNotOfficer}, {approval.ErrExpired, CodeProposalClosed},
		{approval.ErrSignature, CodeSignatureInvalid}, {approval.ErrCertificate, CodeSignatureInvalid}, {approval.ErrSigner, CodeSignatureInvalid},
		{approval.ErrInstallation, CodeDocumentInvalid}, {approval.ErrNotYet, CodeDocumentInvalid}, {approval.ErrOther, CodeDocumentInvalid},
	}
	for _, c := range codes {
		if errors.Is(err, c.is) {
			return &Error{Code: c.code, Detail: c.is.Error(), Err: err}
		}
	}
	return &Error{Code: CodeDocumentInvalid, Detail: approval.ErrDocument.Error(), Err: err}
}
