package keyservice

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
)

// Who has the public keys alone checks that each entry that the log shows is in the tree that was signed, and that each
// tree begins with those before it.
func TestProofsHold(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, c := context.Background(), NewCheckpointer(w.Service)
		_, err := w.AuditCheckpoint(ctx, auditor, "")
		require.Equal(t, CodeCheckpointNotFound, CodeOf(err))
		var before tlog.Tree
		for range 3 {
			w.decideSome(4)
			require.NoError(t, c.Advance(ctx))
			newest, err := w.AuditCheckpoint(ctx, auditor, "")
			require.NoError(t, err)
			keys, err := w.AuditKeys(ctx, auditor)
			require.NoError(t, err)
			require.Len(t, keys, 1)
			require.EqualValues(t, 1, keys[0].Version)
			opened, err := audit.OpenCheckpoint(newest.Note, w.origin(w.node), []audit.PublicKey{keys[0].PublicKey})
			require.NoError(t, err)
			require.Equal(t, newest.Checkpoint, opened)

			page, err := w.AuditEntries(ctx, auditor, AuditQuery{Limit: MaxAuditPage})
			require.NoError(t, err)
			for _, e := range page.Entries[:newest.Tree.N] {
				leaf, err := audit.Encode(e.Entry)
				require.NoError(t, err)
				p, err := w.Inclusion(ctx, auditor, w.node, e.Index, 0)
				require.NoError(t, err)
				require.Equal(t, newest.Tree, p.Tree)
				require.Equal(t, tlog.RecordHash(leaf), p.Leaf)
				require.NoError(t, tlog.CheckRecord(p.Proof, opened.Tree.N, opened.Tree.Hash, int64(e.Index), tlog.RecordHash(leaf)))
				if e.Index < uint64(before.N) {
					p, err = w.Inclusion(ctx, auditor, "", e.Index, uint64(before.N))
					require.NoError(t, err)
					require.NoError(t, tlog.CheckRecord(p.Proof, before.N, before.Hash, int64(e.Index), tlog.RecordHash(leaf)))
				}
			}
			if before.N > 0 {
				p, err := w.Consistency(ctx, auditor, w.node, uint64(before.N), 0)
				require.NoError(t, err)
				require.Equal(t, ConsistencyProof{Node: w.node, From: before, To: newest.Tree, Proof: p.Proof}, p)
				require.NoError(t, tlog.CheckTree(p.Proof, opened.Tree.N, opened.Tree.Hash, before.N, before.Hash))
			}
			before = newest.Tree
		}
		end := uint64(before.N)
		for _, at := range [][2]uint64{{end, 0}, {end, end}, {5, end + 1}, {5, 5}, {math.MaxUint64, 0}, {0, math.MaxUint64}} {
			_, err := w.Inclusion(ctx, auditor, w.node, at[0], at[1])
			require.Equal(t, CodeInvalid, CodeOf(err), "%v", at)
		}
		for _, at := range [][2]uint64{{0, 0}, {end + 1, 0}, {6, 5}, {5, end + 1}, {math.MaxUint64, math.MaxUint64}} {
			_, err := w.Consistency(ctx, auditor, w.node, at[0], at[1])
			require.Equal(t, CodeInvalid, CodeOf(err), "%v", at)
		}
		for _, node := range []string{"node-9", "x/y", "node"} {
			_, err := w.AuditCheckpoint(ctx, auditor, node)
			require.Equal(t, CodeCheckpointNotFound, CodeOf(err), node)
		}
		w.editTile()
		_, err = w.Inclusion(ctx, auditor, w.node, 2, 0)
		require.Equal(t, CodeLogChanged, CodeOf(err))
		w.editCheckpoint()
		_, err = w.AuditCheckpoint(ctx, auditor, w.node)
		require.Equal(t, CodeLogChanged, CodeOf(err))
	})
}

// To watch a log does not make it grow; who may not read it is refused, and that is logged.
func TestReadingProofsIsNotLoggedButRefusingIs(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.decideSome(3)
	require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
	calls := map[string]func(c authz.Caller) error{
		"checkpoint":  func(c authz.Caller) error { _, err := w.AuditCheckpoint(ctx, c, ""); return err },
		"inclusion":   func(c authz.Caller) error { _, err := w.Inclusion(ctx, c, "", 1, 0); return err },
		"consistency": func(c authz.Caller) error { _, err := w.Consistency(ctx, c, "", 1, 0); return err },
		"keys":        func(c authz.Caller) error { _, err := w.AuditKeys(ctx, c); return err },
	}
	for name, call := range calls {
		before := len(w.leaves())
		require.NoError(t, call(auditor), name)
		require.Len(t, w.leaves(), before, name)
		require.Equal(t, CodeDenied, CodeOf(call(branch)), name)
		require.Len(t, w.leaves(), before+1, name)
	}
}

// With several nodes, whose log is meant must be said; each node proves for all.
func TestProofsOfAnotherNode(t *testing.T) {
	nodes, ctx := newCluster(t, 0, 0), context.Background()
	for _, w := range nodes {
		w.decideSome(3)
		require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
	}
	_, err := nodes[0].AuditCheckpoint(ctx, auditor, "")
	require.Equal(t, CodeInvalid, CodeOf(err))
	for _, w := range nodes {
		p, err := nodes[0].Inclusion(ctx, auditor, w.node, 1, 0)
		require.NoError(t, err)
		require.NoError(t, tlog.CheckRecord(p.Proof, p.Tree.N, w.checkpoint().Tree.Hash, 1, tlog.RecordHash(w.leaves()[1])))
	}
}

func TestEntriesAreFoundByWhatTheySay(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		p := w.enrol(card(1), "counter-6")
		at := w.now()
		w.clock.add(time.Hour)
		w.try(p, p.password())
		w.try(p, p.wrong())
		other := w.enrol(card(2), "counter-6")
		for name, c := range map[string]struct {
			q    AuditQuery
			want func(e LoggedEntry) bool
		}{
			"serial":  {AuditQuery{Serial: other.serial}, func(e LoggedEntry) bool { return e.Serial == other.serial }},
			"action":  {AuditQuery{Action: "otp.verify"}, func(e LoggedEntry) bool { return e.Action == "otp.verify" }},
			"actor":   {AuditQuery{Actor: "branch"}, func(e LoggedEntry) bool { return e.Actor == "branch" }},
			"outcome": {AuditQuery{Outcome: audit.Refused}, func(e LoggedEntry) bool { return e.Outcome == audit.Refused }},
			"since":   {AuditQuery{Since: at.Add(time.Hour)}, func(e LoggedEntry) bool { return e.Time > at.UnixMilli() }},
			"until":   {AuditQuery{Until: at.Add(time.Hour)}, func(e LoggedEntry) bool { return e.Time <= at.UnixMilli() }},
			"several": {AuditQuery{Serial: p.serial, Action: "otp.verify", Outcome: audit.Accepted}, func(e LoggedEntry) bool { return e.Outcome == audit.Accepted }},
			"none":    {AuditQuery{Actor: "nobody"}, func(LoggedEntry) bool { return false }},
		} {
			var want, got []LoggedEntry
			all := w.entries()
			for _, e := range all {
				if c.want(e) {
					want = append(want, e)
				}
			}
			for c.q.Limit = 2; c.q.From < uint64(len(all)); {
				page, err := w.AuditEntries(ctx, auditor, c.q)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page.Entries), 2)
				require.Greater(t, page.Next, c.q.From)
				require.LessOrEqual(t, page.Next, page.End)
				for _, e := range page.Entries {
					if e.Index < uint64(len(all)) {
						got = append(got, e)
					}
				}
				c.q.From = page.Next
			}
			require.Equal(t, want, got, name)
			require.Equal(t, name == "none", len(want) == 0)

			stream, err := w.StreamAudit(ctx, auditor, AuditQuery{
				Serial: c.q.Serial, Action: c.q.Action, Actor: c.q.Actor, Outcome: c.q.Outcome, Since: c.q.Since, Until: c.q.Until})
			require.NoError(t, err)
			got = nil
			for page, err := range stream.Pages {
				require.NoError(t, err)
				for _, e := range page.Entries {
					require.Less(t, e.Index, stream.Log.Entries)
					if e.Index < uint64(len(all)) {
						got = append(got, e)
					}
				}
			}
			require.Equal(t, want, got, name)
		}
	})
}

// An entry that was changed may have said anything: it comes whatever is asked for.
func TestChangedEntriesComeWithEveryQuery(t *testing.T) {
	w := newWorld(t)
	w.decideSome(4)
	w.attack(nil, entryOf(w, 2))
	page, err := w.AuditEntries(context.Background(), auditor, AuditQuery{Serial: "402519938466", Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Entries, 1)
	require.Equal(t, entryMissing, page.Entries[0].Reason)
}
