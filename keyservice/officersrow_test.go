package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Everything that one officer may do without another one takes the row of officers, too: who was removed from it has nothing
// left but a role, from that commit on and at every node.
func TestARemovedOfficerLosesEverythingAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, other, ctx := nodes[0], nodes[len(nodes)-1], context.Background()
		w.reveal(key(dataLabel, 2))
		id := w.begins(dataLabel, 1, 2)
		fed := w.agreed(ActionFeed, SubjectFeed{Days: 1})
		box := w.agreed(ActionImportClear, clearFile(makerSeed).agreement())
		can := map[string]func(*world) error{
			"see keys":          func(w *world) error { _, err := w.Keys(ctx, carol); return err },
			"see rotations":     func(w *world) error { _, err := w.Rotations(ctx, carol); return err },
			"see a rotation":    func(w *world) error { _, err := w.Rotation(ctx, carol, id); return err },
			"pause a rotation":  func(w *world) error { _, err := w.PauseRotation(ctx, carol, id); return err },
			"resume a rotation": func(w *world) error { _, err := w.ResumeRotation(ctx, carol, id); return err },
			"feed": func(w *world) error {
				_, err := w.FeedSubjects(ctx, carol, fed.ID, []FedSubject{{ClassCard, seed.NewSubject(card(1))}})
				return err
			},
			"send seeds in clear": func(w *world) error { _, err := w.sendClear(carol, box.ID, clearFile(makerSeed)); return err },
		}
		for what, do := range can {
			require.NoError(t, do(other), what)
		}
		require.Equal(t, ProposalDone, w.agreed(ActionOfficers, w.newOfficers("alice", "bob")).State)
		for _, node := range nodes {
			for what, do := range can {
				require.Equal(t, CodeNotOfficer, CodeOf(do(node)), what)
				page, err := node.AuditEntries(ctx, auditor, AuditQuery{Node: node.node, From: node.head.Load() - 1, Limit: 1})
				require.NoError(t, err)
				require.Equal(t, []any{"carol", audit.Refused, string(CodeNotOfficer)}, []any{page.Entries[0].Actor, page.Entries[0].Outcome, page.Entries[0].Reason}, what)
			}
		}
	})
}

// An older row of officers carries a right MAC. Put back, nobody is an officer: at a node that has seen the newer one, and at one
// that begins when a checkpoint tells of it.
func TestAnOlderRowOfOfficersIsNotTakenBack(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, other, ctx := nodes[0], nodes[len(nodes)-1], context.Background()
		older := w.row(officersKey)
		require.Equal(t, ProposalDone, w.agreed(ActionOfficers, w.newOfficers("alice", "bob")).State)
		newer := w.row(officersKey)
		other.decideSome(1)
		require.NoError(t, NewCheckpointer(other.Service).Advance(ctx))
		note := other.row(audit.CheckpointKey(other.node)).Value
		require.Contains(t, string(note), "\nofficers 2\n")
		for range 2 {
			w.attack([]store.Put{older})
			for _, officer := range []authz.Caller{alice, carol} {
				_, err := w.Keys(ctx, officer)
				require.Equal(t, CodeTampered, CodeOf(err), "%v", err)
			}
			w.attack([]store.Put{newer})
			_, err := w.Keys(ctx, alice)
			require.NoError(t, err)
			_, err = w.Keys(ctx, carol)
			require.Equal(t, CodeNotOfficer, CodeOf(err))
			w.restart()
		}
		require.NoError(t, w.CheckAnchor(ctx, note))
		w.attack([]store.Put{older}, audit.CheckpointKey(other.node)) // a witness knows what no row tells of any more
		w.Service.officers.Store(0)
		_, err := w.Keys(ctx, carol)
		require.NoError(t, err)
		w.attack([]store.Put{{Key: audit.CheckpointKey(other.node), Value: note}})
		require.ErrorIs(t, w.CheckAnchor(ctx, note), ErrRollback)
	})
}

// Who is removed while the decision is under way is refused by the commit.
func TestRemovedWhileDeciding(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.reveal(key(dataLabel, 2))
	id := w.begins(dataLabel, 1, 2)
	looked := 0
	err := w.asOfficer(ctx, carol, authz.PauseRotation, func() (decision, error) {
		if looked++; looked == 1 {
			w.agreed(ActionOfficers, w.newOfficers("alice", "bob"))
		}
		return decision{entry: audit.Entry{Outcome: audit.Done}}, nil
	})
	require.Equal(t, CodeNotOfficer, CodeOf(err))
	require.Equal(t, 1, looked)
	require.Equal(t, RotationRunning, w.rotation(id).State)
}

// A pause ends by itself. Who made the last one cannot make the next, however long it is ago: one officer alone delays a
// rotation by a day, and two can.
func TestAPauseEnds(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, other, ctx := nodes[0], nodes[len(nodes)-1], context.Background()
		p := w.enrol(card(1), "counter-6")
		w.reveal(key(wrapLabel, 2))
		id := w.begins(wrapLabel, 1, 2)
		paused, err := w.PauseRotation(ctx, alice, id)
		require.NoError(t, err)
		begun, err := w.latest(ctx)
		require.NoError(t, err)
		require.Equal(t, "alice", paused.PausedBy)
		require.WithinDuration(t, begun.Add(MaxPause), paused.PauseEnd, time.Minute)
		require.NoError(t, w.later(MaxPause/2, func() error {
			again, err := w.PauseRotation(ctx, alice, id)
			require.Equal(t, paused.PauseEnd, again.PauseEnd, "asked again it gets no longer")
			require.NoError(t, other.Renew(ctx))
			require.Equal(t, RotationPaused, w.rotation(id).State)
			return err
		}))
		longer, err := w.PauseRotation(ctx, bob, id)
		require.NoError(t, err)
		require.Equal(t, "bob", longer.PausedBy)
		_, err = other.ResumeRotation(ctx, alice, id)
		require.NoError(t, err)
		_, err = w.PauseRotation(ctx, bob, id)
		require.Equal(t, CodeTransition, CodeOf(err))
		require.ErrorContains(t, err, "another officer")
		_, err = w.PauseRotation(ctx, alice, id)
		require.NoError(t, err)
		require.NoError(t, other.Renew(ctx))
		require.Equal(t, RotationPaused, w.rotation(id).State)

		w.skew = w.rotation(id).PauseEnd.Sub(w.clock.Now())
		require.Equal(t, RotationRunning, w.rotation(id).State)
		require.Empty(t, w.rotation(id).PausedBy)
		_, err = w.PauseRotation(ctx, alice, id)
		require.Equal(t, CodeTransition, CodeOf(err))
		require.Equal(t, RotationDone, w.renewsAll(id).State)
		require.True(t, w.try(p, p.password()).Accepted)
		w.requireNothingFound()
	})
}

// The database's clock decides how long a feed is open: a node whose own is far behind or ahead changes nothing.
func TestTheStoresClockClosesAFeed(t *testing.T) {
	nodes := newCluster(t, 0, -400*24*time.Hour)
	w, behind, ctx := nodes[0], nodes[1], context.Background()
	list := []FedSubject{{ClassCard, seed.NewSubject(card(1))}}
	v := w.agreed(ActionFeed, SubjectFeed{Days: 1})
	now, err := w.Store.Now(ctx)
	require.NoError(t, err)
	for left, code := range map[time.Duration]Code{time.Hour: "", -time.Second: CodeProposalClosed} {
		row, err := w.mac(feedKey(v.ID), feed{Schema: schema, Until: now.Add(left).UnixMilli()})
		require.NoError(t, err)
		w.attack([]store.Put{row})
		for _, node := range []*world{w, behind} {
			_, err = node.FeedSubjects(ctx, alice, v.ID, list)
			require.Equal(t, code == "", err == nil)
			require.NoError(t, node.later(400*24*time.Hour, func() error {
				_, err := node.FeedSubjects(ctx, alice, v.ID, list)
				require.Equal(t, code == "", err == nil)
				return nil
			}))
		}
	}
	for _, many := range [][]FedSubject{nil, make([]FedSubject, MaxFed+1)} {
		_, err = w.FeedSubjects(ctx, alice, v.ID, many)
		require.Equal(t, CodeInvalid, CodeOf(err))
		require.ErrorContains(t, err, "1 to 500")
	}
}
