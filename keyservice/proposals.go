package keyservice

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// ProposalState says how far a proposal has come.
type ProposalState string

// The states: waiting → approved → running → done or failed; or withdrawn; or expired, which nothing writes down.
const (
	ProposalWaiting   ProposalState = "waiting"   // for another officer's approval
	ProposalApproved  ProposalState = "approved"  // a node carries it out within moments
	ProposalRunning   ProposalState = "running"   // a node has begun; if it dies, it or another one goes on
	ProposalDone      ProposalState = "done"      // carried out
	ProposalFailed    ProposalState = "failed"    // not carried out, and never will be; the result says why
	ProposalWithdrawn ProposalState = "withdrawn" // by its proposer
	ProposalExpired   ProposalState = "expired"   // nobody approved it in time
)

const proposalRows store.Key = "p/" // begins the keys of all of them

func proposalKey(id string) store.Key { return proposalRows + store.Key(id) }

const proposalRow = "proposal" // as errors name it

// proposed is the row of a proposal: it stays until its document has long expired, so that none is taken twice. On disk it is CBOR with these
// integer keys under the state MAC.
type proposed struct {
	Schema     uint8            `cbor:"0,keyasint"`
	Sequence   uint64           `cbor:"1,keyasint"` // grows with every write of the row
	State      ProposalState    `cbor:"2,keyasint"`
	Signed     approval.Signed  `cbor:"3,keyasint"`
	Approval   *approval.Signed `cbor:"4,keyasint,omitempty"`
	Approver   string           `cbor:"5,keyasint,omitempty"`
	MadeAt     int64            `cbor:"6,keyasint"` // Unix milliseconds, as are the others
	ApprovedAt int64            `cbor:"7,keyasint,omitempty"`
	EndedAt    int64            `cbor:"8,keyasint,omitempty"`
	Result     string           `cbor:"9,keyasint,omitempty"` // what came of it, in words
}

// storedProposal is a row as loaded.
type storedProposal struct {
	proposed
	id       string
	document approval.Proposal
	require  store.Require
}

// ProposalView is a proposal as officers see it; it holds no customer's data.
type ProposalView struct {
	ID         string
	State      ProposalState
	Document   approval.Proposal
	Signed     approval.Signed  // the document's exact bytes, and by whom
	Approval   *approval.Signed // nil until it is approved
	Approver   string
	MadeAt     time.Time
	ApprovedAt time.Time // zero until then
	EndedAt    time.Time // zero until then
	Result     string
}

// Control is what there is to agree on.
type Control struct {
	Caller       string // who asks, by name: what the caller's documents must hold
	Installation string
	Officers     []string
	Proposals    []ProposalView // the newest first, at most MaxProposals
	Damaged      []string       // ids of proposals whose rows were changed outside the service; "" of what has no id any more
}

// MaxProposals is how many proposals a list shows.
const MaxProposals = 100

// Proposals lists what was proposed, and who the officers are.
func (s *Service) Proposals(ctx context.Context, c authz.Caller) (Control, error) {
	if err := s.authorise(ctx, c, authz.ReadProposals, ""); err != nil {
		return Control{}, err
	}
	var list Control
	err := s.aboutProposal(ctx, c, authz.ReadProposals, "", func() (decision, *Error, error) {
		o, _, err := s.loadOfficers(ctx)
		if err != nil {
			return decision{}, nil, err
		}
		now, err := s.latest(ctx)
		if err != nil {
			return decision{}, nil, err
		}
		list = Control{Caller: c.Name, Installation: s.installation(), Officers: append([]string{}, o.Names...)}
		read, err := s.readProposals(ctx)
		all := read.good
		list.Damaged = read.damaged
		slices.SortFunc(all, func(a, b storedProposal) int {
			return cmp.Or(cmp.Compare(b.MadeAt, a.MadeAt), strings.Compare(a.id, b.id))
		})
		for _, p := range all[:min(len(all), MaxProposals)] {
			list.Proposals = append(list.Proposals, p.view(now))
		}
		return decision{entry: audit.Entry{Outcome: audit.Done}}, nil, err
	})
	if err != nil {
		return Control{}, err
	}
	return list, nil
}

// Proposal shows one of them.
func (s *Service) Proposal(ctx context.Context, c authz.Caller, id string) (ProposalView, error) {
	if err := s.authorise(ctx, c, authz.ReadProposals, ""); err != nil {
		return ProposalView{}, err
	}
	var v ProposalView
	err := s.aboutProposal(ctx, c, authz.ReadProposals, id, func() (decision, *Error, error) {
		p, now, refusal, err := s.proposalNow(ctx, id)
		if err == nil && refusal == nil {
			v = p.view(now)
		}
		return decision{entry: audit.Entry{Outcome: audit.Done}}, refusal, err
	})
	if err != nil {
		return ProposalView{}, err
	}
	return v, nil
}

// aboutProposal is decide for what officers do: refusals are logged with the proposal they are about.
func (s *Service) aboutProposal(ctx context.Context, c authz.Caller, a authz.Action, id string, fn func() (decision, *Error, error)) error {
	if !proposalID.MatchString(id) {
		id = "" // it may be anything, so it does not go into the log
	}
	_, err := s.decide(ctx, c, a, "", func() (decision, error) {
		d, refusal, err := fn()
		if err == nil && refusal != nil {
			d = decision{entry: audit.Entry{Outcome: audit.Refused, Reason: string(refusal.Code)}, refusal: refusal}
		}
		d.entry.Proposal = id
		return d, err
	})
	return err
}

var proposalID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// proposalNow loads a proposal, and by what time it is to be judged.
func (s *Service) proposalNow(ctx context.Context, id string) (storedProposal, time.Time, *Error, error) {
	now, err := s.latest(ctx)
	if err != nil {
		return storedProposal{}, now, nil, err
	}
	p, refusal, err := s.loadProposal(ctx, id)
	return p, now, refusal, err
}

// loadProposal reads and checks one row.
func (s *Service) loadProposal(ctx context.Context, id string) (storedProposal, *Error, error) {
	unknown := &Error{Code: CodeProposalNotFound, Detail: "no proposal has this id"}
	if !proposalID.MatchString(id) {
		return storedProposal{}, unknown, nil
	}
	items, err := s.Store.Get(ctx, proposalKey(id))
	if err != nil {
		return storedProposal{}, nil, storeError(err)
	}
	if items[0].Version == 0 {
		return storedProposal{}, unknown, nil
	}
	if _, err := s.ringOf(ctx, items[0]); err != nil {
		return storedProposal{}, nil, err
	}
	p, err := s.openProposal(items[0])
	return p, nil, err
}

// openProposal reads a row and the document in it.
func (s *Service) openProposal(it store.Item) (storedProposal, error) {
	row, err := unmac[proposed](s, it, proposalRow)
	if err != nil {
		return storedProposal{}, err
	}
	document, err := approval.ParseProposal(row.Signed.Document)
	id := approval.ID(row.Signed.Document)
	if err != nil || row.Schema != schema || proposalKey(id) != it.Key {
		return storedProposal{}, &tampered{what: proposalRow, err: errors.Join(errors.New("not a proposal of this version"), err)}
	}
	return storedProposal{proposed: row, id: id, document: document, require: requireItems([]store.Item{it})[0]}, nil
}

// write makes the row of a proposal that has come further.
func (s *Service) writeProposal(p storedProposal) (store.Put, uint64, error) {
	p.Schema = schema
	p.Sequence++
	row, err := s.mac(proposalKey(p.id), p.proposed)
	return row, p.Sequence, err
}

// state is the proposal's at a time.
func (p storedProposal) state(now time.Time) ProposalState {
	if p.State == ProposalWaiting && !now.Before(p.document.ExpiresAt) {
		return ProposalExpired
	}
	return p.State
}

func (p storedProposal) view(now time.Time) ProposalView {
	at := func(ms int64) time.Time {
		if ms == 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms).UTC()
	}
	return ProposalView{
		ID: p.id, State: p.state(now), Document: p.document, Signed: p.Signed, Approval: p.Approval, Approver: p.Approver,
		MadeAt: at(p.MadeAt), ApprovedAt: at(p.ApprovedAt), EndedAt: at(p.EndedAt), Result: p.Result,
	}
}
