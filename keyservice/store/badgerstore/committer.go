package badgerstore

import (
	"errors"
	"fmt"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// batchSlack is set aside in every transaction for Badger's end mark, the engine's row, and rows that the Sequencer adds
// per batch.
var batchSlack = group.Weight{Rows: 64, Bytes: 64 << 10}

// committer is the only writer. Its goroutine owns batch, next and full; callers meet it at the queue.
type committer struct {
	s     *Store
	queue *group.Queue
	ended chan struct{}

	failed chan struct{} // closed when the engine has failed
	cause  error         // set before failed is closed

	batch uint64 // number of the last durable batch
	next  uint64 // index of the next change
	full  bool   // the last batch was refused for want of space
}

func newCommitter(s *Store, batch, next uint64) *committer {
	return &committer{
		s: s,
		queue: group.NewQueue(group.Weight{
			Rows:  s.db.MaxBatchCount() - batchSlack.Rows,
			Bytes: s.db.MaxBatchSize() - batchSlack.Bytes,
		}),
		ended:  make(chan struct{}),
		failed: make(chan struct{}),
		batch:  batch,
		next:   next,
	}
}

// close ends the intake and waits until everything in the queue is answered.
func (c *committer) close() {
	c.queue.Close()
	<-c.ended
}

func (c *committer) run() {
	defer close(c.ended)
	for {
		members := c.queue.Collect()
		if len(members) == 0 {
			return
		}
		c.commit(members)
	}
}

// commit decides a batch, makes it durable and answers its members, all of them afterwards: whoever lost to a member of
// the same batch finds the winner's row when it reloads.
func (c *committer) commit(members []*group.Member) {
	if c.s.Err() != nil {
		group.Refuse(members, fmt.Errorf("%w: the storage engine has failed: %w", store.ErrFailed, c.cause))
		return
	}
	if err := c.checkSpace(); err != nil {
		group.Refuse(members, fmt.Errorf("%w: %w", store.ErrFailed, err))
		return
	}
	b, err := c.prepare(members)
	if err != nil {
		group.Refuse(members, fmt.Errorf("%w: %w", store.ErrFailed, err))
		return
	}
	defer b.txn.Discard()
	if len(b.Accepted) > 0 {
		if err := c.s.opts.commitAt(b.txn, b.number); err != nil {
			c.fail(err)
			group.Refuse(b.Accepted, fmt.Errorf("%w: %w", store.ErrUnknown, err))
			group.Refuse(b.Refused, fmt.Errorf("%w: the storage engine has failed: %w", store.ErrFailed, err))
			return
		}
		c.batch, c.next = b.number, b.first+uint64(len(b.Accepted))
		c.s.reads.advance(c.batch, b)
	}
	group.Accept(b.Accepted, b.first)
	group.Refuse(b.Refused, store.ErrConflict)
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
