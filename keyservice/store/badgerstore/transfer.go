package badgerstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
)

// Transfer is a database opened for a copy from or to it; it implements transfer.Database. One goroutine uses it. It has
// the lock of the directory: no node runs on it.
type Transfer struct {
	opts  Options
	db    database
	reads *readers
}

// OpenTransfer opens a database, whatever its fence says, or makes an empty one. Of the options it takes no Node, no
// Sequencer and no Clock. Its errors are those of Open but store.ErrMoved.
func OpenTransfer(o Options) (*Transfer, error) {
	o = o.withDefaults()
	f, err := openDatabase(o)
	if errors.Is(err, ErrLocked) { // what Open says would not do: another directory is another database
		return nil, fmt.Errorf("%w: %s: stop the node, or end the other copy, that runs on it", ErrLocked, o.Dir)
	}
	if err != nil {
		return nil, err
	}
	rows, err := newRowCache(o.cache)
	if err != nil {
		return nil, both(err, f.close())
	}
	return &Transfer{opts: o, db: f, reads: newReaders(f.db, rows, f.batch)}, nil
}

// Name implements transfer.Database.
func (t *Transfer) Name() string { return "the Badger database in " + t.opts.Dir }

// Fence implements transfer.Database.
func (t *Transfer) Fence(context.Context) (store.Fence, error) { return t.db.fence, nil }

// SetFence implements transfer.Database.
func (t *Transfer) SetFence(_ context.Context, was, now store.Fence) error {
	return t.write(was, now, func(*badger.Txn) error { return nil })
}

// Count implements transfer.Database.
func (t *Transfer) Count(ctx context.Context) (rows uint64, err error) {
	err = t.eachKey(ctx, func([]byte) error {
		rows++
		return nil
	})
	return rows, err
}

// eachKey calls fn with every key as of the last batch, also if fn writes others. fn must not keep it.
func (t *Transfer) eachKey(ctx context.Context, fn func([]byte) error) error {
	batch, err := t.reads.pin()
	if err != nil {
		return err
	}
	defer t.reads.unpin(batch)
	return t.reads.read(batch, func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		for it.Seek([]byte(firstKey)); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(it.Item().Key()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Logs implements transfer.Database.
func (t *Transfer) Logs(context.Context) (map[string]uint64, error) {
	return maps.Clone(t.db.next), nil
}

// Snapshot implements transfer.Database.
func (t *Transfer) Snapshot(ctx context.Context) (store.Snapshot, error) {
	return t.reads.snapshot(ctx)
}

// clearRows is how many rows are removed at a time.
const clearRows = 512

// Clear implements transfer.Database.
func (t *Transfer) Clear(ctx context.Context, under store.Fence) error {
	var keys [][]byte
	err := t.eachKey(ctx, func(k []byte) error {
		keys = append(keys, bytes.Clone(k))
		if len(keys) < clearRows {
			return nil
		}
		gone := keys
		keys = nil
		return t.remove(under, gone)
	})
	if err != nil {
		return err
	}
	for node := range t.db.next {
		keys = append(keys, nextKey(node))
	}
	if err := t.remove(under, keys); err != nil {
		return err
	}
	t.db.next = map[string]uint64{}
	return nil
}

func (t *Transfer) remove(under store.Fence, keys [][]byte) error {
	return t.write(under, under, func(txn *badger.Txn) error {
		for _, k := range keys {
			if err := txn.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Load implements transfer.Database.
func (t *Transfer) Load(_ context.Context, under store.Fence, rows []store.Put) error {
	return t.write(under, under, func(txn *badger.Txn) error {
		for _, r := range rows {
			if err := checkKey(r.Key); err != nil {
				return err
			}
			if err := txn.Set([]byte(r.Key), r.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetLogs implements transfer.Database.
func (t *Transfer) SetLogs(_ context.Context, under store.Fence, next map[string]uint64) error {
	err := t.write(under, under, func(txn *badger.Txn) error {
		for node, index := range next {
			if err := txn.Set(nextKey(node), encodeNext(index)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		t.db.next = maps.Clone(next)
	}
	return err
}

// write makes a batch of what fill puts into it and of the fence. After an error of the engine the database must be opened
// again.
func (t *Transfer) write(was, now store.Fence, fill func(*badger.Txn) error) error {
	if was != t.db.fence {
		return store.ErrConflict
	}
	if err := checkSpace(t.opts); err != nil {
		return err
	}
	fence, err := now.Encode()
	if err != nil {
		return err
	}
	txn := t.db.db.NewTransactionAt(t.db.batch, true)
	defer txn.Discard()
	if err := fill(txn); err != nil {
		return fmt.Errorf("badgerstore: adding a row to the transaction: %w", err)
	}
	if err := txn.Set([]byte(fenceKey), fence); err != nil {
		return fmt.Errorf("badgerstore: adding the fence to the transaction: %w", err)
	}
	if err := t.opts.commitAt(txn, t.db.batch+1); err != nil {
		return fmt.Errorf("badgerstore: writing a batch: %s", oneLine(err.Error()))
	}
	t.db.batch++
	t.db.fence = now
	t.reads.advance(t.db.batch, &batch{})
	return nil
}

// Close closes the database.
func (t *Transfer) Close() error {
	t.reads.close()
	return t.db.close()
}
