package keyservice

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// days passes time, more than the entries of now are kept.
func (w *world) days() { w.clock.add(auditKept + time.Hour) }

// archived signs the log as it is, and returns its leaves and what would remove those before an entry.
func (w *world) archived(before uint64) ([][]byte, AuditPrune) {
	require.NoError(w.t, NewCheckpointer(w.Service).Advance(context.Background()))
	leaves := w.leaves()
	root := rfcRoot(leaves[:before])
	return leaves, AuditPrune{Node: w.node, Before: before, Root: root[:]}
}

// prune removes entries as two officers agreed.
func (w *world) prune(q AuditPrune) {
	done := w.agreed(ActionPruneAudit, q)
	require.Equal(w.t, ProposalDone, done.State, done.Result)
}

func (w *world) logOf() AuditLog {
	logs, err := w.AuditLogs(context.Background(), auditor)
	require.NoError(w.t, err)
	return logs[0]
}

// requireProven proves an entry with the tiles and the newest checkpoint.
func (w *world) requireProven(index uint64, leaf []byte) {
	tree := w.signedTree()
	proof, err := tlog.ProveRecord(tree.N, int64(index), audit.Hashes(w.node, tree, w.tiles(context.Background())))
	require.NoError(w.t, err)
	require.NoError(w.t, tlog.CheckRecord(proof, tree.N, tree.Hash, int64(index), tlog.RecordHash(leaf)))
}

func (w *world) signedTree() tlog.Tree {
	keys, err := w.PublicAuditKeys(context.Background())
	require.NoError(w.t, err)
	c, err := audit.OpenCheckpoint(w.row(audit.CheckpointKey(w.node)).Value, w.origin(w.node), keys)
	require.NoError(w.t, err)
	return c.Tree
}

// Entries that are in the archive go from the database, in several commits; the log begins where they ended, reads and
// compares as before, and everything is proven as before: what is gone, what is left, and what comes.
func TestAPrunedLogStaysWhole(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		p, idle := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
		for range 3 {
			require.True(t, w.try(p, p.password()).Accepted)
		}
		w.try(p, p.wrong())
		w.decideSome(pruneChunk + 10)
		before := w.head.Load()
		w.days()
		require.True(t, w.try(p, p.password()).Accepted)
		leaves, q := w.archived(before)
		w.prune(q)

		require.Equal(t, AuditLog{w.node, before, w.head.Load() + 1}, w.logOf())
		page, err := w.AuditEntries(ctx, auditor, AuditQuery{Node: w.node, Limit: MaxAuditPage})
		require.NoError(t, err)
		require.Equal(t, before, page.Entries[0].Index)
		var told []string
		for _, e := range page.Entries {
			require.True(t, e.Genuine(), "entry %d", e.Index)
			if e.Action == ActionPruneAudit && e.Outcome == audit.Done {
				told = append(told, e.Detail)
			}
		}
		require.Len(t, told, 3, "%q", told)
		require.Contains(t, told[0], "entries 0 to 999 of "+w.node)
		w.requireNothingFound()

		for range 2 {
			require.True(t, w.try(p, p.password()).Accepted)
			require.True(t, w.try(idle, idle.password()).Accepted)
			require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
			for i, leaf := range leaves {
				if i%97 == 0 || i > len(leaves)-10 {
					w.requireProven(uint64(i), leaf)
				}
			}
			w.requireNothingFound()
			w.restart()
		}
	})
}

// A log of which nothing is left goes on where it was, also in a process that sees none of it.
func TestALogCanBeginAtItsEnd(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	nodes[1].decideSome(20)
	require.NoError(t, NewCheckpointer(nodes[1].Service).Advance(context.Background()))
	nodes[1].days()
	leaves := nodes[1].leaves()
	signed := uint64(nodes[1].signedTree().N)
	first := signed - 1
	root := rfcRoot(leaves[:first])
	nodes[0].prune(AuditPrune{Node: "node-2", Before: first, Root: root[:]})
	nodes[1].restart()
	require.NoError(t, NewCheckpointer(nodes[1].Service).Advance(context.Background()))
	nodes[0].attack(nil, entryOf(nodes[1], first), entryOf(nodes[1], first+1)) // with the checkpoint's own entry
	nodes[1].restart()
	require.Equal(t, first, nodes[1].head.Load())
	logs, err := nodes[0].AuditLogs(context.Background(), auditor)
	require.NoError(t, err)
	require.Equal(t, AuditLog{"node-2", first, first}, logs[1])
}

// What officers agreed on besides is no beginning of a log: nothing counts as pruned, and no log is there that no node has.
func TestAFeedIsNoBeginningOfALog(t *testing.T) {
	w := newWorld(t)
	require.Equal(t, ProposalDone, w.agreed(ActionFeed, SubjectFeed{Days: 1}).State)
	logs, err := w.AuditLogs(context.Background(), auditor)
	require.NoError(t, err)
	require.Len(t, logs, 1)
	snap, err := w.Store.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	begin, err := w.beginnings(context.Background(), snap)
	require.NoError(t, err)
	require.Empty(t, begin)
}

// What is not in the archive, not old enough, or not what the node wrote, is not removed.
func TestWhatMustNotBePrunedIsNot(t *testing.T) {
	w := newWorld(t)
	w.decideSome(30)
	_, q := w.archived(20)
	refused := func(why string, change func(*AuditPrune)) {
		wrong := q
		change(&wrong)
		_, err := w.Propose(context.Background(), alice, w.signedProposal(alice, ActionPruneAudit, wrong))
		require.Equal(t, CodeDocumentInvalid, CodeOf(err))
		require.ErrorContains(t, err, why)
	}
	refused("younger than 7 days", func(*AuditPrune) {})
	w.days()
	refused("not of this log", func(q *AuditPrune) { q.Root[0] ^= 1 })
	q.Root[0] ^= 1
	refused("the last one stays", func(q *AuditPrune) {
		tree := w.signedTree()
		root := rfcRoot(w.leaves()[:tree.N])
		q.Before, q.Root = uint64(tree.N), root[:]
	})
	refused("begins at entry 0", func(q *AuditPrune) { q.Before = 0 })
	refused("tells of 0 entries", func(q *AuditPrune) { q.Node = "node-7" })
	refused("such a name", func(q *AuditPrune) { q.Node = "No/de" })
	_, err := w.Propose(context.Background(), alice, w.signedProposal(alice, ActionPruneAudit, map[string]any{"node": "node-1"}))
	require.Equal(t, CodeDocumentInvalid, CodeOf(err))

	row := w.row(entryKey(7))
	row.Value[len(row.Value)-1] ^= 1
	w.attack([]store.Put{row})
	done := w.agreed(ActionPruneAudit, q)
	require.Equal(t, ProposalFailed, done.State)
	require.Zero(t, w.logOf().First, "what was changed is found out first")
}

// A pruning that is cut short between two commits leaves a whole log, and goes on.
func TestPruningGoesOnWhereItWasCut(t *testing.T) {
	w := newWorld(t)
	w.decideSome(2*pruneChunk + 10)
	w.days()
	_, q := w.archived(2*pruneChunk + 5)
	v := w.approve(bob, w.propose(alice, ActionPruneAudit, q))
	deletes := 0
	w.store.before = func(c store.Change) error {
		if len(c.Delete) > 0 {
			if deletes++; deletes == 2 {
				return store.ErrFailed
			}
		}
		return nil
	}
	_, err := w.CarryOut(context.Background())
	require.Error(t, err)
	w.store.before = nil
	require.EqualValues(t, pruneChunk, w.logOf().First)
	w.requireNothingFound()
	_, err = w.CarryOut(context.Background())
	require.NoError(t, err)
	require.Equal(t, ProposalDone, w.proposalOf(alice, v.ID).State)
	require.Equal(t, q.Before, w.logOf().First)
	w.requireNothingFound()
}

// What was removed on purpose hides no more than it must: later attacks are found as before, and so is one on the row that
// says where the log begins.
func TestAPrunedLogHidesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		attack func(w *world, p *phone)
		want   string
	}{
		"an older state": {func(w *world, p *phone) {
			older, typed := w.row(stateRowKey(p.serial)), p.password()
			require.True(w.t, w.try(p, typed).Accepted)
			w.attack([]store.Put{older})
			require.True(w.t, w.try(p, typed).Accepted)
		}, audit.LoggedTwice},
		"a later entry removed": {func(w *world, p *phone) {
			v := w.try(p, p.password())
			require.True(w.t, w.try(p, p.password()).Accepted)
			w.attack(nil, entryKey(v.Audit.Index))
		}, audit.NotLogged},
		"a token whose entries are all gone": {func(w *world, _ *phone) {
			from := w.head.Load()
			w.issued(card(9), "counter-6")
			w.attack(nil, entryKey(from))
		}, audit.NotLogged},
		"more entries removed":  {func(w *world, _ *phone) { w.attack(nil, entryKey(w.logOf().First)) }, entryMissing},
		"the beginning removed": {func(w *world, _ *phone) { w.attack(nil, beginningKey("node-1")) }, entryMissing},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), "counter-6")
			require.True(t, w.try(p, p.password()).Accepted)
			before := w.head.Load()
			w.days()
			require.True(t, w.try(p, p.password()).Accepted)
			_, q := w.archived(before)
			w.prune(q)
			c.attack(w, p)
			found, err := w.CompareAudit(context.Background(), auditor)
			require.NoError(t, err)
			var what []string
			for _, d := range found {
				what = append(what, d.What)
			}
			require.Contains(t, what, c.want)
		})
	}
}

func (w *world) differences() (what []string) {
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(w.t, err)
	for _, d := range found {
		what = append(what, d.What)
	}
	return what
}

// A token of which every entry was removed is held against what they said: an older row of it is found, before it is used
// and afterwards.
func TestAPrunedLogKnowsQuietTokens(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	w.try(p, p.wrong())
	o, err := w.ownerOf(context.Background(), ClassCard, seed.NewSubject(card(1)))
	require.NoError(t, err)
	guesses := budgetKey(o.subject, "second-pin")
	older, missed, typed := w.row(stateRowKey(p.serial)), w.row(guesses), p.password()
	w.try(p, p.wrong())
	require.True(t, w.try(p, typed).Accepted)
	before := w.head.Load()
	state, misses := w.row(stateRowKey(p.serial)), w.row(guesses)
	w.days()
	w.decideSome(3)
	_, q := w.archived(before)
	w.prune(q)
	w.requireNothingFound()
	w.attack([]store.Put{missed})
	require.Equal(t, []string{"guess budget"}, w.differences())
	w.attack([]store.Put{misses, older})
	require.ElementsMatch(t, []string{"next moving factor", "state sequence"}, w.differences())
	require.True(t, w.try(p, typed).Accepted, "the replay that is to be found")
	require.Contains(t, w.differences(), audit.LoggedTwice)

	w.attack([]store.Put{state})
	said := w.row(keptKey(p.serial))
	changed := store.Put{Key: said.Key, Value: append([]byte{}, said.Value...)}
	changed.Value[len(changed.Value)-40] ^= 1
	w.attack([]store.Put{changed})
	require.Contains(t, w.differences(), keptRow)
	w.attack(nil, said.Key)
	require.Contains(t, w.differences(), audit.NotLogged)
}

// So are the rows of dual control: who the officers are, the key ring, and proposals, of which every entry was removed.
func TestAPrunedLogKnowsWhatOfficersAgreedOn(t *testing.T) {
	w := newWorld(t)
	officers := w.row(officersKey)
	p := w.approve(bob, w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob")))
	approved := w.row(proposalKey(p.ID))
	_, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	w.setStatus(key(deriveLabel, 1), KeyActive) // the same statuses, another revision
	before, latest := w.head.Load(), []store.Put{w.row(officersKey), w.row(proposalKey(p.ID))}
	w.days()
	w.decideSome(3)
	_, q := w.archived(before)
	w.prune(q)
	w.requireNothingFound()
	w.attack([]store.Put{officers, approved})
	require.ElementsMatch(t, []Discrepancy{
		{What: officersRow, Logged: 2, Stored: 1}, {What: proposalRow, Proposal: p.ID, Logged: 4, Stored: 2},
	}, w.compared())
	w.attack(latest, keptKey(string(officersKey)), keptKey(string(ringKey)))
	require.ElementsMatch(t, []Discrepancy{{What: audit.NotLogged, Stored: 2}, {What: audit.NotLogged, Stored: 2}, {What: keptBack}}, w.compared())
}

// An older row of what removed entries said carries a right MAC, too. Put back together with the token's older state it is found,
// before and after that is used; so is one that a later pruning goes on from.
func TestAnOlderRowOfWhatRemovedEntriesSaidIsFound(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		p := w.enrol(card(1), "counter-6")
		prune := func() {
			before := w.head.Load()
			w.days()
			w.decideSome(3)
			require.NoError(t, NewCheckpointer(w.Service).Advance(context.Background()))
			root, err := tlog.TreeHash(int64(before), audit.Hashes(w.node, w.signedTree(), w.tiles(context.Background())))
			require.NoError(t, err)
			w.prune(AuditPrune{Node: w.node, Before: before, Root: root[:]})
		}
		prune()
		w.requireNothingFound()
		first, older, typed := w.row(keptKey(p.serial)), w.row(stateRowKey(p.serial)), p.password()
		require.True(t, w.try(p, typed).Accepted)
		prune()
		w.requireNothingFound()
		latest, state := w.row(keptKey(p.serial)), w.row(stateRowKey(p.serial))
		w.attack([]store.Put{first, older})
		require.Equal(t, []string{keptBack}, w.differences())
		require.True(t, w.try(p, typed).Accepted, "the replay that is to be found")
		require.Contains(t, w.differences(), keptBack)
		w.attack([]store.Put{latest, state})
		require.NotContains(t, w.differences(), keptBack)
		w.attack([]store.Put{first})
		prune()
		require.Contains(t, w.differences(), keptBack)
	})
}

// Two nodes write to one token in turns. When the log of one is pruned, what is left of the other's does not contradict it,
// and the same attacks are found. It can be pruned further.
func TestPruningOneOfSeveralLogs(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	p := nodes[0].enrol(card(1), "counter-6")
	var older store.Put
	for i := range 6 {
		older = nodes[0].row(stateRowKey(p.serial))
		require.True(t, nodes[i%2].try(p, p.password()).Accepted)
	}
	before := []uint64{nodes[0].head.Load(), nodes[1].head.Load()}
	nodes[0].days()
	for i, w := range nodes {
		w.decideSome(3)
		_, q := w.archived(before[i])
		nodes[0].prune(q)
		nodes[0].requireNothingFound()
		latest := nodes[0].row(stateRowKey(p.serial))
		nodes[0].attack([]store.Put{older})
		require.ElementsMatch(t, []string{"next moving factor", "state sequence"}, nodes[0].differences())
		nodes[0].attack([]store.Put{latest})
	}
	require.True(t, nodes[0].try(p, p.password()).Accepted)
	nodes[0].requireNothingFound()
}

// A beginning that was changed in the database is alarmed, and nothing is read as if it were true.
func TestAForgedBeginningIsAlarmed(t *testing.T) {
	w := newWorld(t)
	w.decideSome(20)
	w.days()
	_, q := w.archived(10)
	w.prune(q)
	row := w.row(beginningKey("node-1"))
	row.Value[len(row.Value)-40] ^= 1
	w.attack([]store.Put{row})
	_, err := w.AuditLogs(context.Background(), auditor)
	require.Equal(t, CodeTampered, CodeOf(err))
	_, err = w.CompareAudit(context.Background(), auditor)
	require.Equal(t, CodeTampered, CodeOf(err))
	w.restart()
	var tam *tampered
	_, _, err = w.beginningOf(context.Background(), "node-1")
	require.True(t, errors.As(err, &tam))
}

// Who removes the officers' row after a pruning does not get the first officers named again.
func TestPruningDoesNotForgetThatThereWereOfficers(t *testing.T) {
	w := newWorld(t)
	w.decideSome(20)
	w.days()
	_, q := w.archived(20)
	w.prune(q)
	var rows []store.Key
	w.rows(func(it store.Item) {
		if it.Key == officersKey || it.Key[:2] == proposalRows {
			rows = append(rows, it.Key)
		}
	})
	w.attack(nil, rows...)
	before, err := w.officersBefore(context.Background())
	require.NoError(t, err)
	require.True(t, before)
}
