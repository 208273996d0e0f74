package badgerstore

import (
	"fmt"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// batch is one transaction in the making.
type batch struct {
	group.Decision
	entries []group.Write // the Sequencer's rows
	number  uint64        // its commit timestamp
	first   uint64        // index of its first accepted member
	txn     *badger.Txn   // its rows
	durable *badger.Txn   // the state before it
	rows    *readers      // the state before it, as far as it is in memory
}

// prepare decides which members hold and puts their rows, the Sequencer's and the engine's into a transaction. Nothing
// is written yet: after an error no member has happened. An engine error stops the committer.
func (c *committer) prepare(members []*group.Member) (*batch, error) {
	b := &batch{
		number:  c.batch + 1,
		first:   c.next,
		txn:     c.s.db.NewTransactionAt(c.batch, true),
		durable: c.s.db.NewTransactionAt(c.batch, false),
		rows:    c.s.reads,
	}
	defer b.durable.Discard()
	if err := b.fill(members, c.s.opts.now()); err != nil {
		b.txn.Discard()
		c.fail(err)
		return nil, err
	}
	if len(b.Accepted) == 0 {
		return b, nil
	}
	if err := b.sequence(c.s.opts); err != nil {
		b.txn.Discard()
		return nil, err
	}
	return b, nil
}

// fill decides the members and puts what they leave into the transaction.
func (b *batch) fill(members []*group.Member, now time.Time) (err error) {
	if b.Decision, err = group.Decide(members, now, b.version); err != nil {
		return err
	}
	for _, w := range b.Written {
		if err := b.put(w); err != nil {
			return err
		}
	}
	return nil
}

// version returns a row's version before the batch.
func (b *batch) version(k store.Key) (store.Version, error) {
	if r, ok := b.rows.known(k); ok {
		return r.version, nil
	}
	item, err := get(b.durable, k)
	if err != nil {
		return 0, err
	}
	b.rows.learn(item)
	return item.Version, nil
}

func (b *batch) put(w group.Write) error {
	if w.Deletes {
		return b.set(b.txn.Delete([]byte(w.Key)))
	}
	return b.set(b.txn.Set([]byte(w.Key), w.Value))
}

func (b *batch) set(err error) error {
	if err != nil {
		return fmt.Errorf("adding a row to the transaction: %w", err)
	}
	return nil
}

// sequence adds the Sequencer's rows and the engine's.
func (b *batch) sequence(o Options) (err error) {
	if b.entries, err = b.Sequence(o.Sequencer, b.first); err != nil {
		return err
	}
	for _, w := range b.entries {
		if err := checkReserved(w.Key); err != nil {
			return err
		}
		if err := b.put(w); err != nil {
			return err
		}
	}
	return b.set(b.txn.Set(nextKey(o.Node), encodeNext(b.first+uint64(len(b.Accepted)))))
}

// left returns what a write leaves when the batch has this number.
func left(w group.Write, batch uint64) held {
	if w.Deletes {
		return held{}
	}
	return held{value: w.Value, version: store.Version(batch)}
}
