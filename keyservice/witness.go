package keyservice

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
)

// Witness keeps the newest checkpoint of each node where whoever holds the database does not reach it. It takes a new one
// only if it is proven to follow the one before.
type Witness interface {
	// Offer hands over a checkpoint. *audit.StaleError: the witness holds another one than the offer says;
	// audit.ErrContradicted: what it holds is of another log, or the log's past was changed.
	Offer(ctx context.Context, o audit.Offer) error
	// Held returns the checkpoints that it holds, of all nodes, as signed.
	Held(ctx context.Context) ([][]byte, error)
}

const showWitness authz.Action = "audit.witness"

// checkpointContradicted: the witness holds a checkpoint that this log does not follow, or is older than.
const checkpointContradicted = "audit checkpoint contradicted"

// ErrRollback: the database is older than a checkpoint of it that was kept elsewhere, or is another one.
var ErrRollback = errors.New("the database was rolled back")

// Publisher hands the checkpoints of one Checkpointer to a witness.
type Publisher struct {
	c *Checkpointer
	w Witness

	held    atomic.Int64 // size of what the witness holds, as far as is known
	alarmed bool
	refused atomic.Bool
}

// NewPublisher makes one.
func NewPublisher(c *Checkpointer, w Witness) *Publisher { return &Publisher{c: c, w: w} }

// PublisherStats is what the witness has, for metrics.
type PublisherStats struct {
	Size    int64 // of the checkpoint that it took last
	Refused bool  // it holds one that this node's contradicts
}

// Stats returns what the witness has.
func (p *Publisher) Stats() PublisherStats {
	return PublisherStats{Size: p.held.Load(), Refused: p.refused.Load()}
}

// Publish hands over the newest checkpoint if the witness has it not yet. One that the witness contradicts is logged and
// alarmed once by each process: audit.ErrContradicted. It is for one goroutine at a time.
func (p *Publisher) Publish(ctx context.Context) error {
	newest := p.c.newest.Load()
	if newest == nil || newest.Tree.N == p.held.Load() {
		return nil
	}
	err := p.offer(ctx, newest)
	var stale *audit.StaleError
	if errors.As(err, &stale) && stale.Size <= newest.Tree.N { // as after a start
		p.held.Store(stale.Size)
		err = p.offer(ctx, newest)
	}
	if errors.As(err, &stale) && stale.Size > newest.Tree.N {
		err = fmt.Errorf("%w: %w, this node's newest is of size %d", audit.ErrContradicted, err, newest.Tree.N)
	}
	if errors.Is(err, audit.ErrContradicted) {
		return errors.Join(err, p.alarm(ctx, newest, err))
	}
	if err != nil {
		return fmt.Errorf("handing a checkpoint to the witness: %w", err)
	}
	p.refused.Store(false)
	p.held.Store(newest.Tree.N)
	return nil
}

// offer proves that the checkpoint follows the one that the witness is believed to hold, and hands it over.
func (p *Publisher) offer(ctx context.Context, newest *signed) error {
	o := audit.Offer{Old: p.held.Load(), Note: newest.row.Value}
	if o.Old > 0 && o.Old < newest.Tree.N {
		s := p.c.s
		proof, err := audit.ProveConsistency(newest.Tree, o.Old, newest.Tree.N, audit.Hashes(s.Node, newest.Tree, s.tiles(ctx)))
		if err != nil {
			return err
		}
		o.Proof = proof
	}
	return p.w.Offer(ctx, o)
}

func (p *Publisher) alarm(ctx context.Context, newest *signed, cause error) error {
	p.refused.Store(true)
	if p.alarmed {
		return nil
	}
	p.c.s.Log.ErrorContext(ctx, "the witness contradicts this node's audit log", "error", cause.Error())
	head := &audit.Head{Size: uint64(newest.Tree.N), Root: newest.Tree.Hash[:]}
	d := decision{entry: audit.Entry{Outcome: audit.Tampered, Reason: checkpointContradicted, Tree: head}}
	_, err := p.c.s.commit(ctx, itself, showWitness, d)
	p.alarmed = err == nil
	return err
}

// CheckAnchor compares the database with a signed checkpoint that was kept elsewhere, of any node: ErrRollback unless that
// node's log begins with what it says. audit.ErrSignature or audit.ErrCheckpoint: it is no checkpoint of this
// installation. A checkpoint is kept elsewhere only after it was committed, so an older database never has it.
func (s *Service) CheckAnchor(ctx context.Context, note []byte) error {
	_, node, err := audit.OriginOf(note)
	if err != nil {
		return err
	}
	keys, err := s.PublicAuditKeys(ctx)
	if err != nil {
		return hsmError(err)
	}
	anchor, err := audit.OpenCheckpoint(note, s.origin(node), keys)
	if err != nil {
		return err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return storeError(err)
	}
	defer snap.Close()
	stored, err := s.storedCheckpoint(ctx, snap, node, nil)
	if err != nil {
		return err
	}
	end, err := s.logEnd(ctx, snap, node)
	if err != nil {
		return storeError(err)
	}
	if stored.Tree.N < anchor.Tree.N || end < uint64(anchor.Tree.N) {
		if declared, err := s.declared(ctx, node, anchor.Tree); err != nil || declared {
			return err
		}
		return fmt.Errorf("%w: on %s %d entries of %s were signed, and it has %d of them", ErrRollback,
			anchor.Time.Format("2006-01-02 15:04:05 UTC"), anchor.Tree.N, node, min(uint64(stored.Tree.N), end))
	}
	return s.requireRoot(ctx, node, stored.Tree, anchor.Tree)
}

// requireRoot holds the tree of a node against an earlier one of it.
func (s *Service) requireRoot(ctx context.Context, node string, now, before tlog.Tree) error {
	root, err := audit.RootAt(now, before.N, audit.Hashes(node, now, s.tiles(ctx)))
	if err != nil {
		return broken(treeChanged, nil, err)
	}
	if root != before.Hash {
		return fmt.Errorf("%w: the first %d entries of %s are not those that were signed", ErrRollback, before.N, node)
	}
	return nil
}
