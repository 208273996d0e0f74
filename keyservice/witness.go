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
	// Held returns the checkpoints that it holds of an installation, of all nodes, as signed.
	Held(ctx context.Context, installation string) ([][]byte, error)
}

const showWitness authz.Action = "audit.witness"

// What can be wrong with a witness.
const (
	checkpointContradicted = "audit checkpoint contradicted" // it holds a checkpoint that this log does not follow, or is older than
	witnessLost            = "audit witness lost"            // it holds less than it had taken
)

var (
	// ErrRollback: the database is older than a checkpoint of it that was kept elsewhere, or is another one.
	ErrRollback = errors.New("the database was rolled back")
	// ErrWitnessAway: nobody knows what the witness holds.
	ErrWitnessAway = errors.New("the witness cannot be asked")
	// ErrWitnessLost: the witness holds less of this node's log than it had taken. Whoever emptied it, or put another in its
	// place, could put back the database unseen.
	ErrWitnessLost = errors.New("the witness does not hold what it had taken")
	// ErrWitnessKnown: a witness that was declared a new one holds all that it had taken.
	ErrWitnessKnown = errors.New("the witness is not a new one")
)

// Publisher hands the checkpoints of one Checkpointer to a witness. What the witness had taken stands in the next
// checkpoint, so that a witness which lost it is not taken for one that has never had anything.
type Publisher struct {
	c       *Checkpointer
	w       Witness
	another bool // it takes the place of another one, and may hold nothing
	unasked bool // Begin could not ask it: Publish does, before it hands anything over

	held    atomic.Int64 // size of what the witness holds, as far as is known
	alarmed string       // what is wrong with it, once that stands in the log
	refused atomic.Bool
	away    atomic.Bool
}

// NewPublisher makes one.
func NewPublisher(c *Checkpointer, w Witness) *Publisher { return &Publisher{c: c, w: w} }

// PublisherStats is what the witness has, for metrics.
type PublisherStats struct {
	Size    int64 // of the checkpoint that it took last
	Refused bool  // it holds one that this node's contradicts, or lost what it had taken
	Away    bool  // it did not answer when it was last asked
}

// Stats returns what the witness has.
func (p *Publisher) Stats() PublisherStats {
	return PublisherStats{Size: p.held.Load(), Refused: p.refused.Load(), Away: p.away.Load()}
}

// Begin compares the database with what the witness holds of all nodes, as CheckAnchor does, and what it holds of this node
// with what it had taken: ErrWitnessAway, ErrWitnessLost. With another declares that it takes another one's place, and may
// hold less; ErrWitnessKnown unless it does. What none of this installation's keys signed says nothing of another node's log, and is
// passed over. It is called once, before Publish, which does it again if the witness could not be asked.
func (p *Publisher) Begin(ctx context.Context, another bool) error {
	s := p.c.s
	taken, err := s.witnessed(ctx)
	if err != nil {
		return err
	}
	notes, err := p.w.Held(ctx, s.installation())
	if err != nil {
		p.away.Store(true)
		p.another, p.unasked = another, true
		return fmt.Errorf("%w: %w", ErrWitnessAway, err)
	}
	held, err := s.compareHeld(ctx, notes)
	switch {
	case err != nil:
		return err
	case !another && held < taken:
		return fellBehind(held, taken)
	case another && taken > 0 && held >= taken:
		return fmt.Errorf("%w: it holds the first %d entries of %s", ErrWitnessKnown, held, s.Node)
	}
	p.another, p.unasked = another, false
	p.held.Store(held)
	return nil
}

// compareHeld holds the database against what a witness holds, and returns the size of what that is of this node.
func (s *Service) compareHeld(ctx context.Context, notes [][]byte) (held int64, err error) {
	for _, note := range notes {
		_, node, _ := audit.OriginOf(note) // CheckAnchor says what is wrong with it
		err := s.CheckAnchor(ctx, note)
		switch {
		case errors.Is(err, audit.ErrSignature) && !errors.Is(err, audit.ErrTampered) && node != s.Node: // of a stranger whom the witness trusts, too
			s.Log.WarnContext(ctx, "the witness holds a checkpoint that no audit key of this installation signed: look which keys it trusts for it", "of", node)
			continue
		case err != nil:
			return 0, err
		}
		if c, err := audit.PeekCheckpoint(note); err == nil && c.Origin == s.origin(s.Node) {
			held = c.Tree.N
		}
	}
	return held, nil
}

// beginLate asks the witness what Begin could not. What it says that a start would have refused is ErrWitnessLost or
// audit.ErrContradicted.
func (p *Publisher) beginLate(ctx context.Context) error {
	if !p.unasked {
		return nil
	}
	err := p.Begin(ctx, p.another)
	if errors.Is(err, ErrWitnessKnown) { // nothing was lost, so nothing need be declared
		err = p.Begin(ctx, false)
	}
	for _, wrong := range []error{ErrRollback, audit.ErrTampered, audit.ErrSignature, audit.ErrCheckpoint} {
		if errors.Is(err, wrong) {
			return fmt.Errorf("%w: %w", audit.ErrContradicted, err)
		}
	}
	return err
}

func fellBehind(held, taken int64) error {
	return fmt.Errorf("%w: %d entries of this node's log, of the %d that were handed to it", ErrWitnessLost, held, taken)
}

// witnessed is the size of the checkpoint that the newest stored one says the witness had taken; 0 if it says nothing.
func (s *Service) witnessed(ctx context.Context) (int64, error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return 0, storeError(err)
	}
	defer snap.Close()
	newest, err := s.storedCheckpoint(ctx, snap, s.Node, nil)
	return newest.Witness, err
}

// Publish hands over the newest checkpoint if the witness has it not yet. One that the witness contradicts, and a witness
// that lost what it had taken, is logged and alarmed once by each process: audit.ErrContradicted, ErrWitnessLost. It is
// for one goroutine at a time.
func (p *Publisher) Publish(ctx context.Context) error {
	newest := p.c.newest.Load()
	if newest == nil || newest.Tree.N == p.held.Load() {
		return nil
	}
	err := p.beginLate(ctx)
	if err == nil {
		err = p.hand(ctx, newest)
	}
	contradicted := errors.Is(err, audit.ErrContradicted)
	wrong := contradicted || errors.Is(err, ErrWitnessLost)
	p.away.Store(err != nil && !wrong)
	switch {
	case contradicted:
		return errors.Join(err, p.alarm(ctx, newest, checkpointContradicted, err))
	case wrong:
		return errors.Join(err, p.alarm(ctx, newest, witnessLost, err))
	case err != nil:
		return fmt.Errorf("handing a checkpoint to the witness: %w", err)
	}
	p.refused.Store(false)
	p.another = false
	p.held.Store(newest.Tree.N)
	p.c.witnessed.Store(newest.Tree.N)
	return nil
}

// hand offers a checkpoint, also to a witness that holds another one than the one it took last, as after a start.
func (p *Publisher) hand(ctx context.Context, newest *signed) error {
	taken := p.held.Load()
	if !p.another {
		taken = max(taken, newest.Witness)
	}
	err := p.offer(ctx, newest, taken)
	var stale *audit.StaleError
	if errors.As(err, &stale) && stale.Size > taken && stale.Size <= newest.Tree.N {
		err = p.offer(ctx, newest, stale.Size)
	}
	switch {
	case !errors.As(err, &stale):
		return err
	case stale.Size < taken:
		return fellBehind(stale.Size, taken)
	case stale.Size > newest.Tree.N:
		return fmt.Errorf("%w: %w, this node's newest is of size %d", audit.ErrContradicted, err, newest.Tree.N)
	}
	return err // another one was handed over meanwhile
}

// offer proves that the checkpoint follows the one of size old, which the witness is believed to hold, and hands it over.
func (p *Publisher) offer(ctx context.Context, newest *signed, old int64) error {
	o := audit.Offer{Old: old, Note: newest.row.Value}
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

func (p *Publisher) alarm(ctx context.Context, newest *signed, reason string, cause error) error {
	p.refused.Store(true)
	if p.alarmed == reason {
		return nil
	}
	p.c.s.Log.ErrorContext(ctx, "the witness contradicts this node's audit log", "error", cause.Error())
	head := &audit.Head{Size: uint64(newest.Tree.N), Root: newest.Tree.Hash[:]}
	d := decision{entry: audit.Entry{Outcome: audit.Tampered, Reason: reason, Tree: head}}
	_, err := p.c.s.commit(ctx, itself, showWitness, d)
	if err == nil {
		p.alarmed = reason
	}
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
	if err := s.requireRoot(ctx, node, stored.Tree, anchor.Tree); err != nil {
		return err
	}
	return s.requireControl(ctx, anchor)
}

// requireControl holds the key ring and the row of officers against a checkpoint that was kept elsewhere. Those of a restored
// database are not those of an earlier checkpoint. A row of officers that fails its check makes nobody an officer, and is
// alarmed wherever it is used.
func (s *Service) requireControl(ctx context.Context, anchor audit.Checkpoint) error {
	what, now, was := "key ring is", s.ring.Load().Revision, anchor.Ring
	if now >= was {
		o, _, err := s.loadOfficers(ctx)
		if isTampered(err) {
			return nil
		}
		if err != nil {
			return err
		}
		what, now, was = "officers are", o.Revision, anchor.Officers
	}
	if now >= was {
		return nil
	}
	r, err := s.loadRestored(ctx)
	if err != nil || anchor.Time.UnixMilli() <= r.At {
		return err
	}
	return fmt.Errorf("%w: its %s of revision %d, and revision %d was in use on %s", ErrRollback, what, now, was,
		anchor.Time.Format("2006-01-02 15:04:05 UTC"))
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
