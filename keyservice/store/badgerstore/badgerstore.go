// Package badgerstore keeps the key service's rows in an embedded Badger database: one directory, one process.
// A single committer gathers changes while the previous batch is being synced, so that many callers share one fsync.
//
// It must not know what rows mean, nor who asks.
//
// # On disk
//
// A batch is one Badger transaction whose commit timestamp is the batch's number, counted from 1 without gaps; the
// version of a row is the number of the batch that wrote it. Rows are stored under their own keys. Every batch also writes
// a row of the engine's: see enginePrefix.
// Badger's value log stays empty: values are smaller than its threshold, because it reports neither its own sync
// errors nor values that it cannot read. So there is no value log to collect garbage in; Badger's compactors
// drop overwritten and deleted rows as soon as no snapshot needs them.
//
// # In memory
//
// A cache of at most 64 MiB holds the rows used last, as of the last durable batch; see rowCache. Most reads and
// preconditions need no more than that. It does not hold values over 4 KiB, the Sequencer's rows, or what a scan sees.
// Besides there are Badger's four memtables of 21 MiB, and filters and indexes of its tables in the page cache.
//
// # When something is wrong
//
// A full disk is refused in time (ErrNoSpace) and service resumes by itself. After any error of the engine nothing is
// written any more: see Store.Failed. Damage that Badger would not notice, or would die of, is looked for before
// opening: see inspect.
package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// Errors of Open, tested with errors.Is. Their messages say what to do, on one line. A full disk is store.ErrNoSpace.
var (
	// ErrLocked: another process has the database open.
	ErrLocked = errors.New("badgerstore: the database is in use by another process")
	// ErrNotWritable: the directory cannot be made or written.
	ErrNotWritable = errors.New("badgerstore: the database directory cannot be written")
	// ErrCorrupt: the files are damaged, incomplete, or not a database of this program.
	ErrCorrupt = errors.New("badgerstore: the database is damaged")
)

// ErrClosed comes with store.ErrFailed from Commit, and alone from reads, after Close.
var ErrClosed = group.ErrClosed

// DefaultReserve is the free space below which nothing is written, in bytes. Badger needs it to flush and compact what
// was accepted before: at most four memtables and eight tables of 16 MiB, and the level they are merged into.
const DefaultReserve = 512 << 20

// closeLimit bounds Close after a failure: Badger retries a failing flush for ever.
const closeLimit = 10 * time.Second

// Options say where the database is and what joins its commits.
type Options struct {
	Dir  string // made with mode 0700 if it does not exist
	Node string // the node's name, see store.CheckNode. Each name has a log of its own: a new one begins at index 0

	// Sequencer's rows join every batch; nil: none. It may add up to group.EntryRows rows and twice the entry's size
	// plus group.EntryBytes for each entry. When a batch was not written it is called again with the same first index.
	Sequencer store.Sequencer

	Reserve   uint64                           // bytes to keep free on the disk; 0: DefaultReserve
	Log       *slog.Logger                     // nil: slog.Default()
	Clock     func() time.Time                 // the store's clock; nil: time.Now
	FreeSpace func(dir string) (uint64, error) // bytes free for this process; nil: asks the file system

	memTable int64                           // bytes; 0: memTableSize
	cache    int                             // bytes of the row cache; 0: cacheSize
	noSync   bool                            // only to show that the power-cut test sees
	commitAt func(*badger.Txn, uint64) error // nil: Txn.CommitAt; tests let it fail
}

func (o Options) withDefaults() Options {
	if o.Reserve == 0 {
		o.Reserve = DefaultReserve
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.FreeSpace == nil {
		o.FreeSpace = FreeSpace
	}
	if o.memTable == 0 {
		o.memTable = memTableSize
	}
	if o.cache == 0 {
		o.cache = cacheSize
	}
	if o.commitAt == nil {
		o.commitAt = func(txn *badger.Txn, ts uint64) error { return txn.CommitAt(ts, nil) }
	}
	return o
}

// now is without Go's monotonic reading: times are compared as they are written.
func (o Options) now() time.Time { return o.Clock().Round(0) }

// Store is an open database; it implements store.Store. Its methods may be called concurrently.
type Store struct {
	opts    Options
	db      *badger.DB
	lock    *os.File
	reads   *readers
	commits *committer

	closing  sync.Once
	closeErr error
}

var _ store.Store = (*Store)(nil)

// Open opens the database in o.Dir, or makes an empty one. It reads every byte of an existing database once, to find
// damage before Badger meets it. Errors: ErrLocked, ErrNotWritable, ErrCorrupt, store.ErrNoSpace, store.ErrMoved.
func Open(o Options) (*Store, error) {
	o = o.withDefaults()
	if err := store.CheckNode(o.Node); err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	f, err := openDatabase(o)
	if err != nil {
		return nil, err
	}
	s, err := serve(o, f)
	if err != nil {
		return nil, both(err, f.close())
	}
	return s, nil
}

// serve makes a store of an open database.
func serve(o Options, f database) (*Store, error) {
	if err := f.fence.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	rows, err := newRowCache(o.cache)
	if err != nil {
		return nil, err
	}
	next := f.next[o.Node]
	o.Log.Info("database opened", "dir", o.Dir, "node", o.Node, "batch", f.batch, "next_index", next, "took_ms", f.took.Milliseconds())
	s := &Store{opts: o, db: f.db, lock: f.lock, reads: newReaders(f.db, rows, f.batch)}
	s.commits = newCommitter(s, f.batch, next)
	go s.commits.run()
	return s, nil
}

// Commit implements store.Store. A change of which Badger's limits allow no transaction is ErrFailed.
func (s *Store) Commit(ctx context.Context, change store.Change) (uint64, error) {
	m, err := newMember(change)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", store.ErrFailed, err)
	}
	return s.commits.queue.Commit(ctx, m)
}

// Now implements store.Store.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	if s.reads.isClosed() {
		return time.Time{}, ErrClosed
	}
	return s.opts.now(), nil
}

// Failed is closed when the engine has failed. The failed batch's callers got ErrUnknown; every later Commit gets
// ErrFailed, because Badger fills its memory before it syncs and cannot say what is on disk. Reads go on and show what
// was durable before the failure. The process should log Err and exit: opening again finds out what was written.
func (s *Store) Failed() <-chan struct{} { return s.commits.failed }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error {
	select {
	case <-s.commits.failed:
		return s.commits.cause
	default:
		return nil
	}
}

// Close waits for the queued commits and running reads, then closes the database. Snapshots still open answer
// ErrClosed. After a failure it may not be able to finish; it then returns an error and the process should exit.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	s.commits.close()
	s.reads.close()
	closed := make(chan error, 1)
	go func() { closed <- s.db.Close() }()
	var late <-chan time.Time
	if s.Err() != nil {
		late = time.After(closeLimit)
	}
	select {
	case err := <-closed:
		return errors.Join(err, unlock(s.lock))
	case <-late:
		return fmt.Errorf("badgerstore: not closed within %v after: %w", closeLimit, s.Err())
	}
}
