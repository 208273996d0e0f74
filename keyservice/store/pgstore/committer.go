package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// rowBytes is what a row takes of a batch besides its key and value: about what PostgreSQL adds.
const rowBytes = 64

// batchLimit keeps batches so short that the locks they hold do not stop other nodes for long.
var batchLimit = group.Weight{Rows: 16 << 10, Bytes: 8 << 20}

// tries is how often a batch is begun before its members get ErrFailed; the pause before each grows.
const tries = 8

const tryPause = 10 * time.Millisecond

// closeLimit is how long Close waits for a server that does not answer.
const closeLimit = 10 * time.Second

// committer is the only writer of this process. Its goroutine owns what is below its channels.
type committer struct {
	opts   Options
	config *pgx.ConnConfig
	queue  *group.Queue
	ended  chan struct{}

	failed  chan struct{} // closed when another process, or a copy of the database, has fenced this one
	cause   error         // set before failed is closed
	failing sync.Once

	doubted atomic.Bool // the server may not be fit any more: the session is to be made again

	unknowns unknowns // for Stats, at any time

	patience context.Context // ends when closing takes too long
	impolite context.CancelFunc

	moved func() // nil or called after another session was made

	session *session // nil or closed: to be made
	epoch   int64    // of this process
	next    uint64   // index of the next change
	number  int64    // of the last transaction begun in this epoch
}

func newCommitter(o Options, config *pgx.ConnConfig) *committer {
	c := &committer{
		opts:   o,
		config: config,
		queue:  group.NewQueue(batchLimit),
		ended:  make(chan struct{}),
		failed: make(chan struct{}),
	}
	c.patience, c.impolite = context.WithCancel(context.Background())
	return c
}

// connected returns the session, a new one if the last is broken.
func (c *committer) connected(ctx context.Context) (*session, error) {
	if c.session != nil && c.doubted.Swap(false) {
		_ = c.session.Close(ctx)
	}
	if c.session != nil && !c.session.IsClosed() {
		return c.session, nil
	}
	s, err := connect(ctx, c.opts, c.config)
	if err != nil {
		return nil, err
	}
	if err := warnOfStandbys(ctx, s, c.opts); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	c.session = s
	if c.moved != nil {
		c.moved()
	}
	return s, nil
}

const takeOverQuery = `INSERT INTO logs (node, epoch, next, version) SELECT $1, epoch + 1, 0, 0 FROM fence
	ON CONFLICT (node) DO UPDATE SET epoch = logs.epoch + 1 RETURNING epoch, next`

// A sequence that is behind would give versions that rows have had before.
const sequenceQuery = `SELECT last_value >= (SELECT coalesce(max(version & ` + sequenceBits + `), 0) FROM logs) FROM row_versions`

// takeOver begins a new epoch of the node's log. It waits for a transaction that an earlier process left, and that
// process can begin no other. When COMMIT is cut short there may be an epoch without a process, which does no harm.
func (c *committer) takeOver(ctx context.Context) error {
	s, err := c.connected(ctx)
	if err != nil {
		return err
	}
	if err := c.beginEpoch(ctx, s); err != nil {
		s.rollback()
		return fmt.Errorf("pgstore: taking over the log of node %s: %w", c.opts.Node, err)
	}
	return nil
}

func (c *committer) beginEpoch(ctx context.Context, s *session) error {
	var used, whole bool
	var fence store.Fence
	exchange := &pgx.Batch{}
	exchange.Queue(beginStatement)
	queueFence(exchange, shareFence, &fence) // first: it is what a copy locks first
	c.opts.Expect.queue(exchange, &used)
	exchange.Queue(takeOverQuery, c.opts.Node).QueryRow(func(row pgx.Row) error { return row.Scan(&c.epoch, &c.next) })
	exchange.Queue(sequenceQuery).QueryRow(func(row pgx.Row) error { return row.Scan(&whole) })
	if err := s.exchange(exchange); err != nil {
		return err
	}
	if err := fence.Check(); err != nil {
		return err
	}
	if err := c.opts.Expect.met(used); err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("%w: the sequence row_versions is behind the rows, as after a copy by logical replication: set it to the highest version in logs, of which the lower 40 bits count", ErrUnsuitable)
	}
	return s.commit(ctx)
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

// close ends the intake and waits until everything in the queue is answered.
func (c *committer) close() {
	c.queue.Close()
	late := time.AfterFunc(c.opts.closeLimit, c.impolite)
	defer late.Stop()
	<-c.ended
}

// disconnect ends the session. The committer's goroutine must have ended. Nothing is under way: if the connection turns
// out to be broken, as after a failover, nobody need be told.
func (c *committer) disconnect() {
	if c.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.opts.StatementTimeout)
	defer cancel()
	_ = c.session.Close(ctx)
}

// commit has a batch written and answers its members, all of them afterwards: whoever lost to a member of the same batch
// finds the winner's row when it reloads.
func (c *committer) commit(members []*group.Member) {
	b, err := c.write(members)
	switch {
	case errors.Is(err, store.ErrUnknown):
		group.Refuse(b.Accepted, err)
		group.Refuse(b.Refused, fmt.Errorf("%w: the batch of the change that came first was cut off", store.ErrFailed))
	case err != nil:
		group.Refuse(members, failed(err))
	default:
		group.Accept(b.Accepted, b.first)
		group.Refuse(b.Refused, store.ErrConflict)
	}
}

// write begins a batch until it is committed, refused, or has failed for good.
func (c *committer) write(members []*group.Member) (b batch, err error) {
	for try := range tries {
		if try > 0 {
			<-time.After(time.Duration(try*try) * tryPause)
		}
		if b, err = c.try(members); err == nil || !passing(err) {
			return b, err
		}
		c.opts.Log.Debug("a batch is begun again", "members", len(members), "error", oneLine(err.Error()))
	}
	return b, err
}

// fence stops all writing for good. A session that can be asked says whether it was for a copy of the database.
func (c *committer) fence(s *session) error {
	fence, err := s.fence(readFence)
	if err == nil {
		err = fence.Check()
	}
	return c.fail(err)
}

// fail stops all reading and writing for good: for a copy of the database if that is the reason, else for another process.
func (c *committer) fail(reason error) error {
	c.failing.Do(func() {
		if c.cause = reason; !errors.Is(reason, store.ErrMoved) {
			c.cause = fmt.Errorf("%w: %s: give each process a name of its own", ErrFenced, c.opts.Node)
		}
		close(c.failed)
		c.opts.Log.Error("nothing is read or written any more", "error", c.cause)
	})
	return c.cause
}

// stopped returns why everything was stopped, nil while it was not.
func (c *committer) stopped() error {
	select {
	case <-c.failed:
		return c.cause
	default:
		return nil
	}
}
