package keyservice

import (
	"context"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// Approve takes the signed approval of a waiting proposal in. The approver must be the caller, an officer, and another
// person than the proposer, who must still be an officer too. What was approved is carried out by CarryOut.
func (s *Service) Approve(ctx context.Context, c authz.Caller, id string, signed approval.Signed) (ProposalView, error) {
	if err := s.authorise(ctx, c, authz.ApproveProposal, ""); err != nil {
		return ProposalView{}, err
	}
	var v ProposalView
	err := s.aboutProposal(ctx, c, authz.ApproveProposal, id, func() (d decision, refusal *Error, err error) {
		v, d, refusal, err = s.approve(ctx, c, id, signed)
		return d, refusal, err
	})
	if err != nil {
		return ProposalView{}, err
	}
	s.wake()
	return v, nil
}

func (s *Service) approve(ctx context.Context, c authz.Caller, id string, signed approval.Signed) (v ProposalView, d decision, refusal *Error, err error) {
	p, now, refusal, err := s.proposalNow(ctx, id)
	if refusal != nil || err != nil {
		return v, d, refusal, err
	}
	if p.document.Proposer == c.Name {
		return v, d, paperwork(approval.ErrSamePerson), nil
	}
	if refusal := mustWait(p, now); refusal != nil {
		return v, d, refusal, nil
	}
	o, officersNow, err := s.loadOfficers(ctx)
	if err != nil {
		return v, d, nil, err
	}
	_, a, err := s.verifier().Approved(p.Signed, signed, s.rules(o, now))
	if err == nil && a.Approver != c.Name {
		err = approval.ErrSigner
	}
	if err != nil {
		return v, d, paperwork(err), nil
	}
	p.State, p.Approval, p.Approver, p.ApprovedAt = ProposalApproved, &signed, a.Approver, now.UnixMilli()
	d, err = s.step(p, signed)
	d.change.Require = append(d.change.Require, officersNow)
	return p.view(now), d, nil, err
}
