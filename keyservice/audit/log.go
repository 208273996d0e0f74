package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"ramzban/keyservice/store"
)

// ErrTampered: a row of the log is not what the service wrote under that index.
var ErrTampered = errors.New("an audit entry was changed in the database")

// Prefix begins the key of every entry row; the index follows, 8 bytes, big endian.
const Prefix store.Key = "a/"

// EntryKey is the row of the entry with this index.
func EntryKey(index uint64) store.Key {
	return Prefix + store.Key(binary.BigEndian.AppendUint64(nil, index))
}

// Index returns the index of an entry row's key.
func Index(k store.Key) (uint64, error) {
	if len(k) != len(Prefix)+8 || k[:len(Prefix)] != Prefix {
		return 0, fmt.Errorf("%w: %q is no entry's key", ErrTampered, string(k))
	}
	return binary.BigEndian.Uint64([]byte(k[len(Prefix):])), nil
}

// Log turns entries into rows and back. Each row carries a MAC over its index and entry, under a key the host holds: who
// has only the database can neither change an entry nor move it to another index.
type Log struct{ key []byte }

// NewLog makes a log whose MAC key is made from the service's state key.
func NewLog(stateKey []byte) *Log {
	m := hmac.New(sha256.New, stateKey)
	m.Write([]byte("ramzban/audit-entry/1\x00"))
	return &Log{key: m.Sum(nil)}
}

// row is how an entry is stored.
type row struct {
	Entry []byte `cbor:"1,keyasint"`
	MAC   []byte `cbor:"2,keyasint"`
}

func (l *Log) mac(index uint64, entry []byte) []byte {
	m := hmac.New(sha256.New, l.key)
	m.Write(binary.BigEndian.AppendUint64(nil, index))
	m.Write(entry)
	return m.Sum(nil)
}

// Sequence is the store's Sequencer: one row per entry, under its index.
func (l *Log) Sequence(first uint64, entries [][]byte) ([]store.Put, error) {
	puts := make([]store.Put, len(entries))
	for i, e := range entries {
		index := first + uint64(i)
		value, err := store.Encode(row{Entry: e, MAC: l.mac(index, e)})
		if err != nil {
			return nil, err
		}
		puts[i] = store.Put{Key: EntryKey(index), Value: value}
	}
	return puts, nil
}

// Open reads an entry's row; ErrTampered if it is not what was written under this index.
func (l *Log) Open(it store.Item) (index uint64, e Entry, err error) {
	if index, err = Index(it.Key); err != nil {
		return 0, Entry{}, err
	}
	r, err := store.Decode[row](it.Value)
	if err != nil {
		return index, Entry{}, fmt.Errorf("%w: entry %d: %w", ErrTampered, index, err)
	}
	if !hmac.Equal(r.MAC, l.mac(index, r.Entry)) {
		return index, Entry{}, fmt.Errorf("%w: entry %d: its MAC is wrong", ErrTampered, index)
	}
	if e, err = Decode(r.Entry); err != nil {
		return index, Entry{}, fmt.Errorf("%w: entry %d: %w", ErrTampered, index, err)
	}
	return index, e, nil
}
