package keyservice

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// What officers agreed on after a backup stands in the entries as they signed it. So who the officers are is taken from
// there; and every proposal has a row again, which says that it will not be carried out: no document is taken twice.

// controlReplay is what entries after a backup say of dual control.
type controlReplay struct {
	proposals map[string]*proposalReplay // by id
	officers  uint64                     // revision of their row; 0: they were not changed
	by        string                     // id of the proposal that changed them last
	restores  map[string]bool            // ids of the proposals of other restores
	destroyed []string                   // ids of the proposals by which master keys were destroyed
}

// proposalReplay is what they say of one proposal.
type proposalReplay struct {
	signed, consent approval.Signed
	madeAt          int64
	sequence        uint64 // of its row
}

func (c *controlReplay) add(e audit.Entry) {
	if e.Action == ActionOfficers && e.Outcome == audit.Done && e.Revision > c.officers {
		c.officers, c.by = e.Revision, e.Proposal
	}
	if e.Action == ActionRestore && e.Outcome == audit.Begun {
		c.restores[e.Proposal] = true
	}
	if e.Action == ActionDestroy && e.Outcome == audit.Begun && e.Revision > 0 { // the key ring says so from then on
		c.destroyed = append(c.destroyed, e.Proposal)
	}
	if e.Proposal == "" || e.State == 0 {
		return
	}
	p, known := c.proposals[e.Proposal]
	if !known {
		p = &proposalReplay{}
		c.proposals[e.Proposal] = p
	}
	p.sequence = max(p.sequence, e.State)
	signed := approval.Signed{Document: e.Document, Signature: e.Signature, Certificate: e.Certificate}
	switch {
	case len(e.Document) == 0:
	case e.Action == string(authz.MakeProposal):
		p.signed, p.madeAt = signed, e.Time
	case e.Action == string(authz.ApproveProposal):
		p.consent = signed
	}
}

// officersNow looks whether those who want the restore were officers when the log ended, too, and keeps who that was.
func (r *restoring) officersNow(ctx context.Context) error {
	c := r.replay.control
	if c.officers <= r.officers.Revision {
		return nil
	}
	document, err := r.carriedOut(ctx, c.by)
	if err != nil {
		return fmt.Errorf("who the officers were when the log ended: %w", err)
	}
	var change OfficersChange
	if err := document.Into(&change); err != nil {
		return fmt.Errorf("who the officers were when the log ended: %w", err)
	}
	r.officers.Names, r.officers.Revision = change.Officers, c.officers
	if _, _, err := r.service.verifier().Approved(r.Proposal, r.Approval, r.service.rules(r.officers, r.Clock())); err != nil {
		return r.paperwork(err)
	}
	return nil
}

// carriedOut is what officers had signed of a proposal that the entries say was carried out.
func (r *restoring) carriedOut(ctx context.Context, id string) (approval.Proposal, error) {
	if p := r.replay.control.proposals[id]; p != nil && len(p.signed.Document) > 0 {
		return approval.ParseProposal(p.signed.Document)
	}
	row, err := r.row(ctx, proposalKey(id)) // it was proposed before the backup
	if err != nil {
		return approval.Proposal{}, err
	}
	p, err := r.service.openProposal(row)
	if err != nil {
		return approval.Proposal{}, err
	}
	return approval.ParseProposal(p.Signed.Document)
}

// numberOfficers gives the row of officers a revision that no checkpoint tells a newer one of: a change of which the entry is
// lost is none.
func (r *restoring) numberOfficers(context.Context) error {
	var last uint64
	for _, l := range r.logs {
		last = max(last, l.newest.Officers, l.stored.Officers)
	}
	if last <= r.officers.Revision {
		return nil
	}
	r.officers.Revision = last + 1
	r.ended = append(r.ended, audit.Entry{
		Action: string(beginOfficers), Outcome: audit.Done, Revision: r.officers.Revision, Detail: strings.Join(r.officers.Names, ", "),
	})
	return nil
}

// proposalRow writes a proposal of the backup. One that had not come to its end then will not be carried out.
func (r *restoring) proposalRow(ctx context.Context, row store.Put) error {
	p, err := r.service.openProposal(itemOf(row))
	if unreadable(err) {
		return r.out.add(ctx, row)
	}
	if err != nil {
		return err
	}
	since := r.replay.control.proposals[p.id]
	delete(r.replay.control.proposals, p.id) // who is left was made after the backup
	ended := p.State != ProposalWaiting && p.State != ProposalApproved && p.State != ProposalRunning
	if ended && since == nil {
		return r.out.add(ctx, row)
	}
	if since != nil {
		p.Sequence = max(p.Sequence, since.sequence)
	}
	return r.endProposal(ctx, p)
}

// laterProposals writes the proposals that were made after the backup.
func (r *restoring) laterProposals(ctx context.Context) error {
	all := r.replay.control.proposals
	for _, id := range slices.Sorted(maps.Keys(all)) {
		document, err := approval.ParseProposal(all[id].signed.Document)
		if err != nil || approval.ID(all[id].signed.Document) != id {
			continue // not a proposal of this log: it had a row that did not last
		}
		p := storedProposal{id: id, document: document, proposed: proposed{
			Sequence: all[id].sequence, Signed: all[id].signed, MadeAt: all[id].madeAt,
		}}
		if consent := all[id].consent; len(consent.Document) > 0 {
			p.Approval = &consent
		}
		if err := r.endProposal(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoring) endProposal(ctx context.Context, p storedProposal) error {
	p.State, p.EndedAt, p.Result = ProposalFailed, r.now.UnixMilli(), "the installation was restored: what came of it before stands in the log"
	row, sequence, err := r.service.writeProposal(p)
	if err != nil {
		return err
	}
	r.ended = append(r.ended, audit.Entry{Action: ActionRestore, Outcome: audit.Failed, Proposal: p.id, State: sequence})
	return r.out.add(ctx, row)
}

// officersRow writes who the officers are.
func (r *restoring) officersRow(ctx context.Context) error {
	row, err := r.service.mac(officersKey, r.officers)
	if err != nil {
		return err
	}
	return r.out.add(ctx, row)
}
