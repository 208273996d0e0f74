package keyservice

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// onBothEngines runs a test on a node with an embedded database, and on one of a cluster.
func onBothEngines(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("badger", func(t *testing.T) { test(t, newWorld(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, newCluster(t, 0)[0]) })
}

// decideSome adds n entries to the log.
func (w *world) decideSome(n int) {
	for range n {
		_, err := w.AuditLogs(context.Background(), auditor)
		require.NoError(w.t, err)
	}
}

// leaves are the bytes of the log's entries as they are stored.
func (w *world) leaves() (leaves [][]byte) {
	snap, err := w.db.Snapshot(context.Background())
	require.NoError(w.t, err)
	defer snap.Close()
	require.NoError(w.t, snap.Scan(context.Background(), audit.NodePrefix(w.node), "", func(it store.Item) error {
		_, leaf, err := w.logbook.Leaf(it)
		leaves = append(leaves, leaf)
		return err
	}))
	return leaves
}

// rfcRoot is the root of a tree as RFC 6962 section 2.1 defines it.
func rfcRoot(leaves [][]byte) tlog.Hash {
	if len(leaves) == 0 {
		return sha256.Sum256(nil)
	}
	if len(leaves) == 1 {
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	}
	half := 1
	for 2*half < len(leaves) {
		half *= 2
	}
	left, right := rfcRoot(leaves[:half]), rfcRoot(leaves[half:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// checkpoint opens the stored checkpoint with the public key alone, and holds it against the entries.
func (w *world) checkpoint() audit.Checkpoint {
	keys, err := w.PublicAuditKeys(context.Background())
	require.NoError(w.t, err)
	c, err := audit.OpenCheckpoint(w.row(audit.CheckpointKey(w.node)).Value, w.origin(w.node), keys)
	require.NoError(w.t, err)
	require.Equal(w.t, rfcRoot(w.leaves()[:c.Tree.N]), c.Tree.Hash)
	return c
}

// A checkpoint is over everything that was decided, and has an entry of its own; where nothing is decided after it, the
// log does not grow.
func TestCheckpointsFollowDecisions(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx, c := context.Background(), NewCheckpointer(w.Service)
		require.NoError(t, c.Advance(ctx))
		before := audit.Checkpoint{}
		for range 4 {
			w.decideSome(3)
			decided := len(w.leaves())
			for range 3 {
				require.NoError(t, c.Advance(ctx))
			}
			now := w.checkpoint()
			require.EqualValues(t, decided, now.Tree.N)
			leaves := w.leaves()
			require.Len(t, leaves, decided+1, "the checkpoint's own entry")
			own, err := audit.Decode(leaves[decided])
			require.NoError(t, err)
			require.Equal(t, "audit.checkpoint", own.Action)
			require.Equal(t, &audit.Head{Size: uint64(decided), Root: now.Tree.Hash[:]}, own.Tree)
			require.Equal(t, CheckpointStats{Size: uint64(decided), Time: now.Time, Waiting: 1}, c.Stats())
			require.Equal(t, w.now().UTC().Truncate(time.Millisecond), now.Time)
			if before.Tree.N > 0 {
				w.requireConsistent(before.Tree, now.Tree)
			}
			before = now
			w.clock.add(time.Second)
		}
	})
}

func (w *world) requireConsistent(before, now tlog.Tree) {
	proof, err := audit.ProveConsistency(now, before.N, now.N, audit.Hashes(w.node, now, w.tiles(context.Background())))
	require.NoError(w.t, err)
	require.NoError(w.t, tlog.CheckTree(proof, now.N, now.Hash, before.N, before.Hash))
}

// A long log is caught up with in parts, each a checkpoint that follows the one before.
func TestALongLogIsCaughtUpWithInParts(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		w.decideSome(30)
		decided := len(w.leaves())
		c := NewCheckpointer(w.Service)
		c.chunk = 7
		require.NoError(t, c.Advance(context.Background()))
		now := w.checkpoint()
		require.GreaterOrEqual(t, now.Tree.N, int64(decided))
		sizes := []uint64{}
		for _, leaf := range w.leaves() {
			own, err := ownHead(leaf)
			require.NoError(t, err)
			if own != nil {
				sizes = append(sizes, own.Size)
				require.Equal(t, rfcRoot(w.leaves()[:own.Size]), tlog.Hash(own.Root))
			}
		}
		for i, size := range sizes[:len(sizes)-1] {
			require.EqualValues(t, 7*(i+1), size)
		}
		require.Greater(t, len(sizes), decided/7-1)
		w.restart()
		c = NewCheckpointer(w.Service)
		require.NoError(t, c.Advance(context.Background()))
		require.Equal(t, now, w.checkpoint(), "who reads all of that again finds it right, and has nothing to add")
	})
}

// Whatever ends between an entry and its checkpoint, the next start goes on where the last checkpoint ended.
func TestCheckpointsGoOnAfterACrash(t *testing.T) {
	onBothEngines(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		w.decideSome(1)
		require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
		before := w.checkpoint()
		for name, fail := range map[string]func(){
			"before it was written":      func() { w.store.before = func(store.Change) error { return store.ErrFailed } },
			"after it was written":       func() { w.store.after = func(store.Change) error { return store.ErrUnknown } },
			"the HSM is away":            func() { w.hsm.unsigned = seed.ErrUnavailable },
			"another one came meanwhile": func() { w.store.before = func(store.Change) error { return store.ErrConflict } },
		} {
			w.decideSome(2)
			c := NewCheckpointer(w.Service)
			fail()
			require.Error(t, c.Advance(ctx), name)
			require.False(t, c.Stats().Broken, name)
			w.store.before, w.store.after, w.hsm.unsigned = nil, nil, nil
			require.NoError(t, c.Advance(ctx), "the same process tries again")
			w.decideSome(2)
			w.reopen()
			require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
			now := w.checkpoint()
			require.EqualValues(t, len(w.leaves())-1, now.Tree.N, name)
			w.requireConsistent(before.Tree, now.Tree)
			before = now
		}
	})
}

// tampering is what can be done in the database to a log and its tree, and what the alarm calls it.
var tampering = map[string]struct {
	attack func(w *world, older map[store.Key][]byte)
	reason string
	right  int // how many entries are right; -1: that is not known
}{
	"an entry was edited": {func(w *world, _ map[store.Key][]byte) {
		row := w.row(entryOf(w, 12))
		row.Value[len(row.Value)-40] ^= 1
		w.attack([]store.Put{row})
	}, entryChanged, 12},
	"an entry is missing":         {func(w *world, _ map[store.Key][]byte) { w.attack(nil, entryOf(w, 12)) }, entryMissing, 12},
	"the last entry is missing":   {func(w *world, _ map[store.Key][]byte) { w.attack(nil, entryOf(w, w.head.Load()-1)) }, entryMissing, -1},
	"an entry stands in two rows": {func(w *world, _ map[store.Key][]byte) { w.copyEntry(12, 13) }, entryChanged, 13},
	"something else stands there": {func(w *world, _ map[store.Key][]byte) { w.attack([]store.Put{{Key: entryOf(w, 12), Value: []byte{1}}}) }, entryChanged, 12},
	"a row that is no entry": {func(w *world, _ map[store.Key][]byte) {
		w.attack([]store.Put{{Key: entryOf(w, 12) + "x", Value: []byte{1}}})
	}, entryChanged, 13},
	"a tile was edited":           {func(w *world, _ map[store.Key][]byte) { w.editTile() }, treeChanged, -1},
	"a tile is missing":           {func(w *world, _ map[store.Key][]byte) { w.attack(nil, audit.TileKey(w.node, 0, 0)) }, treeChanged, -1},
	"the checkpoint is missing":   {func(w *world, _ map[store.Key][]byte) { w.attack(nil, audit.CheckpointKey(w.node)) }, checkpointBack, -1},
	"the checkpoint was put back": {func(w *world, older map[store.Key][]byte) { w.putBack(older) }, checkpointBack, -1},
	"the checkpoint was edited":   {func(w *world, _ map[store.Key][]byte) { w.editCheckpoint() }, checkpointChanged, -1},
	"it is another node's":        {func(w *world, _ map[store.Key][]byte) { w.signElsewhere("node-9") }, checkpointChanged, -1},
	"it is no checkpoint anywhere": {func(w *world, _ map[store.Key][]byte) {
		w.attack([]store.Put{{Key: audit.CheckpointKey(w.node), Value: []byte("x")}})
	}, checkpointChanged, -1},
}

func (w *world) copyEntry(from, to uint64) {
	w.attack([]store.Put{{Key: entryOf(w, to), Value: w.row(entryOf(w, from)).Value}})
}

func (w *world) editTile() {
	row := w.row(audit.TileKey(w.node, 0, 0))
	row.Value[2*tlog.HashSize] ^= 1
	w.attack([]store.Put{row})
}

func (w *world) editCheckpoint() {
	row := w.row(audit.CheckpointKey(w.node))
	row.Value[len(row.Value)-20] ^= 1
	w.attack([]store.Put{row})
}

func (w *world) signElsewhere(node string) {
	note, err := audit.Checkpoint{Origin: w.origin(node), Tree: w.checkpoint().Tree, Time: w.now()}.Sign(context.Background(), w.signAudit)
	require.NoError(w.t, err)
	w.attack([]store.Put{{Key: audit.CheckpointKey(w.node), Value: note}})
}

// treeRows are the rows of tiles and checkpoints.
func (w *world) treeRows() map[store.Key][]byte {
	found := map[store.Key][]byte{}
	w.rows(func(it store.Item) {
		if p := it.Key[:2]; p == audit.TreePrefix || p == audit.CheckpointPrefix {
			found[it.Key] = it.Value
		}
	})
	return found
}

func (w *world) putBack(older map[store.Key][]byte) {
	var puts []store.Put
	for k, v := range older {
		puts = append(puts, store.Put{Key: k, Value: v})
	}
	w.attack(puts)
}

// Nothing is signed over a log that was changed in the database: not by the process that saw it before, and not by the
// next. The log says so once for each of them, and names how much of it is right. Once it is mended, checkpoints go on.
func TestNothingIsSignedOverAChangedLog(t *testing.T) {
	for name, a := range tampering {
		t.Run(name, func(t *testing.T) {
			for _, restarted := range []bool{false, true} {
				w, ctx := newWorld(t), context.Background()
				c := NewCheckpointer(w.Service)
				w.decideSome(4)
				require.NoError(t, c.Advance(ctx))
				older := w.treeRows()
				w.decideSome(4)
				require.NoError(t, c.Advance(ctx))
				right, size := w.treeRows(), w.checkpoint().Tree.N
				w.decideSome(6) // 10 to 15
				mend := w.entryRows()
				a.attack(w, older)
				if restarted {
					w.restart()
					c = NewCheckpointer(w.Service)
				}
				for range 3 {
					err := c.Advance(ctx)
					require.ErrorIs(t, err, error(&brokenLog{}), "restarted: %v", restarted)
					require.True(t, c.Stats().Broken)
				}
				w.requireAlarm(a.reason, a.right)
				_, err := w.AuditLogs(ctx, auditor)
				require.NoError(t, err, "everything else goes on")
				w.putBack(right)
				w.attack(nil, entryOf(w, 12)+"x")
				w.putBack(mend)
				require.NoError(t, c.Advance(ctx))
				require.False(t, c.Stats().Broken)
				require.Greater(t, w.checkpoint().Tree.N, size)
			}
		})
	}
}

// entryRows are the rows of this node's log.
func (w *world) entryRows() map[store.Key][]byte {
	found := map[store.Key][]byte{}
	w.rows(func(it store.Item) {
		if it.Key[:2] == audit.Prefix {
			found[it.Key] = it.Value
		}
	})
	return found
}

// requireAlarm looks for the one entry that tells of the changed log.
func (w *world) requireAlarm(reason string, right int) {
	var alarms []audit.Entry
	w.rows(func(it store.Item) {
		_, e, err := w.logbook.Open(it)
		if err == nil && e.Outcome == audit.Tampered {
			alarms = append(alarms, e)
		}
	})
	require.Len(w.t, alarms, 1)
	require.Equal(w.t, reason, alarms[0].Reason)
	require.Equal(w.t, "audit.checkpoint", alarms[0].Action)
	if right >= 0 {
		leaves := w.entryRows()
		require.NotNil(w.t, alarms[0].Tree)
		require.EqualValues(w.t, right, alarms[0].Tree.Size)
		require.Greater(w.t, len(leaves), right)
	}
}

// Is makes every broken log the same for tests.
func (b *brokenLog) Is(target error) bool {
	_, same := target.(*brokenLog)
	return same
}

// On PostgreSQL whoever can write the database can also set back the number that the log goes on with. What is written in
// the place of entries that were signed is not signed in their place.
func TestEntriesInThePlaceOfSignedOnesAreFound(t *testing.T) {
	for name, after := range map[string]int{"fewer than were there": 2, "more": 8} {
		t.Run(name, func(t *testing.T) {
			w, ctx := newCluster(t, 0)[0], context.Background()
			begun := len(w.leaves())
			w.decideSome(4)
			older := len(w.leaves())
			w.decideSome(5)
			require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
			end := len(w.leaves())
			require.NoError(t, w.db.Close())
			conn, err := pgx.Connect(ctx, w.dsn)
			require.NoError(t, err)
			for i := older; i < end; i++ {
				tag, err := conn.Exec(ctx, "DELETE FROM rows WHERE key = $1", []byte(entryOf(w, uint64(i))))
				require.NoError(t, err)
				require.EqualValues(t, 1, tag.RowsAffected())
			}
			_, err = conn.Exec(ctx, "UPDATE logs SET next = $1", older)
			require.NoError(t, err)
			require.NoError(t, conn.Close(ctx))
			w.start()
			require.EqualValues(t, older, w.head.Load())
			require.Greater(t, older, begun)
			w.clock.add(time.Minute) // else what is written is the same as what was there
			w.decideSome(after)
			require.ErrorIs(t, NewCheckpointer(w.Service).Advance(ctx), error(&brokenLog{}))
			w.restart()
			w.decideSome(after)
			require.ErrorIs(t, NewCheckpointer(w.Service).Advance(ctx), error(&brokenLog{}))
		})
	}
}

// The end of a log that was cut off while its node runs is missed, though nothing stands behind it.
func TestACutEndIsFoundWhileTheNodeRuns(t *testing.T) {
	w, ctx := newCluster(t, 0)[0], context.Background()
	w.decideSome(4)
	c := NewCheckpointer(w.Service)
	require.NoError(t, c.Advance(ctx))
	w.decideSome(3)
	conn, err := pgx.Connect(ctx, w.dsn)
	require.NoError(t, err)
	tag, err := conn.Exec(ctx, "DELETE FROM rows WHERE key = $1", []byte(entryOf(w, w.head.Load()-1)))
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	require.NoError(t, conn.Close(ctx))
	require.ErrorIs(t, c.Advance(ctx), error(&brokenLog{}))
	w.requireAlarm(entryMissing, len(w.leaves())-1)
}

// Each node has a tree and an identity of its own; checkpoints of one are none of another's.
func TestEachNodeSignsItsOwnLog(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	var origins []string
	for _, w := range nodes {
		w.decideSome(3)
		require.NoError(t, NewCheckpointer(w.Service).Advance(context.Background()))
	}
	for _, w := range nodes {
		origins = append(origins, w.checkpoint().Origin)
	}
	require.NotEqual(t, origins[0], origins[1])
	require.Len(t, nodes[0].treeRows(), 4, "a tile and a checkpoint for each")
	nodes[1].requireNothingFound()
}

// A checkpoint that comes while another process of the node's name makes one is not written: it is made anew, after that.
func TestACheckpointThatLostARaceIsMadeAnew(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.decideSome(2)
	one, other := NewCheckpointer(w.Service), NewCheckpointer(w.Service)
	raced := false
	w.store.before = func(c store.Change) error {
		if len(c.Put) > 0 && !raced {
			raced = true
			require.NoError(t, other.Advance(ctx))
		}
		return nil
	}
	decided := len(w.leaves())
	require.NoError(t, one.Advance(ctx))
	require.True(t, raced)
	require.EqualValues(t, decided, w.checkpoint().Tree.N, "the other one's; there is nothing else to sign")
	require.Len(t, w.leaves(), decided+1)
}
