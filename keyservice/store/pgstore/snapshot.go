package pgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"ramzban/keyservice/store"
)

// page is how many rows a scan holds at a time: at most 16 MiB.
const page = 64

const scanPage = `SELECT key, value, version FROM rows WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3`

// errSnapshotClosed: the snapshot's owner has closed it.
var errSnapshotClosed = errors.New("pgstore: the snapshot is closed")

// snapshot is a transaction whose statements all see the same state.
type snapshot struct {
	reads *readers

	mu    sync.Mutex // held during each statement
	conn  *pgxpool.Conn
	ended error // why there is no connection any more
}

// Snapshot implements store.Store. While it is open it takes a connection, and the database keeps what it can see: it
// must not be open for hours. It waits while half of MaxConns are open.
func (s *Store) Snapshot(ctx context.Context) (store.Snapshot, error) { return s.reads.take(ctx) }

// take begins a snapshot when there is room for it.
func (r *readers) take(ctx context.Context) (store.Snapshot, error) {
	if err := r.ready(); err != nil {
		return nil, err
	}
	select {
	case r.room <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	snap, err := r.snapshot(ctx)
	if err != nil {
		<-r.room
		return nil, err
	}
	return snap, nil
}

// snapshot begins a second time if the connection was broken, as all are when the server was restarted.
func (r *readers) snapshot(ctx context.Context) (*snapshot, error) {
	snap, err := r.begin(ctx)
	if errors.Is(err, errBroken) && ctx.Err() == nil {
		r.pool.Reset()
		snap, err = r.begin(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("pgstore: beginning a snapshot: %w", err)
	}
	return snap, nil
}

func (r *readers) begin(ctx context.Context) (*snapshot, error) {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	// The state is that of the first statement after BEGIN.
	_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
	if err == nil {
		snap := &snapshot{reads: r, conn: conn}
		if err = r.keep(snap); err == nil {
			return snap, nil
		}
	}
	err = broken(conn.Conn(), err)
	_ = conn.Conn().Close(ctx) // the pool makes another one
	conn.Release()
	return nil, err
}

// keep remembers an open snapshot, unless the store was closed meanwhile.
func (r *readers) keep(s *snapshot) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	r.open[s] = struct{}{}
	return nil
}

// Scan implements store.Snapshot. Items passed to fn belong to it. Scans may run at once, and fn may use the snapshot.
func (s *snapshot) Scan(ctx context.Context, prefix, from store.Key, fn func(store.Item) error) error {
	next, end := []byte(max(prefix, from)), after(prefix)
	for {
		items, err := s.page(ctx, next, end)
		if err != nil {
			return err
		}
		for _, i := range items {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(i); err != nil {
				return err
			}
		}
		if len(items) < page {
			return nil
		}
		next = append([]byte(items[page-1].Key), 0) // the least key after the last one
	}
}

// after returns the least key that is greater than all with the prefix; it may be longer than a key can be.
func after(prefix store.Key) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return bytes.Repeat([]byte{0xff}, store.MaxKey+1)
}

func (s *snapshot) page(ctx context.Context, next, end []byte) (items []store.Item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.conn == nil {
		return nil, s.ended
	}
	ctx, cancel := context.WithTimeout(ctx, s.reads.opts.StatementTimeout)
	defer cancel()
	err = query(ctx, s.conn.Conn(), func(i store.Item) error {
		items = append(items, i)
		return nil
	}, scanPage, next, end, page)
	if err != nil {
		return nil, fmt.Errorf("pgstore: scanning rows: %w", err)
	}
	return items, nil
}

// Close implements store.Snapshot; a second call does nothing, a running scan ends with an error.
func (s *snapshot) Close() {
	s.reads.mu.Lock()
	closed := s.reads.closed
	delete(s.reads.open, s)
	s.reads.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return
	}
	s.ended = errSnapshotClosed
	if closed {
		s.ended = ErrClosed
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.reads.opts.StatementTimeout)
	defer cancel()
	_, _ = s.conn.Exec(ctx, "ROLLBACK") // a connection that is not free afterwards is not used again
	s.conn.Release()
	s.conn = nil
	<-s.reads.room
}
