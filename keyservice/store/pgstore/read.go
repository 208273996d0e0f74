package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ramzban/keyservice/store"
)

// readers has the connections for reading. Snapshots may have half of them, so that Get always finds one.
type readers struct {
	opts   Options
	pool   *pgxpool.Pool
	room   chan struct{}   // a place for each snapshot that may be open
	failed <-chan struct{} // closed when the process is fenced
	cause  func() error    // why, then

	wanted chan wanted    // reads that wait for their turn
	inside sync.WaitGroup // reads that are not answered yet
	ended  sync.WaitGroup // the gatherers

	mu     sync.Mutex
	closed bool
	open   map[*snapshot]struct{}
}

func newReaders(o Options, config *pgxpool.Config) (*readers, error) {
	config = config.Copy()
	configure(config.ConnConfig, o, "read", o.serverLimit())
	config.MaxConns = int32(o.MaxConns)
	config.AfterConnect = setUp
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("pgstore: %w", err)
	}
	return &readers{opts: o, pool: pool, room: make(chan struct{}, o.MaxConns/2), wanted: make(chan wanted, gathered), open: map[*snapshot]struct{}{}}, nil
}

// start lets reads be answered.
func (r *readers) start() {
	for range gatherers {
		r.ended.Go(r.gather)
	}
}

// enter counts one more read, if reads are answered.
func (r *readers) enter() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	r.inside.Add(1)
	return nil
}

// ready returns why nothing can be read.
func (r *readers) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	select {
	case <-r.failed:
		return r.cause()
	default:
		return nil
	}
}

// close refuses new reads, ends snapshots and waits for the reads in progress.
func (r *readers) close() {
	r.mu.Lock()
	r.closed = true
	var left []*snapshot
	for s := range r.open {
		left = append(left, s)
	}
	r.mu.Unlock()
	for _, s := range left {
		s.Close()
	}
	r.inside.Wait()
	close(r.wanted)
	r.ended.Wait()
	r.pool.Close()
}

// Get implements store.Store. It is part of one statement: what it returns was committed before, all by the same moment.
func (s *Store) Get(ctx context.Context, keys ...store.Key) ([]store.Item, error) {
	for _, k := range keys {
		if err := store.CheckKey(k); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.reads.ready(); err != nil {
		return nil, err
	}
	found, err := s.reads.get(ctx, keys)
	if err != nil {
		return nil, err
	}
	items := make([]store.Item, len(keys))
	for i, k := range keys {
		items[i] = found[k]
		items[i].Key, items[i].Value = k, bytes.Clone(found[k].Value) // a key may be asked for twice
	}
	return items, nil
}

// Now implements store.Store: the time of the server that is written to.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	if err := s.reads.ready(); err != nil {
		return time.Time{}, err
	}
	err = s.reads.twice(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return broken(conn, conn.QueryRow(ctx, timeQuery).Scan(&now))
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("pgstore: asking for the time: %w", err)
	}
	return now, nil
}

// twice asks, and a second time if the connection was broken, as all are when the server was restarted.
func (r *readers) twice(ctx context.Context, ask func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.StatementTimeout)
	defer cancel()
	err := r.ask(ctx, ask)
	if errors.Is(err, errBroken) && ctx.Err() == nil {
		r.pool.Reset()
		err = r.ask(ctx, ask)
	}
	if err == nil {
		return nil
	}
	if closed := r.ready(); closed != nil { // meanwhile
		return closed
	}
	return err
}

func (r *readers) ask(ctx context.Context, ask func(context.Context, *pgx.Conn) error) error {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return ask(ctx, conn.Conn())
}

func bytesOf(keys []store.Key) [][]byte {
	b := make([][]byte, len(keys))
	for i, k := range keys {
		b[i] = []byte(k)
	}
	return b
}

// query calls fn for each row, whose value is fn's. An error of a connection that is broken now comes with errBroken.
func query(ctx context.Context, conn *pgx.Conn, fn func(store.Item) error, statement string, args ...any) error {
	rows, err := conn.Query(ctx, statement, args...)
	if err != nil {
		return broken(conn, err)
	}
	var key, value []byte
	var version int64
	_, err = pgx.ForEachRow(rows, []any{&key, &value, &version}, func() error {
		return fn(store.Item{Key: store.Key(key), Value: value, Version: store.Version(version)})
	})
	return broken(conn, err)
}

func broken(conn *pgx.Conn, err error) error {
	if err != nil && conn.IsClosed() {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return err
}
