package keyservice

import (
	"cmp"
	"context"
	"errors"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// What two officers agreed on is carried out by one node, under a lease, one proposal at a time. No other way leads to what
// stands here: no use case calls an executor.
//
// To put an action under dual control, write its check and its run and add both to executors. Its parameters are a struct
// with JSON names, read with approval.Proposal.Into.
//
//   - check says what is wrong with the parameters, as things are now. It is asked when a proposal is made and again before
//     it is carried out, and changes nothing.
//   - look is check for what takes longer to find out. It is asked only when a proposal is made, and may be missing; run must
//     find it out itself.
//   - run does it. It may make steps durable on the way (execution.commit), and returns the last decision, which is
//     committed together with the fact that the proposal is done: an action of one decision happens exactly once. Its entry
//     needs no outcome. A refusal ends the proposal as failed, for ever. An error is logged, and run is called again within
//     a minute, by this node or another one, as it is after a crash: so whatever run did before must do no harm when it is
//     done again. Before the first call an entry says what is begun, after the last one what came of it.
//   - overdue is called instead of run once runLimit is over, and says what came of it. It may be missing: then it has failed.
//
// What takes longer than some minutes should be a job of its own, with a lease and a row for its progress, that run only
// begins: the next proposal waits until run returns.

// executor is how one action is carried out.
type executor struct {
	check func(ctx context.Context, p approval.Proposal) (*Error, error)
	look  func(ctx context.Context, p approval.Proposal) (*Error, error)
	run   func(ctx context.Context, x *execution) (decision, *Error, error)

	overdue func(ctx context.Context, x *execution) (decision, *Error, error)
}

// executors are all actions under dual control, by name. A restore has no service to run on: `ramzban restore` looks at its
// documents itself.
func (s *Service) executors() map[string]executor {
	all := s.keyExecutors()
	all[ActionOfficers] = executor{check: s.checkOfficersChange, run: s.changeOfficers}
	all[ActionPruneAudit] = executor{check: s.checkPrune, run: s.prune}
	all[ActionFeed] = executor{check: s.checkFeed, run: s.openFeed}
	all[ActionImportClear] = executor{check: s.checkClearImport, run: s.openClearImport}
	return all
}

const proposalsJob = "proposals"

// execution is one approved proposal being carried out by this node.
type execution struct {
	ID       string
	Proposal approval.Proposal
	service  *Service
	lease    *lease
}

// commit makes a step durable under the lease. step decides it, from the store as it is then, and is called again when
// another decision came first. Its entry gets the action and the proposal's id, and outcome done if it has none.
func (x *execution) commit(ctx context.Context, step func() (decision, error)) error {
	for range maxConflicts {
		d, err := step()
		if err != nil {
			return err
		}
		if err = x.commitOnce(ctx, d); !errors.Is(err, errLeaseLost) {
			return err
		}
		if err = x.hold(ctx); err != nil {
			return err
		}
	}
	return &Error{Code: CodeBusy, Detail: "too many changes at once"}
}

func (x *execution) commitOnce(ctx context.Context, d decision) error {
	d.entry.Proposal, d.entry.Outcome = x.ID, cmp.Or(d.entry.Outcome, audit.Done)
	return x.service.commitUnder(ctx, *x.lease, authz.Action(x.Proposal.Action), d)
}

// hold renews the lease: work that takes long without a commit must do so every half leaseTerm. errLeaseHeld: another node
// goes on with it.
func (x *execution) hold(ctx context.Context) (err error) {
	*x.lease, err = x.service.lease(ctx, proposalsJob)
	return err
}

// keep renews the lease when half of it is over, after what may have taken long, such as a count of all rows.
func (x *execution) keep(ctx context.Context) error {
	now, err := x.service.Store.Now(ctx)
	if err != nil {
		return storeError(err)
	}
	if x.lease.until().Sub(now) >= x.service.leaseTerm/2 {
		return nil
	}
	return x.hold(ctx)
}

// Approved is sent to when a proposal was approved at this node, so that it need not wait for the next time that CarryOut
// is called anyhow.
func (s *Service) Approved() <-chan struct{} { return s.approved }

func (s *Service) wake() {
	select {
	case s.approved <- struct{}{}:
	default: // it was told already
	}
}

// CarryOut carries out what was approved, and goes on with what a node began and did not end; it returns how many proposals
// came to their end. On several nodes, the one that holds the lease does it. It may be ended at any moment.
func (s *Service) CarryOut(ctx context.Context) (int, error) {
	due, over, err := s.due(ctx)
	if err != nil || len(due)+len(over) == 0 {
		return 0, err
	}
	l, err := s.lease(ctx, proposalsJob)
	if errors.Is(err, errLeaseHeld) {
		return 0, nil
	}
	if err != nil {
		return 0, s.failed(ctx, itself, carryOut, "", err)
	}
	ended := 0
	var errs []error
	for _, p := range due {
		err := s.carryOut(ctx, &execution{ID: p.id, Proposal: p.document, service: s, lease: &l})
		switch {
		case errors.Is(err, errLeaseHeld):
			return ended, errors.Join(errs...) // it goes on there
		case errors.Is(err, errNotErased): // the others need not wait
		case err != nil:
			errs = append(errs, s.failed(ctx, itself, carryOut, "", err))
		default:
			ended++
		}
	}
	for _, p := range over {
		if err := s.drop(ctx, l, p); err != nil && !errors.Is(err, errLeaseLost) { // lost: the next call drops it
			errs = append(errs, s.failed(ctx, itself, dropProposal, "", err))
		}
	}
	return ended, errors.Join(errs...)
}

const carryOut authz.Action = "proposal.run"

// carryOut brings one proposal to its end. When something else came first, it looks again.
func (s *Service) carryOut(ctx context.Context, x *execution) error {
	for range maxConflicts {
		ended, err := s.advance(ctx, x)
		if errors.Is(err, errLeaseLost) {
			if err = x.hold(ctx); err == nil {
				continue
			}
		}
		if err != nil || ended {
			return err
		}
	}
	return &Error{Code: CodeBusy, Detail: "too many changes at once"}
}

// advance takes a proposal one step further: it is begun, or run to its end.
func (s *Service) advance(ctx context.Context, x *execution) (ended bool, err error) {
	p, now, refusal, err := s.proposalNow(ctx, x.ID)
	if err != nil {
		return false, err
	}
	if refusal != nil || p.State != ProposalApproved && p.State != ProposalRunning {
		return true, nil // another node was faster
	}
	if p.State == ProposalApproved {
		return s.begin(ctx, x, p, now)
	}
	o, _, err := s.loadOfficers(ctx)
	if err != nil {
		return false, err
	}
	if refusal = s.wasApproved(p, o); refusal != nil {
		return true, s.conclude(ctx, x, p, decision{}, refusal)
	}
	e := s.actions[p.document.Action]
	run := e.run
	if now.After(p.document.ExpiresAt.Add(runLimit)) {
		if run = e.overdue; run == nil {
			return true, s.conclude(ctx, x, p, decision{}, overdue())
		}
	}
	d, refusal, err := run(ctx, x)
	if err != nil {
		return false, err
	}
	return true, s.conclude(ctx, x, p, d, refusal)
}

// begin looks once more whether two officers want it, and whether it can be done, and writes down that it is begun.
func (s *Service) begin(ctx context.Context, x *execution, p storedProposal, now time.Time) (ended bool, err error) {
	o, officersNow, err := s.loadOfficers(ctx)
	if err != nil {
		return false, err
	}
	if _, _, err := s.verifier().Approved(p.Signed, *p.Approval, s.rules(o, now)); err != nil {
		return true, s.conclude(ctx, x, p, decision{}, paperwork(err))
	}
	e, known := s.actions[p.document.Action]
	if !known {
		return true, s.conclude(ctx, x, p, decision{}, &Error{Code: CodeDocumentInvalid, Detail: "this version knows no such action"})
	}
	refusal, err := e.check(ctx, p.document)
	if err != nil {
		return false, err
	}
	if refusal != nil {
		return true, s.conclude(ctx, x, p, decision{}, refusal)
	}
	if err := x.keep(ctx); err != nil {
		return false, err
	}
	p.State = ProposalRunning
	row, sequence, err := s.writeProposal(p)
	if err != nil {
		return false, err
	}
	return false, x.commitOnce(ctx, decision{
		change: store.Change{Require: []store.Require{p.require, officersNow}, Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Begun, State: sequence},
	})
}

// runLimit is how long after its document has expired what was begun is still gone on with.
const runLimit = 24 * time.Hour

// overdue refuses to go on: a row of long ago that was put back starts nothing.
func overdue() *Error {
	return &Error{Code: CodeProposalClosed, Detail: "it was begun and not ended, and has expired more than a day ago: propose it anew"}
}

// wasApproved looks again at what was begun: a row alone starts nothing, nor does one whose officers were removed since.
func (s *Service) wasApproved(p storedProposal, o officers) *Error {
	if p.Approval == nil || s.actions[p.document.Action].run == nil {
		return &Error{Code: CodeDocumentInvalid, Detail: "there is no approval of an action that this version knows"}
	}
	rules := s.rules(o, time.UnixMilli(p.ApprovedAt))
	v := s.verifier()
	v.Revoked = nil // it was looked at before it was begun
	if _, _, err := v.Approved(p.Signed, *p.Approval, rules); err != nil {
		return paperwork(err)
	}
	return nil
}

// conclude writes down what came of a proposal, together with the last decision.
func (s *Service) conclude(ctx context.Context, x *execution, p storedProposal, d decision, refusal *Error) error {
	now, err := s.latest(ctx)
	if err != nil {
		return err
	}
	p.State, p.EndedAt, p.Result = ProposalDone, now.UnixMilli(), d.entry.Detail
	d.entry.Outcome = audit.Done
	if refusal != nil {
		p.State, p.Result = ProposalFailed, refusal.Detail
		d = decision{entry: audit.Entry{Outcome: audit.Failed, Reason: string(refusal.Code), Detail: refusal.Detail}}
		s.Log.WarnContext(ctx, "what two officers agreed on was not carried out", "proposal", p.id, "action", p.document.Action, "reason", refusal.Detail, "error", refusal.Err)
	}
	row, sequence, err := s.writeProposal(p)
	if err != nil {
		return err
	}
	d.change.Require, d.change.Put = append(d.change.Require, p.require), append(d.change.Put, row)
	d.entry.State = sequence
	err = x.commitOnce(ctx, d)
	if err == nil {
		p.Sequence = sequence
		s.newest.wrote(p)
		if p.document.Action == ActionOfficers {
			s.sawOfficers(d.entry.Revision)
		}
	}
	return err
}
