package keyservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// A node reads back what it committed, puts it into the Merkle tree of its log, and signs the tree: a checkpoint. That is
// not done where entries are committed, because it would hold them up, and because what was read back from disk is what
// the checkpoint is to vouch for. Tiles, checkpoint and an entry that says so are one commit, which requires that the
// checkpoint before it is still the newest: so a checkpoint never goes back, and a crash leaves either all or nothing.
//
// That entry is in the tree of the next checkpoint. Checkpoints are signed for the sake of other entries only: where
// nothing was decided since, there is none.

const signCheckpoint authz.Action = "audit.checkpoint"

// checkpointChunk is how many entries one checkpoint adds at most, so that catching up takes bounded memory, and commits
// that hold up nobody: 64 full tiles of 8 KiB.
const checkpointChunk = 1 << 14

// checkpointLimit bounds the making of one checkpoint, of checkpointChunk entries at most.
const checkpointLimit = 30 * time.Second

// What can be wrong with a log besides its entries; see entryChanged and entryMissing.
const (
	treeChanged       = "audit tree changed"        // the tiles do not lead to the root that was signed
	checkpointChanged = "audit checkpoint changed"  // it carries no signature of the audit key, or contradicts the log
	checkpointBack    = "audit checkpoint put back" // the log tells of a newer one
)

// brokenLog: what is stored of a node's log is not what the node wrote. Nothing is signed before that is mended.
type brokenLog struct {
	reason string
	before *audit.Head // the tree of the entries that are right; nil if it is not known
	err    error
}

func (b *brokenLog) Error() string { return fmt.Sprintf("%s: %v", b.reason, b.err) }
func (b *brokenLog) Unwrap() error { return b.err }

// signed is a checkpoint with its row: the note.
type signed struct {
	audit.Checkpoint
	row store.Item
}

// Checkpointer signs what this node's log has become. There is one for each Service.
type Checkpointer struct {
	s     *Service
	chunk int64
	mu    sync.Mutex // held while a checkpoint is made

	newest    atomic.Pointer[signed] // that this process has seen; nil: none
	witnessed atomic.Int64           // size of the one that the witness took last; 0: none yet, as far as this process knows
	quiet     uint64                 // up to this index there is nothing to sign
	alarmed   string                 // what is wrong with the log, once it stands there
	broken    atomic.Bool            // nothing can be signed because of that
}

// NewCheckpointer makes the Checkpointer of a service.
func NewCheckpointer(s *Service) *Checkpointer {
	return &Checkpointer{s: s, chunk: checkpointChunk, quiet: math.MaxUint64}
}

// CheckpointStats is how far checkpoints have come, for metrics.
type CheckpointStats struct {
	Size    uint64    // of the newest checkpoint
	Time    time.Time // when it was made; zero: there is none yet
	Waiting uint64    // entries that are in no checkpoint yet
	Broken  bool      // nothing is signed: the log was changed in the database
}

// Stats returns how far checkpoints have come.
func (c *Checkpointer) Stats() CheckpointStats {
	st := CheckpointStats{Broken: c.broken.Load(), Waiting: c.s.head.Load()}
	if newest := c.newest.Load(); newest != nil {
		st.Size, st.Time = uint64(newest.Tree.N), newest.Time
		st.Waiting = max(st.Waiting, st.Size) - st.Size
	}
	return st
}

// Advance makes checkpoints until everything that was committed before the call is in one. An entry that was changed or is
// missing, or a tree or checkpoint that contradicts the log, is an error that wraps audit.ErrTampered: nothing is signed
// from there on. That is logged and alarmed once by each process.
func (c *Checkpointer) Advance(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conflicts := 0; ; {
		full, err := c.stepInTime(ctx)
		if errors.Is(err, store.ErrConflict) && conflicts < maxConflicts {
			conflicts++ // such as with a change of the key ring
			continue
		}
		if err != nil {
			return c.failed(ctx, err)
		}
		c.broken.Store(false)
		if !full {
			return nil
		}
	}
}

// failed alarms a broken log.
func (c *Checkpointer) failed(ctx context.Context, err error) error {
	var b *brokenLog
	if !errors.As(err, &b) {
		return err
	}
	c.broken.Store(true)
	if c.alarmed == b.Error() {
		return err
	}
	c.s.Log.ErrorContext(ctx, "the audit log was changed in the database: no checkpoint is signed", "error", b.Error())
	d := decision{entry: audit.Entry{Outcome: audit.Tampered, Reason: b.reason, Tree: b.before}}
	if _, cerr := c.s.commit(ctx, itself, signCheckpoint, d); cerr != nil {
		return errors.Join(err, cerr)
	}
	c.alarmed = b.Error()
	return err
}

// stepInTime is step with a bound, so that a database or an HSM that hangs is told of, and tried again.
func (c *Checkpointer) stepInTime(ctx context.Context) (full bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkpointLimit)
	defer cancel()
	return c.step(ctx)
}

// step makes one checkpoint, if there is anything to sign, and tells whether it was as long as one may be.
func (c *Checkpointer) step(ctx context.Context) (full bool, err error) {
	head := c.s.head.Load() // before the snapshot: whatever is below it must be there
	if head == c.quiet {
		return false, nil
	}
	snap, err := c.s.Store.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	defer snap.Close()
	before, err := c.previous(ctx, snap)
	if err != nil {
		return false, err
	}
	b, err := audit.NewBuilder(c.s.Node, before.Tree, c.s.tiles(ctx))
	if err != nil {
		return false, broken(treeChanged, nil, err)
	}
	decisions, err := c.grow(ctx, snap, before, b, head)
	if err != nil {
		return false, err
	}
	full = b.Size()-before.Tree.N == c.chunk
	if decisions == 0 && !full {
		c.quiet = head
		return false, nil
	}
	return full, c.sign(ctx, before, b)
}

// broken makes a brokenLog of tampering, and leaves what else may have happened as it is.
func broken(reason string, before *audit.Head, err error) error {
	if errors.Is(err, audit.ErrTampered) || errors.Is(err, audit.ErrSignature) || errors.Is(err, audit.ErrCheckpoint) {
		return &brokenLog{reason, before, err}
	}
	return err
}

// previous reads the newest checkpoint, the zero one if there is none yet. One that this process has not seen is checked.
func (c *Checkpointer) previous(ctx context.Context, snap store.Snapshot) (signed, error) {
	now, err := c.s.storedCheckpoint(ctx, snap, c.s.Node, c.newest.Load())
	if err != nil {
		return signed{}, err
	}
	last := c.newest.Load()
	switch {
	case last == nil:
		if err := c.checkLast(ctx, snap, now); err != nil {
			return signed{}, err
		}
	case now.Tree.N < last.Tree.N, now.Tree.N == last.Tree.N && now.Tree.Hash != last.Tree.Hash:
		err := fmt.Errorf("%w: it was of size %d, and is of size %d", audit.ErrTampered, last.Tree.N, now.Tree.N)
		return signed{}, broken(checkpointBack, nil, err)
	}
	if now.row.Version != 0 {
		c.newest.Store(&now)
	}
	return now, nil
}

// checkLast looks, when a process begins, for the last entry that was signed: it is still there. Where the end of a log was
// cut off, and other entries have been written in its place since, they are not what was signed.
func (c *Checkpointer) checkLast(ctx context.Context, snap store.Snapshot, now signed) error {
	if now.Tree.N == 0 {
		return nil
	}
	at := c.s.position(uint64(now.Tree.N - 1))
	row, err := rowIn(ctx, snap, audit.EntryKey(at))
	if err != nil {
		return err
	}
	if row.Version == 0 {
		return broken(entryMissing, nil, fmt.Errorf("%w: entry %d of %s, which was signed, is missing", audit.ErrTampered, at.Index, at.Node))
	}
	_, leaf, err := c.s.Audit.Leaf(row)
	if err != nil {
		return broken(entryChanged, nil, err)
	}
	signed, err := audit.Hashes(at.Node, now.Tree, c.s.tiles(ctx)).ReadHashes([]int64{tlog.StoredHashIndex(0, now.Tree.N-1)})
	if err != nil {
		return broken(treeChanged, nil, err)
	}
	if signed[0] != tlog.RecordHash(leaf) {
		return broken(entryChanged, nil, fmt.Errorf("%w: entry %d of %s is not the one that was signed", audit.ErrTampered, at.Index, at.Node))
	}
	return nil
}

// storedCheckpoint reads a node's newest checkpoint; the zero one if there is none. One that is known already is not
// checked again.
func (s *Service) storedCheckpoint(ctx context.Context, snap store.Snapshot, node string, known *signed) (signed, error) {
	row, err := rowIn(ctx, snap, audit.CheckpointKey(node))
	if err != nil || row.Version == 0 {
		return signed{row: row}, err
	}
	if known != nil && known.row.Version == row.Version && bytes.Equal(known.row.Value, row.Value) {
		return *known, nil
	}
	keys, err := s.PublicAuditKeys(ctx)
	if err != nil {
		return signed{}, err
	}
	c, err := audit.OpenCheckpoint(row.Value, s.origin(node), keys)
	if err != nil {
		return signed{}, broken(checkpointChanged, nil, err)
	}
	return signed{c, row}, nil
}

// rowIn reads one row of a snapshot; an absent one has version 0.
func rowIn(ctx context.Context, snap store.Snapshot, key store.Key) (store.Item, error) {
	row := store.Item{Key: key}
	err := snap.Scan(ctx, key, key, func(it store.Item) error {
		if it.Key == key {
			row = it
		}
		return errFound
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return row, err
}

// tiles reads rows of tiles.
func (s *Service) tiles(ctx context.Context) audit.ReadRows {
	return func(keys []store.Key) ([]store.Item, error) { return s.Store.Get(ctx, keys...) }
}

// grow puts the entries after the newest checkpoint into the tree, and counts those that are not a checkpoint's own. Every
// index below head must have one.
func (c *Checkpointer) grow(ctx context.Context, snap store.Snapshot, before signed, b *audit.Builder, head uint64) (decisions int, err error) {
	var heads []audit.Head
	end := before.Tree.N + c.chunk
	from := c.s.position(uint64(before.Tree.N))
	err = snap.Scan(ctx, audit.NodePrefix(from.Node), audit.EntryKey(from), func(it store.Item) error {
		if b.Size() == end {
			return errChunkFull
		}
		leaf, err := c.next(it, b)
		if err != nil {
			return err
		}
		b.Add(tlog.RecordHash(leaf))
		own, err := ownHead(leaf)
		if own != nil {
			heads = append(heads, *own)
		} else {
			decisions++
		}
		return err
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return 0, err
	}
	if uint64(b.Size()) < min(head, uint64(end)) {
		return 0, entryBroken(entryMissing, b, fmt.Errorf("%w: entry %d of %s is missing", audit.ErrTampered, b.Size(), c.s.Node))
	}
	return decisions, c.checkHeads(ctx, before, heads)
}

// next returns the entry that must stand in this row: the one of the tree's next index.
func (c *Checkpointer) next(it store.Item, b *audit.Builder) ([]byte, error) {
	p, leaf, err := c.s.Audit.Leaf(it)
	switch {
	case p.Index > uint64(b.Size()):
		return nil, entryBroken(entryMissing, b, fmt.Errorf("%w: entry %d of %s is missing", audit.ErrTampered, b.Size(), c.s.Node))
	case err != nil:
		return nil, entryBroken(entryChanged, b, err)
	}
	return leaf, nil
}

// entryBroken is what is wrong with the tree's next entry.
func entryBroken(reason string, b *audit.Builder, cause error) error {
	before, err := headOf(b)
	if err != nil {
		return err
	}
	return broken(reason, before, cause)
}

// headOf is the tree as entries tell of it.
func headOf(b *audit.Builder) (*audit.Head, error) {
	tree, err := b.Tree()
	if err != nil {
		return nil, fmt.Errorf("the root of the audit log's tree: %w", err)
	}
	return &audit.Head{Size: uint64(tree.N), Root: tree.Hash[:]}, nil
}

// ownHead returns what a checkpoint's own entry says; nil for every other entry. Most are not decoded for it: only those
// that contain the action's name can be one.
func ownHead(leaf []byte) (*audit.Head, error) {
	if !bytes.Contains(leaf, []byte(signCheckpoint)) {
		return nil, nil //nolint:nilnil // no checkpoint's entry
	}
	e, err := audit.Decode(leaf)
	if err != nil || e.Action != string(signCheckpoint) || e.Outcome != audit.Done {
		return nil, err
	}
	return e.Tree, nil
}

// checkHeads holds what the log says of earlier checkpoints against the newest one: it was not put back, and the tree had
// those roots.
func (c *Checkpointer) checkHeads(ctx context.Context, before signed, heads []audit.Head) error {
	hashes := audit.Hashes(c.s.Node, before.Tree, c.s.tiles(ctx))
	for _, h := range heads {
		if h.Size > uint64(before.Tree.N) {
			err := fmt.Errorf("%w: the log tells of one of size %d, the newest stored one is of size %d", audit.ErrTampered, h.Size, before.Tree.N)
			return broken(checkpointBack, nil, err)
		}
		root, err := audit.RootAt(before.Tree, int64(h.Size), hashes)
		if err != nil {
			return broken(treeChanged, nil, err)
		}
		if !bytes.Equal(root[:], h.Root) {
			err := fmt.Errorf("%w: the log says that the root of size %d was another one", audit.ErrTampered, h.Size)
			return broken(checkpointChanged, nil, err)
		}
	}
	return nil
}

// sign signs the tree and makes it durable.
func (c *Checkpointer) sign(ctx context.Context, before signed, b *audit.Builder) error {
	head, err := headOf(b)
	if err != nil {
		return err
	}
	ring := c.s.ring.Load()
	officers, err := c.s.officersRevision(ctx)
	if err != nil {
		return err
	}
	next := signed{Checkpoint: audit.Checkpoint{
		Origin: c.s.origin(c.s.Node), Tree: tlog.Tree{N: int64(head.Size), Hash: tlog.Hash(head.Root)},
		Time: c.s.Clock().UTC().Truncate(time.Millisecond),
		Ring: ring.Revision, Officers: max(before.Officers, officers), Witness: max(before.Witness, c.witnessed.Load()),
	}}
	note, err := next.Sign(ctx, c.s.signAudit)
	if err != nil {
		return hsmError(err)
	}
	d := decision{
		ring: ring,
		change: store.Change{
			Require: requireItems([]store.Item{before.row}),
			Put:     append(b.Rows(), store.Put{Key: before.row.Key, Value: note}),
		},
		entry: audit.Entry{Outcome: audit.Done, Tree: head},
	}
	if _, err := c.s.commit(ctx, itself, signCheckpoint, d); err != nil {
		return err
	}
	next.row = store.Item{Key: before.row.Key, Value: note} // its version is learnt when it is read next
	c.newest.Store(&next)
	return nil
}
