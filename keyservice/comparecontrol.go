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
	kept    audit.Kept // what entries said that were removed; the zero value if none was
	dropped uint64     // the number of the write that dropped the row; 0: it was not dropped
}

// saidOfControl is what an entry says of these rows: the number of each one's write, as a state's.
func saidOfControl(e audit.Entry) map[store.Key]audit.Kept {
	said := map[store.Key]audit.Kept{}
	note := func(key store.Key, number uint64, gone bool) {
		if number > 0 { // else the row was not written
			said[key] = audit.Kept{State: number, Until: e.Time, Gone: gone}
		}
	}
	switch {
	case e.Action == string(beginOfficers), e.Action == ActionOfficers && e.Outcome == audit.Done:
		note(officersKey, e.Revision, false)
	case e.Serial == "": // no token's revision: the key ring's
		note(ringKey, e.Revision, false)
	}
	if e.Proposal != "" {
		note(proposalKey(e.Proposal), e.State, e.Action == string(dropProposal))
	}
	return said
}

// keep begins with what removed entries said of a row.
func (c controlled) keep(key store.Key, k audit.Kept) {
	w := &controlWrites{Sequences: audit.Sequences{{First: 1, Last: k.State, Begun: k.Until, Time: k.Until}}, kept: k}
	if k.Gone {
		w.dropped = k.State
	}
	c[key] = w
}

// remember takes note of what an entry says about these rows, and returns what is wrong with that.
func (c controlled) remember(e LoggedEntry) (found []Discrepancy) {
	if !e.Genuine() {
		return nil
	}
	for key, k := range saidOfControl(e.Entry) {
		if wrong := c.note(key, k); wrong != "" {
			found = append(found, Discrepancy{Proposal: e.Proposal, What: wrong, Node: e.Node, Logged: e.Index})
		}
	}
	return found
}

func (c controlled) note(key store.Key, k audit.Kept) (wrong string) {
	w := c[key]
	if w == nil {
		w = &controlWrites{}
		c[key] = w
	}
	if k.Gone {
		w.dropped = k.State
	}
	if k.State > w.kept.State {
		return w.Add(audit.OneWrite(k.State, 0, k.Until))
	}
	if w.kept.Hides(k.Until) {
		return "" // of several logs one may be left
	}
	return audit.LoggedTwice
}

// compareControlled holds the rows against what the logs say of them, and what was kept of removed entries. A row that fails
// its own check counts as missing.
func (s *Service) compareControlled(ctx context.Context, snap store.Snapshot, logged controlled) (found []Discrepancy, err error) {
	for _, key := range []store.Key{officersKey, ringKey} {
		if logged[key] == nil {
			logged[key] = &controlWrites{} // there must be no such row
		}
	}
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
		case d.Stored > d.Logged:
			d.What = audit.NotLogged
		case d.Stored == d.Logged:
			continue
		}
		found = append(found, d)
	}
	return found, nil
}
