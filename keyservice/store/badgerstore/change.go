package badgerstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"ramzban/keyservice/store"
)

// firstKey is the lowest key that does not belong to the engine.
const firstKey store.Key = "\x01"

// reservedPrefix begins the keys that Badger keeps for itself.
const reservedPrefix = "!badger!"

// What Badger counts for a row besides its key and value, and what is set aside for the Sequencer.
const (
	rowBytes       = 12  // two meta bytes and the timestamp, as Txn.checkSize counts them
	sequencerRows  = 4   // for each entry
	sequencerBytes = 256 // for each entry, besides twice its size
)

// weight is what a change takes of a transaction, counted as Badger does.
type weight struct{ rows, bytes int64 }

func (w weight) plus(o weight) weight   { return weight{w.rows + o.rows, w.bytes + o.bytes} }
func (w weight) fits(limit weight) bool { return w.rows <= limit.rows && w.bytes <= limit.bytes }

// member is a change on its way to the disk, and the caller who waits for it.
type member struct {
	require []store.Require
	writes  []write
	entry   []byte
	weight  weight
	done    chan answer // takes one answer without a reader: the caller may have gone
}

type write struct {
	key     store.Key
	value   []byte
	deletes bool
	logged  bool // the Sequencer's: hardly ever read
}

// row returns what the write leaves when the batch has this number.
func (w write) row(batch uint64) held {
	if w.deletes {
		return held{}
	}
	return held{value: w.value, version: store.Version(batch)}
}

func (w write) weight() weight {
	return weight{rows: 1, bytes: int64(len(w.key)) + int64(len(w.value)) + rowBytes}
}

type answer struct {
	index uint64
	err   error
}

// newMember copies the change, so that its caller may reuse the buffers when the wait was cut short.
func newMember(c store.Change) (*member, error) {
	if err := checkChange(c); err != nil {
		return nil, err
	}
	m := &member{
		require: append([]store.Require(nil), c.Require...),
		writes:  make([]write, 0, len(c.Put)+len(c.Delete)),
		entry:   bytes.Clone(c.Entry),
		weight:  weight{rows: sequencerRows, bytes: 2*int64(len(c.Entry)) + sequencerBytes},
		done:    make(chan answer, 1),
	}
	for _, p := range c.Put {
		m.writes = append(m.writes, write{key: p.Key, value: bytes.Clone(p.Value)})
	}
	for _, k := range c.Delete {
		m.writes = append(m.writes, write{key: k, deletes: true})
	}
	for _, w := range m.writes {
		m.weight = m.weight.plus(w.weight())
	}
	return m, nil
}

func checkChange(c store.Change) error {
	switch {
	case len(c.Entry) == 0:
		return errors.New("a change needs an audit entry")
	case len(c.Entry) > store.MaxValue:
		return fmt.Errorf("the audit entry has %d bytes, at most %d are allowed", len(c.Entry), store.MaxValue)
	}
	required := make(map[store.Key]bool, len(c.Require))
	for _, r := range c.Require {
		if err := checkNew(required, r.Key); err != nil {
			return fmt.Errorf("a precondition: %w", err)
		}
	}
	written := make(map[store.Key]bool, len(c.Put)+len(c.Delete))
	for _, p := range c.Put {
		if err := checkPut(p); err != nil {
			return fmt.Errorf("a row to write: %w", err)
		}
		if err := checkNew(written, p.Key); err != nil {
			return fmt.Errorf("a row to write: %w", err)
		}
	}
	for _, k := range c.Delete {
		if err := checkNew(written, k); err != nil {
			return fmt.Errorf("a row to delete: %w", err)
		}
	}
	return nil
}

func checkPut(p store.Put) error {
	if len(p.Value) > store.MaxValue {
		return fmt.Errorf("a value has %d bytes, at most %d are allowed", len(p.Value), store.MaxValue)
	}
	return checkKey(p.Key)
}

// checkNew checks a key that may appear only once.
func checkNew(seen map[store.Key]bool, k store.Key) error {
	if err := checkKey(k); err != nil {
		return err
	}
	if seen[k] {
		return errors.New("the same key twice in one change")
	}
	seen[k] = true
	return nil
}

func checkKey(k store.Key) error {
	switch {
	case k == "":
		return errors.New("badgerstore: the key is empty")
	case k < firstKey:
		return errors.New("badgerstore: keys that begin with a zero byte belong to the engine")
	case strings.HasPrefix(string(k), reservedPrefix):
		return fmt.Errorf("badgerstore: keys that begin with %s belong to Badger", reservedPrefix)
	case len(k) > store.MaxKey:
		return fmt.Errorf("badgerstore: the key has %d bytes, at most %d are allowed", len(k), store.MaxKey)
	}
	return nil
}
