// Package store says what the key service needs of its storage: all-or-nothing changes with preconditions, an audit
// entry with each, and reads of durable state only. Engines live in its sub-packages and pass storetest.
//
// It must not know what the values mean: records, seals and audit entries are bytes here.
package store

import (
	"context"
	"errors"
	"time"
)

// Sentinel errors of Commit. Callers test them with errors.Is.
var (
	// ErrConflict: a precondition does not hold, or it is too late; nothing of this change was written. Reload and decide again.
	ErrConflict = errors.New("store: a precondition of the change no longer holds")
	// ErrUnknown: the change may or may not be durable. It must not be reported as either.
	ErrUnknown = errors.New("store: it is not known whether the change was written")
	// ErrFailed: nothing of this change was written, and trying again at once will not help.
	ErrFailed = errors.New("store: the change was not written")
	// ErrNoSpace comes with ErrFailed: the free-space reserve is reached. Service resumes by itself when there is space.
	ErrNoSpace = errors.New("store: free space on the database's disk is below its reserve")
)

// Limits of every engine, in bytes. A change beyond them, or too large for one of the engine's transactions, is ErrFailed.
const (
	MaxKey   = 1 << 10
	MaxValue = 1 << 18 // also of an audit entry
)

// Key names one row. It is binary-safe and ordered bytewise. Keys that begin with a zero byte belong to the engine.
type Key string

// Version of a row: grows with every write of it, 0 when the row does not exist. A row that was deleted and written
// again has a version it never had before.
type Version uint64

// Require is a precondition: the row has exactly this version when the change is written.
type Require struct {
	Key     Key
	Version Version // 0: must not exist
}

// Put writes one row.
type Put struct {
	Key   Key
	Value []byte
}

// Item is one row as read. An absent row has Version 0 and a nil Value.
type Item struct {
	Key     Key
	Value   []byte
	Version Version
}

// Change is written whole or not at all, independently of the changes it shares a batch with.
type Change struct {
	Require []Require // rows read, written or not
	Put     []Put
	Delete  []Key
	Until   time.Time // the store's clock must not have reached it when the preconditions are checked; zero: no limit
	Entry   []byte    // audit entry without its index; must not be empty: nothing changes unaudited
}

// Store is the contract of every engine; storetest states it as tests.
//
// Commit returns when the change is on stable storage. Accepted changes get dense indexes: each node counts its own from 0,
// over the life of the store. ctx ends the caller's wait, never the commit: after a cancelled wait the error is ErrUnknown.
//
// Get returns one Item per key, in the order asked, all from one consistent durable state.
//
// Snapshot returns a consistent durable state for scans; it must be closed.
//
// Now returns the time by the store's clock, which is one for all nodes that share the store and decides Change.Until.
type Store interface {
	Commit(ctx context.Context, change Change) (index uint64, err error)
	Get(ctx context.Context, keys ...Key) ([]Item, error)
	Snapshot(ctx context.Context) (Snapshot, error)
	Now(ctx context.Context) (time.Time, error)
}

// Snapshot is one consistent state of the store, whatever is committed meanwhile. Scan calls fn for every row whose
// key has the prefix and is at or after from ("" = from the first), in key order and in bounded memory, until fn
// returns an error, which Scan returns.
type Snapshot interface {
	Scan(ctx context.Context, prefix, from Key, fn func(Item) error) error
	Close()
}

// Sequencer is called in index order with the audit entries of each batch, the first of which has index first. Its
// rows join the batch's transaction: entries and the changes they describe become durable together. An error fails the batch.
type Sequencer func(first uint64, entries [][]byte) ([]Put, error)
