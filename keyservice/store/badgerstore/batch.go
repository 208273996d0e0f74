package badgerstore

import (
	"fmt"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
)

// batch is one transaction in the making.
type batch struct {
	number   uint64      // its commit timestamp
	first    uint64      // index of its first accepted member
	txn      *badger.Txn // its rows
	durable  *badger.Txn // the state before it
	rows     *readers    // the state before it, as far as it is in memory
	written  map[store.Key]write
	accepted []*member // in index order
	refused  []*member // a precondition does not hold
}

// prepare decides which members hold and puts their rows, the Sequencer's and the engine's into a transaction. Nothing
// is written yet: after an error no member has happened. An engine error stops the committer.
func (c *committer) prepare(members []*member) (*batch, error) {
	b := &batch{
		number:  c.batch + 1,
		first:   c.next,
		txn:     c.s.db.NewTransactionAt(c.batch, true),
		durable: c.s.db.NewTransactionAt(c.batch, false),
		rows:    c.s.reads,
		written: make(map[store.Key]write, 2*len(members)),
	}
	defer b.durable.Discard()
	if err := b.fill(members); err != nil {
		b.txn.Discard()
		c.fail(err)
		return nil, err
	}
	if len(b.accepted) == 0 {
		return b, nil
	}
	if err := b.sequence(c.s.opts.Sequencer); err != nil {
		b.txn.Discard()
		return nil, err
	}
	return b, nil
}

// fill takes the members in turn; each sees the writes of those before it.
func (b *batch) fill(members []*member) error {
	for _, m := range members {
		holds, err := b.holds(m.require)
		if err != nil {
			return err
		}
		if !holds {
			b.refused = append(b.refused, m)
			continue
		}
		for _, w := range m.writes {
			if err := b.write(w); err != nil {
				return err
			}
		}
		b.accepted = append(b.accepted, m)
	}
	return nil
}

func (b *batch) holds(require []store.Require) (bool, error) {
	for _, r := range require {
		version, err := b.version(r.Key)
		if err != nil || version != r.Version {
			return false, err
		}
	}
	return true, nil
}

// version returns a row's version as the next member sees it.
func (b *batch) version(k store.Key) (store.Version, error) {
	if w, ok := b.written[k]; ok {
		return w.row(b.number).version, nil
	}
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

func (b *batch) write(w write) error {
	b.written[w.key] = w
	if w.deletes {
		return b.set(b.txn.Delete([]byte(w.key)))
	}
	return b.set(b.txn.Set([]byte(w.key), w.value))
}

func (b *batch) set(err error) error {
	if err != nil {
		return fmt.Errorf("adding a row to the transaction: %w", err)
	}
	return nil
}

// sequence adds the Sequencer's rows and the engine's.
func (b *batch) sequence(sequencer store.Sequencer) error {
	if sequencer != nil {
		if err := b.addEntries(sequencer); err != nil {
			return fmt.Errorf("sequencing the audit entries from index %d: %w", b.first, err)
		}
	}
	return b.set(b.txn.Set(nextKey, encodeNext(b.first+uint64(len(b.accepted)))))
}

func (b *batch) addEntries(sequencer store.Sequencer) error {
	entries := make([][]byte, len(b.accepted))
	for i, m := range b.accepted {
		entries[i] = m.entry
	}
	puts, err := sequencer(b.first, entries)
	if err != nil {
		return err
	}
	for _, p := range puts {
		if _, taken := b.written[p.Key]; taken {
			return fmt.Errorf("its row %q is also written by a change of the batch", p.Key)
		}
		if err := checkPut(p); err != nil {
			return err
		}
		if err := b.write(write{key: p.Key, value: p.Value, logged: true}); err != nil {
			return err
		}
	}
	return nil
}
