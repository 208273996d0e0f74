package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
)

// Found is an entry and where it stands.
type Found struct {
	Node  string
	Index uint64
	Leaf  []byte
	time  int64
}

// Nearest picks, of all entries that it is shown, those of one token that are nearest to a moment: the last one until then,
// and the first one afterwards.
type Nearest struct {
	serial        string
	at            int64
	before, after *Found
}

// NewNearest looks for a token's entries around a moment.
func NewNearest(serial string, at time.Time) *Nearest {
	return &Nearest{serial: serial, at: at.UnixMilli()}
}

// Show shows it one entry. The entries of one node come in their order; the nodes in any.
func (n *Nearest) Show(node string, index uint64, leaf []byte) error {
	e, err := audit.Decode(leaf)
	if err != nil {
		return fmt.Errorf("%w: entry %d of %s: %w", ErrArchive, index, node, err)
	}
	if !about(e, n.serial) {
		return nil
	}
	f := &Found{node, index, leaf, e.Time}
	switch {
	case e.Time <= n.at && (n.before == nil || e.Time >= n.before.time):
		n.before = f
	case e.Time > n.at && (n.after == nil || e.Time < n.after.time):
		n.after = f
	}
	return nil
}

// Found returns at most two entries, the earlier one first.
func (n *Nearest) Found() (found []Found) {
	for _, f := range []*Found{n.before, n.after} {
		if f != nil {
			found = append(found, *f)
		}
	}
	return found
}

// Prove makes the bundle of a token's entries nearest to a moment, out of an archive. It looks only at what its newest
// checkpoints tell of.
func Prove(ctx context.Context, archive fs.FS, serial string, at time.Time) (Bundle, error) {
	names, err := nodes(archive)
	if err != nil {
		return Bundle{}, err
	}
	nearest, logs := NewNearest(serial, at), map[string]proving{}
	for _, node := range names {
		p, err := newProving(archive, node)
		if err != nil {
			return Bundle{}, fmt.Errorf("%s: %w", node, err)
		}
		if err := p.show(ctx, nearest); err != nil {
			return Bundle{}, fmt.Errorf("%s: %w", node, err)
		}
		logs[node] = p
	}
	b := Bundle{Serial: serial, Time: at, Checkpoints: map[string][]byte{}}
	for _, f := range nearest.Found() {
		if err := logs[f.Node].prove(f, &b); err != nil {
			return Bundle{}, fmt.Errorf("%s: %w", f.Node, err)
		}
	}
	if b.Entries == nil {
		return Bundle{}, fmt.Errorf("%w: it has no entry of this token", ErrArchive)
	}
	return b, nil
}

// proving is one node's log while proofs are made in it.
type proving struct {
	node     string
	dir      fs.FS
	segments []segment
	signed   []byte // the newest checkpoint
	size     uint64 // that it tells of
	keys     []audit.PublicKey
}

func newProving(archive fs.FS, node string) (proving, error) {
	dir, err := fs.Sub(archive, node)
	if err != nil {
		return proving{}, err
	}
	c, err := list(dir)
	if err != nil {
		return proving{}, err
	}
	if len(c.checkpoints) == 0 || c.checkpoints[len(c.checkpoints)-1] == 0 {
		return proving{}, fmt.Errorf("%w: it has no checkpoint: export again", ErrArchive)
	}
	p := proving{node: node, dir: dir, segments: c.segments, size: c.checkpoints[len(c.checkpoints)-1]}
	if p.signed, err = readFile(dir, checkpointName(p.size), maxNote); err != nil {
		return proving{}, err
	}
	text, err := readFile(dir, KeysFile, maxNote)
	if err != nil {
		return proving{}, err
	}
	p.keys, err = audit.ParsePublicKeys(text)
	return p, err
}

// show shows all entries that are there.
func (p proving) show(ctx context.Context, n *Nearest) error {
	for _, s := range p.segments {
		if !s.entries {
			continue
		}
		if err := p.showSegment(ctx, s, n); err != nil {
			return fmt.Errorf("%s: %w: verify the archive", s.entriesName(), err)
		}
	}
	return nil
}

func (p proving) showSegment(ctx context.Context, s segment, n *Nearest) error {
	return eachLine(p.dir, s, func(number uint64, b []byte) error {
		if s.first+number >= min(s.end(), p.size) {
			return errEnough
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := readLine(b)
		if err == nil && l.index != s.first+number {
			err = fmt.Errorf("%w: entry %d is not where it belongs", ErrArchive, l.index)
		}
		if err != nil {
			return err
		}
		return n.Show(p.node, l.index, l.leaf)
	})
}

// prove adds an entry, with its proof, to the bundle.
func (p proving) prove(f Found, b *Bundle) error {
	proof, err := tlog.ProveRecord(int64(p.size), int64(f.Index), tlog.HashReaderFunc(p.hashes))
	if err != nil {
		return fmt.Errorf("proving entry %d: %w", f.Index, err)
	}
	b.Entries = append(b.Entries, Proven{f.Index, f.Leaf, proof})
	b.Checkpoints[p.node] = p.signed
	b.AddKeys(p.keys)
	return nil
}

// hashes reads hashes of the tree.
func (p proving) hashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		subtree, err := p.subtree(uint64(n)<<level, uint64(n+1)<<level)
		if err != nil {
			return nil, err
		}
		found[i] = subtree
	}
	return found, nil
}

var errNoHashes = errors.New("the hashes of some entries are not in the archive: verify it")

// subtree is the root over the entries from first to before end.
func (p proving) subtree(first, end uint64) (tlog.Hash, error) {
	var f frontier
	for _, s := range p.segments {
		if s.end() <= first || s.first >= end {
			continue
		}
		known, err := readHashes(p.dir, s)
		if err != nil {
			return tlog.Hash{}, fmt.Errorf("%w: %w", errNoHashes, err)
		}
		for i := max(first, s.first); i < min(end, s.end()); i++ {
			f.add(known.at(i - s.first))
		}
	}
	if f.size != end-first {
		return tlog.Hash{}, errNoHashes
	}
	return f.root(), nil
}
