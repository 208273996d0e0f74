package keyservice

import (
	"context"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// controlled is what the logs say of the rows of dual control: who the officers are, how the master keys may be used, and how
// far each proposal has come. An older row carries a right MAC or seal: put back, it would make an officer of someone who is
// none any more, bring a retired key back into use, or have something carried out again.
type controlled map[store.Key]*controlWrites

// controlWrites are the writes of one such row that the logs tell of.
type controlWrites struct {
	audit.Sequences
	dropped uint64 // the number of the write that dropped the row; 0: it was not dropped
}

// remember takes note of what an entry says about these rows, and returns what is wrong with that.
func (c controlled) remember(e LoggedEntry) (found []Discrepancy) {
	switch {
	case e.Action == string(beginOfficers), e.Action == ActionOfficers && e.Outcome == audit.Done:
		found = c.note(officersKey, e.Revision, e)
	case e.Serial == "": // no token's revision: the key ring's
		found = c.note(ringKey, e.Revision, e)
	}
	if e.Proposal != "" {
		found = append(found, c.note(proposalKey(e.Proposal), e.State, e)...)
		if e.Action == string(dropProposal) && c[proposalKey(e.Proposal)] != nil {
			c[proposalKey(e.Proposal)].dropped = e.State
		}
	}
	return found
}

func (c controlled) note(key store.Key, number uint64, e LoggedEntry) []Discrepancy {
	if number == 0 || !e.Genuine() {
		return nil // the row was not written
	}
	if c[key] == nil {
		c[key] = &controlWrites{}
	}
	if wrong := c[key].Add(audit.OneWrite(number, 0, e.Time)); wrong != "" {
		return []Discrepancy{{Proposal: e.Proposal, What: wrong, Node: e.Node, Logged: e.Index}}
	}
	return nil
}

// compareControlled holds the rows against what the logs say of them. A row that fails its own check counts as missing.
func (s *Service) compareControlled(ctx context.Context, snap store.Snapshot, logged controlled, removed horizon) (found []Discrepancy, err error) {
	for key, writes := range logged {
		d := Discrepancy{What: officersRow, Logged: writes.End().Last}
		if d.Logged == writes.dropped {
			d.Logged = 0 // there must be no row any more
		}
		switch key {
		case officersKey:
			var o officers
			o, err = stored(ctx, snap, key, func(it store.Item) (officers, error) { return unmac[officers](s, it, officersRow) })
			d.Stored = o.Revision
		case ringKey:
			var r ring
			r, err = stored(ctx, snap, key, func(it store.Item) (ring, error) { return s.unsealRing(ctx, it) })
			d.What, d.Stored = ringRow, r.Revision
		default:
			var p storedProposal
			p, err = stored(ctx, snap, key, s.openProposal)
			d.What, d.Proposal, d.Stored = proposalRow, strings.TrimPrefix(string(key), string(proposalRows)), p.Sequence
		}
		switch {
		case err != nil:
			return nil, err
		case d.Stored > d.Logged && removed.hides(writes.End().Time):
			continue
		case d.Stored > d.Logged:
			d.What = audit.NotLogged
		case d.Stored == d.Logged:
			continue
		}
		found = append(found, d)
	}
	return found, nil
}
