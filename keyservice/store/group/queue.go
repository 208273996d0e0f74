package group

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"ramzban/keyservice/store"
)

// ErrClosed comes with store.ErrFailed from Commit after Close.
var ErrClosed = errors.New("store: closed")

// Queued is how many changes may wait for a batch before Commit waits for room.
const Queued = 4096

// Queue is where callers meet the one goroutine that writes. That goroutine owns carry.
type Queue struct {
	limit Weight // of a batch

	intake  sync.RWMutex // held for reading while a change is put in the queue, for writing to close it
	closed  bool
	members chan *Member

	carry *Member // did not fit into the last batch
}

// NewQueue makes a queue of which Collect takes batches of at most limit.
func NewQueue(limit Weight) *Queue {
	return &Queue{limit: limit, members: make(chan *Member, Queued)}
}

// Commit waits in the queue and then for the answer. ctx ends the wait only; see store.Store.
func (q *Queue) Commit(ctx context.Context, m *Member) (uint64, error) {
	if !m.Weight.Fits(q.limit) {
		return 0, fmt.Errorf("%w: the change is too large for one transaction: it takes %d rows and %d bytes of at most %d and %d: divide it",
			store.ErrFailed, m.Weight.Rows, m.Weight.Bytes, q.limit.Rows, q.limit.Bytes)
	}
	if err := q.enqueue(ctx, m); err != nil {
		return 0, fmt.Errorf("%w: %w", store.ErrFailed, err)
	}
	select {
	case a := <-m.done:
		return a.index, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-m.done: // both at once: an answer is better
		return a.index, a.err
	default:
		return 0, fmt.Errorf("%w: stopped waiting: %w", store.ErrUnknown, context.Cause(ctx))
	}
}

// enqueue puts a member in the queue. After an error it is not there and never will be.
func (q *Queue) enqueue(ctx context.Context, m *Member) error {
	q.intake.RLock()
	defer q.intake.RUnlock()
	if q.closed {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case q.members <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close ends the intake. What is in the queue can still be collected.
func (q *Queue) Close() {
	q.intake.Lock()
	defer q.intake.Unlock()
	if !q.closed {
		q.closed = true
		close(q.members)
	}
}

// Len is how many members wait for a batch.
func (q *Queue) Len() int { return len(q.members) }

// Collect waits for a change and takes those that are queued behind it, as many as fit into a batch. It returns none when
// the queue is closed and empty.
func (q *Queue) Collect() []*Member {
	first := q.carry
	q.carry = nil
	if first == nil {
		first = <-q.members
	}
	if first == nil {
		return nil
	}
	q.letCome()
	batch, total := []*Member{first}, first.Weight
	for {
		select {
		case m := <-q.members:
			if m == nil {
				return batch
			}
			if total = total.Plus(m.Weight); !total.Fits(q.limit) {
				q.carry = m
				return batch
			}
			batch = append(batch, m)
		default:
			return batch
		}
	}
}

// letCome gives way to those who are about to queue, above all the callers just answered, as long as more come. Without
// it the next batch would be the first of them alone.
func (q *Queue) letCome() {
	for before := -1; before < len(q.members); {
		before = len(q.members)
		runtime.Gosched()
	}
}
