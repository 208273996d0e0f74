package keyservice

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// Whoever can write the database can put back rows of dual control that carry right MACs. The comparison finds it, also when
// they were used again.
func TestRowsOfDualControlPutBackAreFound(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, ctx := nodes[0], context.Background()
		first := w.row(officersKey)
		p := w.propose(alice, ActionOfficers, w.newOfficers("alice", "carol"))
		waiting := w.row(proposalKey(p.ID))
		w.approve(bob, p)
		approved := w.row(proposalKey(p.ID))
		_, err := w.CarryOut(ctx)
		require.NoError(t, err)
		done := w.row(proposalKey(p.ID))
		require.Empty(t, w.compared())

		w.attack([]store.Put{waiting})
		require.Equal(t, []Discrepancy{{What: proposalRow, Proposal: p.ID, Logged: 4, Stored: 1}}, w.compared())
		w.attack(nil, waiting.Key)
		require.Equal(t, []Discrepancy{{What: proposalRow, Proposal: p.ID, Logged: 4}}, w.compared())
		w.attack([]store.Put{done, first})
		require.Equal(t, []Discrepancy{{What: officersRow, Logged: 2, Stored: 1}}, w.compared())

		w.attack([]store.Put{approved})
		_, err = w.CarryOut(ctx)
		require.NoError(t, err)
		require.ElementsMatch(t, []Discrepancy{{What: officersRow, Logged: 2, Stored: 1}, {What: proposalRow, Proposal: p.ID, Logged: 4, Stored: 2}}, w.compared(), "this node knows that it is done")
		w.restart()
		_, err = w.CarryOut(ctx)
		require.NoError(t, err)
		var what []string
		for _, d := range w.compared() {
			what = append(what, d.What)
		}
		require.Equal(t, []string{audit.LoggedTwice, audit.LoggedTwice, audit.LoggedTwice}, what, "begun and done again, and so are the officers changed")
	})
}

// compared is what a comparison finds, in a fixed order.
func (w *world) compared() []Discrepancy {
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(w.t, err)
	return slices.DeleteFunc(found, func(d Discrepancy) bool { return d.What == entryMissing })
}
