package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"ramzban/keyservice/store"
)

// queued is how many changes may wait for a batch before Commit waits for room.
const queued = 4096

// batchSlack is set aside in every transaction for Badger's end mark, the engine's row, and rows that the Sequencer adds
// per batch.
var batchSlack = weight{rows: 64, bytes: 64 << 10}

// committer is the only writer. Its goroutine owns batch, next, carry and full; callers meet it at the queue.
type committer struct {
	s     *Store
	limit weight // of one transaction

	intake sync.RWMutex // held for reading while a change is put in the queue, for writing to close it
	closed bool
	queue  chan *member
	ended  chan struct{}

	failed chan struct{} // closed when the engine has failed
	cause  error         // set before failed is closed

	batch uint64  // number of the last durable batch
	next  uint64  // index of the next change
	carry *member // did not fit into the last batch
	full  bool    // the last batch was refused for want of space
}

func newCommitter(s *Store, batch, next uint64) *committer {
	return &committer{
		s:      s,
		limit:  weight{rows: s.db.MaxBatchCount() - batchSlack.rows, bytes: s.db.MaxBatchSize() - batchSlack.bytes},
		queue:  make(chan *member, queued),
		ended:  make(chan struct{}),
		failed: make(chan struct{}),
		batch:  batch,
		next:   next,
	}
}

// admit checks and copies a change.
func (c *committer) admit(change store.Change) (*member, error) {
	m, err := newMember(change)
	if err != nil {
		return nil, err
	}
	if !m.weight.fits(c.limit) {
		return nil, fmt.Errorf("the change is too large for one transaction: it takes %d rows and %d bytes of at most %d and %d: divide it",
			m.weight.rows, m.weight.bytes, c.limit.rows, c.limit.bytes)
	}
	return m, nil
}

// enqueue puts a member in the queue. After an error it is not there and never will be.
func (c *committer) enqueue(ctx context.Context, m *member) error {
	c.intake.RLock()
	defer c.intake.RUnlock()
	if c.closed {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case c.queue <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close ends the intake and waits until everything in the queue is answered.
func (c *committer) close() {
	c.intake.Lock()
	c.closed = true
	close(c.queue)
	c.intake.Unlock()
	<-c.ended
}

func (c *committer) run() {
	defer close(c.ended)
	for {
		members := c.collect()
		if len(members) == 0 {
			return
		}
		c.commit(members)
	}
}

// collect waits for a change and takes those that are queued behind it, as many as fit into a transaction. It returns
// none when the queue is closed and empty.
func (c *committer) collect() []*member {
	first := c.carry
	c.carry = nil
	if first == nil {
		first = <-c.queue
	}
	if first == nil {
		return nil
	}
	c.letCome()
	members, total := []*member{first}, first.weight
	for {
		select {
		case m := <-c.queue:
			if m == nil {
				return members
			}
			if total = total.plus(m.weight); !total.fits(c.limit) {
				c.carry = m
				return members
			}
			members = append(members, m)
		default:
			return members
		}
	}
}

// letCome gives way to those who are about to queue, above all the callers just answered, as long as more come. Without
// it the next batch would be the first of them alone.
func (c *committer) letCome() {
	for before := -1; before < len(c.queue); {
		before = len(c.queue)
		runtime.Gosched()
	}
}

// commit decides a batch, makes it durable and answers its members, all of them afterwards: whoever lost to a member of
// the same batch finds the winner's row when it reloads.
func (c *committer) commit(members []*member) {
	if c.s.Err() != nil {
		answerAll(members, fmt.Errorf("%w: the storage engine has failed: %w", store.ErrFailed, c.cause))
		return
	}
	if err := c.checkSpace(); err != nil {
		answerAll(members, fmt.Errorf("%w: %w", store.ErrFailed, err))
		return
	}
	b, err := c.prepare(members)
	if err != nil {
		answerAll(members, fmt.Errorf("%w: %w", store.ErrFailed, err))
		return
	}
	defer b.txn.Discard()
	if len(b.accepted) > 0 {
		if err := c.s.opts.commitAt(b.txn, b.number); err != nil {
			c.fail(err)
			answerAll(b.accepted, fmt.Errorf("%w: %w", store.ErrUnknown, err))
			answerAll(b.refused, fmt.Errorf("%w: the storage engine has failed: %w", store.ErrFailed, err))
			return
		}
		c.batch, c.next = b.number, b.first+uint64(len(b.accepted))
		c.s.reads.advance(c.batch, b.written)
	}
	for i, m := range b.accepted {
		m.done <- answer{index: b.first + uint64(i)}
	}
	answerAll(b.refused, store.ErrConflict)
}

func answerAll(members []*member, err error) {
	for _, m := range members {
		m.done <- answer{err: err}
	}
}

// fail stops all writing for good.
func (c *committer) fail(cause error) {
	c.cause = errors.New(oneLine(cause.Error()))
	close(c.failed)
	c.s.opts.Log.Error("the storage engine has failed; nothing is written any more: restart the service", "error", c.cause)
}

// checkSpace logs when writing stops for want of space, and when it goes on.
func (c *committer) checkSpace() error {
	err := checkSpace(c.s.opts)
	if full := err != nil; full != c.full {
		c.full = full
		if full {
			c.s.opts.Log.Error("writing stopped", "error", err)
		} else {
			c.s.opts.Log.Info("writing goes on: there is space again")
		}
	}
	return err
}
