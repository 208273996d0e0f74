package keyservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/store"
)

// A log may only go on where it ended. What a node's log was when the database was lost is known from the anchor, the newest
// checkpoint that a witness has: the entries up to there must be in the backup or the archive, and lead to its root. If some
// are missing the log is closed, for its next entries would have indexes that others have had, and the witness would say so.
// A node then begins a log under a new name.

// ErrOtherLog: what is to be restored is not what the witness has seen.
var ErrOtherLog = errors.New("the log contradicts its anchor")

// Anchor is a checkpoint that a witness has seen, as a proposal to restore names it.
type Anchor struct {
	Node string    `json:"node"`
	Root string    `json:"root"` // base64
	Size uint64    `json:"size"`
	Time time.Time `json:"time"` // when it was signed: the node was at work until then at least
}

// nodeLog is one node's log as it will be in the restored database.
type nodeLog struct {
	node   string
	first  uint64           // entries before this index are in the backup
	end    uint64           // those from there to before this one are in the archive
	anchor *Anchor          // nil: nobody knows where it ended
	newest audit.Checkpoint // in the archive; the zero one if that has nothing newer than the backup
	note   []byte           // … as signed
	stored audit.Checkpoint // the newest one in the backup
	tree   *audit.Builder   // of the entries up to end
}

// complete: everything is there that the witness has seen.
func (l *nodeLog) complete() bool { return l.anchor != nil && l.end >= l.anchor.Size }

// logs finds out what there is of each node's log.
func (r *restoring) findLogs(ctx context.Context) error {
	nodes := map[string]*nodeLog{}
	get := func(node string) *nodeLog {
		if nodes[node] == nil {
			nodes[node] = &nodeLog{node: node}
		}
		return nodes[node]
	}
	for _, l := range r.file.Header.Logs {
		log := get(l.Node)
		log.first = l.Entries
		if len(l.Checkpoint) == 0 {
			continue
		}
		c, err := audit.OpenCheckpoint(l.Checkpoint, r.service.origin(l.Node), r.auditKeys)
		if err != nil {
			return fmt.Errorf("the newest checkpoint of %s in the backup: %w", l.Node, err)
		}
		log.stored = c
	}
	for i, a := range r.parameters.Anchor {
		get(a.Node).anchor = &r.parameters.Anchor[i]
	}
	if r.Archive != nil {
		for _, node := range r.Archive.Nodes {
			get(node)
		}
	}
	if err := r.everyNode(slices.Collect(maps.Keys(nodes))); err != nil {
		return err
	}
	for _, node := range r.parameters.Nodes {
		get(node)
	}
	for _, l := range nodes {
		if err := r.findEnd(l); err != nil {
			return err
		}
		r.logs = append(r.logs, l)
	}
	slices.SortFunc(r.logs, func(a, b *nodeLog) int { return strings.Compare(a.node, b.node) })
	return nil
}

// everyNode holds the nodes that the officers name against those of which anything is there. A node that joined after the
// backup, and of which there is neither anchor nor archive, is known to people alone: so only what is named can be complete,
// and one that is named and of which nothing is there makes all doubtful. Officers who name none say that nobody knows.
func (r *restoring) everyNode(found []string) error {
	named := r.parameters.Nodes
	for i, node := range named {
		if store.CheckNode(node) != nil || i > 0 && named[i-1] >= node {
			return &Error{Code: CodeDocumentInvalid, Detail: "the nodes of a restore are names, sorted, each once"}
		}
	}
	slices.Sort(found)
	for _, node := range found {
		_, closed := r.before.closed(node)
		if len(named) > 0 && !closed && !slices.Contains(named, node) {
			return &Error{Code: CodeDocumentInvalid, Detail: fmt.Sprintf("the officers have agreed that no nodes but %s wrote to the database, and there is a log of %s: "+
				"sign what `ramzban restore parameters --node %s` prints, with every other node", strings.Join(named, ", "), node, node)}
		}
	}
	return nil
}

// findEnd finds out how far the archive goes on where the backup ends.
func (r *restoring) findEnd(l *nodeLog) error {
	l.end = l.first
	if r.Archive == nil || !slices.Contains(r.Archive.Nodes, l.node) {
		return nil
	}
	c, note, err := r.Archive.Newest(l.node, r.service.origin(l.node), r.auditKeys)
	if err == nil && uint64(c.Tree.N) > l.first {
		l.newest, l.note, l.end = c, note, uint64(c.Tree.N)
	}
	return err
}

// closedLogs are those that cannot go on.
func (r *restoring) closedLogs() (closed []closedLog, err error) {
	for _, l := range r.logs {
		if l.complete() {
			continue
		}
		c := closedLog{Node: l.node, Entries: l.end}
		if l.anchor != nil {
			root, err := l.anchor.root()
			if err != nil {
				return nil, err
			}
			c.Signed, c.Root = l.anchor.Size, root[:]
		}
		closed = append(closed, c)
	}
	return closed, nil
}

func (a Anchor) root() (tlog.Hash, error) {
	root, err := tlog.ParseHash(a.Root)
	if err != nil {
		return root, &Error{Code: CodeDocumentInvalid, Detail: "the root of an anchor is the SHA-256 that its checkpoint has, in base64", Err: err}
	}
	return root, nil
}

// grow makes each log's tree out of the backup's and the entries that follow, and holds it against the archive's checkpoint
// and the anchor. each is called with every entry of the archive, in the order of its log.
func (r *restoring) grow(ctx context.Context, each func(node string, index uint64, leaf []byte) error) error {
	for _, l := range r.logs {
		if err := r.growLog(ctx, l, each); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoring) growLog(ctx context.Context, l *nodeLog, each func(string, uint64, []byte) error) error {
	tree, err := audit.NewBuilder(l.node, l.stored.Tree, r.tiles(ctx))
	if err != nil {
		return fmt.Errorf("the tree of %s in the backup: %w", l.node, err)
	}
	l.tree = tree
	if err := r.checkAnchor(ctx, l); err != nil { // also of an anchor that is older than the backup
		return err
	}
	add := func(index uint64, leaf []byte) error {
		if index != uint64(tree.Size()) {
			return fmt.Errorf("%w: entry %d of %s is missing in the backup", audit.ErrTampered, tree.Size(), l.node)
		}
		tree.Add(tlog.RecordHash(leaf))
		return r.passed(l)
	}
	if err := r.backupEntries(ctx, l, add); err != nil {
		return err
	}
	if uint64(tree.Size()) != l.first {
		return fmt.Errorf("%w: the log of %s in the backup ends with %d entries, and its header tells of %d", backup.ErrDamaged, l.node, tree.Size(), l.first)
	}
	if l.end == l.first {
		return nil
	}
	return r.Archive.Each(ctx, l.node, l.first, l.end, func(index uint64, leaf []byte) error {
		if err := each(l.node, index, leaf); err != nil {
			return err
		}
		return add(index, leaf)
	})
}

// backupEntries calls fn for the entries of the backup that its newest checkpoint does not tell of.
func (r *restoring) backupEntries(ctx context.Context, l *nodeLog, fn func(uint64, []byte) error) error {
	prefix := audit.NodePrefix(l.node)
	from := audit.EntryKey(audit.Position{Node: l.node, Index: uint64(l.stored.Tree.N)})
	return r.file.Range(ctx, prefix, from, func(row store.Put) error {
		p, leaf, err := r.service.Audit.Leaf(store.Item{Key: row.Key, Value: row.Value, Version: 1})
		if err != nil {
			return err
		}
		return fn(p.Index, leaf)
	})
}

// checkAnchor holds an anchor against the tree of the backup, which already has as many entries.
func (r *restoring) checkAnchor(ctx context.Context, l *nodeLog) error {
	if l.anchor == nil || l.anchor.Size > uint64(l.stored.Tree.N) {
		return nil
	}
	root, err := audit.RootAt(l.stored.Tree, int64(l.anchor.Size), audit.Hashes(l.node, l.stored.Tree, r.tiles(ctx)))
	if err != nil {
		return err
	}
	return l.compare(root)
}

// passed holds the tree against what is known of the size that it has just reached.
func (r *restoring) passed(l *nodeLog) error {
	size := uint64(l.tree.Size())
	signed, seen := l.note != nil && size == l.end, l.anchor != nil && size == l.anchor.Size
	if !signed && !seen {
		return nil
	}
	tree, err := l.tree.Tree()
	if err != nil {
		return err
	}
	if signed && tree.Hash != l.newest.Tree.Hash {
		return fmt.Errorf("%w: the archive's log of %s is not the one that its checkpoint was signed for, or does not follow the backup", audit.ErrTampered, l.node)
	}
	if seen {
		return l.compare(tree.Hash)
	}
	return nil
}

func (l *nodeLog) compare(root tlog.Hash) error {
	want, err := l.anchor.root()
	if err != nil {
		return err
	}
	if root != want {
		return fmt.Errorf("%w: the first %d entries of %s are not those that the anchor tells of: this is another log, or its past was changed",
			ErrOtherLog, l.anchor.Size, l.node)
	}
	return nil
}

// tiles reads rows of the backup's trees. There are as many as the height of a tree.
func (r *restoring) tiles(ctx context.Context) audit.ReadRows {
	return func(keys []store.Key) ([]store.Item, error) {
		items := make([]store.Item, len(keys))
		for i, key := range keys {
			row, err := r.row(ctx, key)
			if err != nil {
				return nil, err
			}
			items[i] = row
		}
		return items, nil
	}
}

// row reads one row of the backup; an absent one has version 0.
func (r *restoring) row(ctx context.Context, key store.Key) (store.Item, error) {
	it := store.Item{Key: key}
	err := r.file.Range(ctx, key, key, func(row store.Put) error {
		if row.Key == key {
			it.Value, it.Version = row.Value, 1
		}
		return nil
	})
	return it, err
}

// latestTime is the latest time that anything tells of.
func (r *restoring) latestTime() time.Time {
	latest := time.UnixMilli(max(r.file.Header.Time, r.replay.latest, r.before.At))
	for _, l := range r.logs {
		for _, t := range []time.Time{l.stored.Time, l.newest.Time, l.anchored()} {
			if t.After(latest) {
				latest = t
			}
		}
	}
	return latest.UTC()
}

func (l *nodeLog) anchored() time.Time {
	if l.anchor == nil {
		return time.Time{}
	}
	return l.anchor.Time
}

// fromThen is what the fence is counted from: now, and no clock that is behind makes it lower. One that is ahead makes it
// higher, by less than the officers' documents are good for.
func (r *restoring) fromThen(latest time.Time) (time.Time, error) {
	now := r.Clock()
	if latest.Sub(now) > maxClockLag {
		return time.Time{}, &Error{Code: CodeInvalid, Detail: fmt.Sprintf("this machine's clock says %s, and what is to be restored goes up to %s: set the clock; "+
			"if it is right, that of a node was wrong: wait until then", now.UTC().Format(time.RFC3339), latest.Format(time.RFC3339))}
	}
	if !latest.Before(now) {
		return latest.Add(time.Millisecond), nil
	}
	return now, nil
}

// maxClockLag is how far this machine's clock may be behind what it restores.
const maxClockLag = 5 * time.Minute

// MaxRestoreLife is how long a proposal to restore may be good for: while it is, one person alone can carry it out again.
const MaxRestoreLife = 24 * time.Hour

// notUsed refuses documents that were carried out before, as far as what is restored can tell, and those that are older than
// the loss: what the officers knew of was not lost then. Documents have whole seconds.
func (r *restoring) notUsed(latest time.Time) error {
	id := approval.ID(r.Proposal.Document)
	if id == r.before.Proposal || r.replay.control.restores[id] {
		return &Error{Code: CodeProposalClosed, Detail: "this proposal was carried out before: to restore once more two officers must sign another one"}
	}
	if made := r.proposal.CreatedAt; made.Before(latest.Truncate(time.Second)) {
		return &Error{Code: CodeProposalClosed, Detail: fmt.Sprintf("the officers' proposal was made at %s, and what is to be restored goes up to %s: "+
			"two officers must sign another one", made.Format(time.RFC3339), latest.Format(time.RFC3339))}
	}
	return nil
}
