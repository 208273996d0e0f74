// Package pgstore keeps the key service's rows in a PostgreSQL database that several nodes share. Each node has one
// committer, which gathers changes while the previous transaction is being committed, so that many callers share one.
//
// It must not know what rows mean, nor who asks.
//
// # In the database
//
// Table rows holds the rows. Their version is the number of the batch that wrote them, from a sequence, fetched when the
// batch holds all its locks, behind the number of the server's timeline: it grows with every write, and none comes back,
// not even that of a row which was seen on a primary and lost with it. Table logs holds for each node the index of its next
// change and its epoch, the number of its processes so far. A batch moves its node's row on under its epoch: a second
// process of the same name fences the first. Table commits holds each process's last transactions: see resolve. The row of
// table fence keeps all nodes out of a database that was moved to another one: see fence.go.
//
// # A batch
//
// It is one transaction of two round trips. The first locks all rows that its members name and returns their versions;
// then nothing that a member relies on changes before it is written, whichever node wants to. Rows only read are locked
// in share mode. All nodes lock in the order of keys, so that they do not wait for each other in a ring. Members are then
// decided here, in turn. The second round trip writes. A row that must not exist has no row to lock: it is inserted, and
// deleted again if it was only required, so that another node's insertion waits. COMMIT goes with the writes: where one of
// them fails the server does not carry out what follows.
//
// # When it is not known whether a transaction was committed
//
// COMMIT has no deadline and is never cancelled. If its connection breaks, or if it answers with a warning (the wait for
// the standby was cut short: it could be lost with this server), nobody is told anything before it is known: see resolve.
//
// The session's settings matter (see session.go), so the database must not be reached through a pooler that shares
// server sessions between transactions.
package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// Errors of Open, tested with errors.Is. Their messages say what to do.
var (
	// ErrOptions: an option is missing or wrong.
	ErrOptions = errors.New("pgstore: the options are wrong")
	// ErrUnsuitable: the server would not keep what it has acknowledged, or is not the one to write to.
	ErrUnsuitable = errors.New("pgstore: this PostgreSQL server cannot be used")
	// ErrStandby comes with ErrUnsuitable: the server is a standby. During a failover that passes by itself.
	ErrStandby = errors.New("it is a standby")
	// ErrSchema: the database was migrated by a newer program, cannot be migrated, or is not the role's to use.
	ErrSchema = errors.New("pgstore: the database's schema does not fit")
	// ErrAbsent: the database is not yet one of this program's, and was to be.
	ErrAbsent = errors.New("pgstore: nobody has used this database yet")
	// ErrPresent: the database is one of this program's already, and was to be a new one.
	ErrPresent = errors.New("pgstore: this database is in use already")
)

var (
	// ErrClosed comes with store.ErrFailed from Commit, and alone from reads, after Close.
	ErrClosed = group.ErrClosed
	// ErrFenced: another process has been started as the same node. It comes with store.ErrFailed from Commit, and alone
	// from reads.
	ErrFenced = errors.New("pgstore: another process has been started under this node's name")
)

// Defaults of Options.
const (
	DefaultMaxConns         = 16
	DefaultStatementTimeout = 5 * time.Second
)

// Options say where the database is and who uses it.
type Options struct {
	DSN  string // as libpq reads it, TLS settings included; several hosts with target_session_attrs=read-write
	Node string // the node's name, see store.CheckNode. One process at a time may have it

	Expect Expectation // what Open demands to find; the zero value: nothing

	// Sequencer's rows join every batch; nil: none. When a batch was not written it is called again with the same first
	// index. Nodes share the database: rows must have keys of this node's own.
	Sequencer store.Sequencer

	MaxConns int // connections for reading, at least 2, besides one for writing; 0: DefaultMaxConns

	// StatementTimeout bounds each exchange with the server, COMMIT excepted; 0: DefaultStatementTimeout. The server ends
	// a statement by itself, or one that waits for a lock, after half of it: then the connection is kept.
	StatementTimeout time.Duration

	Log *slog.Logger // nil: slog.Default()

	closeLimit time.Duration // 0: closeLimit
	watchEvery time.Duration // 0: watchEvery
	transfer   bool          // the database is opened whatever its fence says
}

// Expectation is what Open demands to find in the database, before it changes anything there.
type Expectation int

// A service that was started before expects a used database: after a mistyped DSN it would otherwise begin anew.
const (
	ExpectAny  Expectation = iota
	ExpectUsed             // a node has opened it before, this one or another; else ErrAbsent
	ExpectNew              // no node has; else ErrPresent. Of nodes that begin at once, one does
)

func (o Options) withDefaults() Options {
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.StatementTimeout == 0 {
		o.StatementTimeout = DefaultStatementTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.watchEvery == 0 {
		o.watchEvery = watchEvery
	}
	if o.closeLimit == 0 {
		o.closeLimit = closeLimit
	}
	return o
}

func (o Options) check() error {
	if err := store.CheckNode(o.Node); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	switch {
	case o.MaxConns < 2:
		return fmt.Errorf("%w: %d connections for reading: 2 are the least", ErrOptions, o.MaxConns)
	case o.StatementTimeout < 2*time.Millisecond:
		return fmt.Errorf("%w: a statement timeout of %v", ErrOptions, o.StatementTimeout)
	}
	return nil
}

// serverLimit is how long the server lets a statement run, or wait for a lock.
func (o Options) serverLimit() time.Duration { return o.StatementTimeout / 2 }

// Store is an open database; it implements store.Store. Its methods may be called concurrently.
type Store struct {
	opts    Options
	queue   *group.Queue
	commits *committer
	reads   *readers

	watching     sync.WaitGroup
	stopWatching context.CancelFunc

	closing sync.Once
}

var _ store.Store = (*Store)(nil)

// Open connects to the database, brings its schema up to date, and takes the node's log over from an earlier process.
// ctx bounds it. Errors: ErrOptions, ErrUnsuitable, ErrSchema, ErrAbsent, ErrPresent, store.ErrMoved,
// and those of the network.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	config, err := o.parse()
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, o, config)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", refused(err))
	}
	return s, nil
}

func open(ctx context.Context, o Options, config *pgxpool.Config) (*Store, error) {
	if err := prepare(ctx, o, config.ConnConfig); err != nil {
		return nil, err
	}
	c := newCommitter(o, config.ConnConfig)
	if err := c.takeOver(ctx); err != nil {
		c.disconnect()
		return nil, err
	}
	reads, err := newReaders(o, config)
	if err != nil {
		c.disconnect()
		return nil, err
	}
	reads.failed, reads.cause = c.failed, c.stopped
	o.Log.Info("database opened", "node", o.Node, "epoch", c.epoch, "next_index", c.next)
	// After a failover both are to go to the same server: an old primary that nobody stopped still answers, as it was.
	c.moved = reads.pool.Reset
	reads.start()
	go c.run()
	s := &Store{opts: o, queue: c.queue, commits: c, reads: reads}
	watching, stop := context.WithCancel(context.Background())
	s.stopWatching = stop
	s.watching.Go(func() { s.watch(watching) })
	return s, nil
}

// prepare checks the server before anything is written, and migrates the schema.
func prepare(ctx context.Context, o Options, config *pgx.ConnConfig) error {
	s, err := connect(ctx, o, config)
	if err != nil {
		return err
	}
	err = o.look(ctx, s)
	if closed := s.Close(ctx); err == nil && closed != nil {
		err = fmt.Errorf("pgstore: %w", closed)
	}
	if err != nil {
		return err
	}
	config = config.Copy()
	configure(config, o, "migrate", 0)
	return migrate(ctx, config)
}

// Commit implements store.Store. A change beyond a batch's limits is ErrFailed.
func (s *Store) Commit(ctx context.Context, change store.Change) (uint64, error) {
	m, err := group.NewMember(change, rowBytes)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", store.ErrFailed, err)
	}
	m.Weight.Rows += int64(len(m.Require)) // they are locked like the others
	return s.queue.Commit(ctx, m)
}

// Failed is closed when another process, or a copy of the database, has fenced this one, which then neither writes nor reads.
// Err is ErrFenced or store.ErrMoved. The process should log it and exit.
func (s *Store) Failed() <-chan struct{} { return s.commits.failed }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.commits.stopped() }

// Close waits for the queued commits and running reads, then ends the connections. Snapshots still open answer ErrClosed.
// A commit of which it is still not known whether it happened ends as store.ErrUnknown after closeLimit. There is no error.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.stopWatching()
		s.watching.Wait()
		s.commits.close()
		s.reads.close()
		s.commits.disconnect()
	})
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
