// Package group gathers changes that arrive while the last batch is being written, so that they share the next one, and
// decides in order which of them hold.
//
// It must not know how an engine reads or writes.
package group

import (
	"bytes"
	"time"

	"ramzban/keyservice/store"
)

// What a change takes of a batch besides its own rows: room for what a Sequencer makes of its entry.
const (
	EntryRows  = 4
	EntryBytes = 256 // besides twice the entry's size
)

// Weight is what a change takes of a batch.
type Weight struct{ Rows, Bytes int64 }

// Plus returns the sum of two weights.
func (w Weight) Plus(o Weight) Weight { return Weight{w.Rows + o.Rows, w.Bytes + o.Bytes} }

// Fits tells whether a weight is within a limit.
func (w Weight) Fits(limit Weight) bool { return w.Rows <= limit.Rows && w.Bytes <= limit.Bytes }

// Member is a change on its way to the disk, and the caller who waits for it.
type Member struct {
	Require []store.Require
	Writes  []Write
	Until   time.Time // zero: none
	Entry   []byte
	Weight  Weight // without preconditions

	done chan answer // takes one answer without a reader: the caller may have gone
}

// Write is a row put or deleted.
type Write struct {
	Key     store.Key
	Value   []byte // not nil, unless it deletes
	Deletes bool
}

type answer struct {
	index uint64
	err   error
}

// NewMember copies a change, so that its caller may reuse the buffers when the wait was cut short. rowBytes is what a row
// takes besides its key and value.
func NewMember(c store.Change, rowBytes int64) (*Member, error) {
	if err := store.CheckChange(c); err != nil {
		return nil, err
	}
	m := &Member{
		Require: append([]store.Require(nil), c.Require...),
		Writes:  make([]Write, 0, len(c.Put)+len(c.Delete)),
		Until:   c.Until,
		Entry:   bytes.Clone(c.Entry),
		Weight:  Weight{Rows: EntryRows, Bytes: 2*int64(len(c.Entry)) + EntryBytes},
		done:    make(chan answer, 1),
	}
	for _, p := range c.Put {
		m.Writes = append(m.Writes, Write{Key: p.Key, Value: append([]byte{}, p.Value...)})
	}
	for _, k := range c.Delete {
		m.Writes = append(m.Writes, Write{Key: k, Deletes: true})
	}
	for _, w := range m.Writes {
		m.Weight = m.Weight.Plus(Weight{Rows: 1, Bytes: int64(len(w.Key)) + int64(len(w.Value)) + rowBytes})
	}
	return m, nil
}

// Accept answers members of consecutive indexes, the first of which has index first.
func Accept(members []*Member, first uint64) {
	for i, m := range members {
		m.done <- answer{index: first + uint64(i)}
	}
}

// Refuse answers members with an error.
func Refuse(members []*Member, err error) {
	for _, m := range members {
		m.done <- answer{err: err}
	}
}
