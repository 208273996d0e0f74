package keyservice

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// Rows of proposals are kept for proposalKept after the proposal has ended and its document has expired. Then the job of
// proposals drops them, so that what is read every few seconds stays small. The document cannot be taken again: it has
// expired. What was signed, and what came of it, stands in the log for ever.

// proposalKept is for how long officers can still list what has ended.
const proposalKept = 30 * 24 * time.Hour

const dropProposal authz.Action = "proposal.drop"

// proposalsRead is what the rows of proposals say.
type proposalsRead struct {
	good    []storedProposal
	damaged []string // ids of rows that fail their check; "" of a row whose key holds none
}

// readProposals reads every row. One that was tampered with is alarmed once, and the others go on.
func (s *Service) readProposals(ctx context.Context) (read proposalsRead, err error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return read, storeError(err)
	}
	defer snap.Close()
	err = snap.Scan(ctx, proposalRows, proposalRows, func(it store.Item) error {
		if _, err := s.ringOf(ctx, it); err != nil {
			return err
		}
		p, err := s.openProposal(it)
		if err != nil {
			read.damaged = append(read.damaged, idIn(it.Key, proposalRows))
			return s.alarmOnce(ctx, carryOut, it, err)
		}
		read.good = append(read.good, p)
		return nil
	})
	return read, storeErrorOf(err)
}

// allProposals are those that can be read.
func (s *Service) allProposals(ctx context.Context) ([]storedProposal, error) {
	read, err := s.readProposals(ctx)
	return read.good, err
}

// idIn is the id in the key of a row; whoever damaged the row may have written anything there, which nobody is shown.
func idIn(key, prefix store.Key) string {
	id := strings.TrimPrefix(string(key), string(prefix))
	if !proposalID.MatchString(id) {
		return ""
	}
	return id
}

// alarmOnce alarms a row that fails its check, and lets others be looked at.
func (s *Service) alarmOnce(ctx context.Context, a authz.Action, it store.Item, err error) error {
	if !isTampered(err) {
		return err
	}
	row := store.Require{Key: it.Key, Version: it.Version}
	if _, told := s.alarmed.LoadOrStore(row, true); told {
		return nil
	}
	if err := s.failed(ctx, itself, a, "", err); CodeOf(err) != CodeTampered && CodeOf(err) != CodeKeyDestroyed {
		s.alarmed.Delete(row) // it does not stand in the log yet
		return err
	}
	return nil
}

// due finds what is to be carried out, in the order of the approvals, and which rows can be dropped. A row that is older
// than this node knows was put back: nothing is done again on its word.
func (s *Service) due(ctx context.Context) (due, over []storedProposal, err error) {
	s.newest.mu.Lock() // from before the snapshot, so that what is written meanwhile does not make it look old
	defer s.newest.mu.Unlock()
	until, err := s.earliest(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := s.allProposals(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		if !s.newest.note(p) {
			it := store.Item{Key: proposalKey(p.id), Version: p.require.Version}
			if err := s.alarmOnce(ctx, carryOut, it, &tampered{what: proposalRow, err: errors.New("an older row was put back")}); err != nil {
				return nil, nil, err
			}
			continue
		}
		switch {
		case p.State == ProposalApproved || p.State == ProposalRunning:
			due = append(due, p)
		case p.over(until):
			over = append(over, p)
		}
	}
	slices.SortFunc(due, func(a, b storedProposal) int {
		return cmp.Or(cmp.Compare(a.ApprovedAt, b.ApprovedAt), strings.Compare(a.id, b.id))
	})
	return due, over, nil
}

// over says whether the row can be dropped. It is asked with the earlier of two clocks: one that is ahead drops nothing.
func (p storedProposal) over(now time.Time) bool {
	ended := p.document.ExpiresAt
	if at := time.UnixMilli(p.EndedAt); at.After(ended) {
		ended = at
	}
	return now.After(ended.Add(proposalKept))
}

// drop drops the row of what is over, and the row of what it opened.
func (s *Service) drop(ctx context.Context, l lease, p storedProposal) error {
	d := decision{
		change: store.Change{Require: []store.Require{p.require}, Delete: []store.Key{proposalKey(p.id)}},
		entry:  audit.Entry{Outcome: audit.Done, Proposal: p.id, State: p.Sequence + 1},
	}
	switch p.document.Action {
	case ActionFeed:
		d.change.Delete = append(d.change.Delete, feedKey(p.id))
	case ActionImportClear:
		d.change.Delete = append(d.change.Delete, clearImportKey(p.id))
	}
	return s.commitUnder(ctx, l, dropProposal, d)
}
