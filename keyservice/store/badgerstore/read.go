package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
)

// readers knows the last durable batch, some of its rows, and which batches are being read, so that compaction drops
// nothing that a reader needs and the database is not closed under one.
type readers struct {
	db *badger.DB

	mu      sync.Mutex     // held while the discard timestamp is set, so that no pin can slip below it
	rows    *rowCache      // as of durable
	idle    *sync.Cond     // signalled when running becomes 0
	durable uint64         // number of the last batch on stable storage
	pins    map[uint64]int // batches being read, with the number of their readers
	running int            // reads in progress
	closed  bool
}

func newReaders(db *badger.DB, rows *rowCache, durable uint64) *readers {
	r := &readers{db: db, rows: rows, pins: make(map[uint64]int)}
	r.idle = sync.NewCond(&r.mu)
	r.advance(durable, &batch{})
	return r
}

// advance makes a batch visible: it is durable.
func (r *readers) advance(number uint64, b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = number
	for k, w := range b.Written {
		r.rows.put(k, left(w, number))
	}
	for _, w := range b.entries { // hardly ever read
		r.rows.forget(w.Key)
	}
	oldest := number
	for pinned := range r.pins {
		oldest = min(oldest, pinned)
	}
	r.db.SetDiscardTs(oldest)
}

// pin keeps the last durable batch readable until unpin.
func (r *readers) pin() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, ErrClosed
	}
	r.pins[r.durable]++
	return r.durable, nil
}

func (r *readers) unpin(batch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pins[batch]--; r.pins[batch] == 0 {
		delete(r.pins, batch)
	}
}

// read runs fn on the state after a pinned batch. Close waits for it.
func (r *readers) read(batch uint64, fn func(*badger.Txn) error) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	r.running++
	r.mu.Unlock()
	defer r.done()
	txn := r.db.NewTransactionAt(batch, false)
	defer txn.Discard()
	return fn(txn)
}

func (r *readers) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running == 0 {
		r.idle.Broadcast()
	}
}

func (r *readers) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// close refuses new reads and waits for those in progress; scans end early.
func (r *readers) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for r.running > 0 {
		r.idle.Wait()
	}
}

// Get implements store.Store. Its values belong to the caller.
func (s *Store) Get(ctx context.Context, keys ...store.Key) ([]store.Item, error) {
	for _, k := range keys {
		if err := checkKey(k); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	items := make([]store.Item, len(keys))
	missing, batch, err := s.reads.lookUp(keys, items)
	if err != nil {
		return nil, err
	}
	for i := range items {
		if items[i].Version > 0 {
			items[i].Value = append([]byte{}, items[i].Value...)
		}
	}
	if len(missing) > 0 {
		err = s.reads.fetch(ctx, batch, keys, items, missing)
	}
	if err != nil {
		return nil, err
	}
	return items, nil
}

// lookUp sets the items that are in the cache; their values are shared with it. It returns which are missing, and then
// pins the batch as of which the others are.
func (r *readers) lookUp(keys []store.Key, items []store.Item) (missing []int, batch uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, 0, ErrClosed
	}
	for i, k := range keys {
		if known, ok := r.rows.get(k); ok {
			items[i] = store.Item{Key: k, Value: known.value, Version: known.version}
			continue
		}
		missing = append(missing, i)
		r.rows.lease(k, r.durable)
	}
	if len(missing) > 0 {
		r.pins[r.durable]++
	}
	return missing, r.durable, nil
}

// fetch reads the missing items from Badger, fills the cache with them and unpins the batch.
func (r *readers) fetch(ctx context.Context, batch uint64, keys []store.Key, items []store.Item, missing []int) error {
	defer r.unpin(batch)
	err := r.read(batch, func(txn *badger.Txn) (err error) {
		for _, i := range missing {
			if err := ctx.Err(); err != nil {
				return err
			}
			if items[i], err = get(txn, keys[i]); err != nil {
				return err
			}
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range missing {
		if err != nil {
			r.rows.release(keys[i], batch)
		} else {
			r.rows.fill(items[i], batch)
		}
	}
	return err
}

// known returns a row of the last durable batch if it is in the cache.
func (r *readers) known(k store.Key) (held, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows.get(k)
}

// learn takes a row of the last durable batch; the item's value is the cache's from now on. Only the committer may call
// it: nobody else knows that the batch is still the last.
func (r *readers) learn(i store.Item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows.put(i.Key, held{i.Value, i.Version})
}

func get(txn *badger.Txn, k store.Key) (store.Item, error) {
	found, err := txn.Get([]byte(k))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return store.Item{Key: k}, nil
	}
	if err != nil {
		return store.Item{}, fmt.Errorf("badgerstore: reading a row: %w", err)
	}
	value, err := found.ValueCopy([]byte{})
	if err != nil {
		return store.Item{}, fmt.Errorf("badgerstore: reading a row: %w", err)
	}
	return store.Item{Key: k, Value: value, Version: store.Version(found.Version())}, nil
}

// Snapshot implements store.Store. While it is open, rows it can see stay on disk.
func (s *Store) Snapshot(ctx context.Context) (store.Snapshot, error) { return s.reads.snapshot(ctx) }

func (r *readers) snapshot(ctx context.Context) (store.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	batch, err := r.pin()
	if err != nil {
		return nil, err
	}
	return &snapshot{reads: r, batch: batch}, nil
}

type snapshot struct {
	reads *readers
	batch uint64

	mu     sync.Mutex
	closed bool
	scans  int // the pin is given up when the snapshot is closed and none runs
}

// Scan implements store.Snapshot. Items passed to fn belong to it. The engine's own rows are not shown.
func (s *snapshot) Scan(ctx context.Context, prefix, from store.Key, fn func(store.Item) error) error {
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	return s.reads.read(s.batch, func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte(prefix)})
		defer it.Close()
		for it.Seek([]byte(max(prefix, from, firstKey))); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.reads.isClosed() {
				return ErrClosed
			}
			item, err := copyItem(it.Item())
			if err != nil {
				return err
			}
			if err := fn(item); err != nil {
				return err
			}
		}
		return nil
	})
}

func copyItem(it *badger.Item) (store.Item, error) {
	value, err := it.ValueCopy([]byte{})
	if err != nil {
		return store.Item{}, fmt.Errorf("badgerstore: reading a row: %w", err)
	}
	return store.Item{Key: store.Key(it.Key()), Value: value, Version: store.Version(it.Version())}, nil
}

func (s *snapshot) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("badgerstore: the snapshot is closed")
	}
	s.scans++
	return nil
}

func (s *snapshot) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scans--; s.scans == 0 && s.closed {
		s.reads.unpin(s.batch)
	}
}

// Close implements store.Snapshot; a second call does nothing, a running scan goes on.
func (s *snapshot) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.scans == 0 {
		s.reads.unpin(s.batch)
	}
}
