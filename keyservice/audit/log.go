package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"ramzban/keyservice/store"
)

// ErrTampered: a row of the log is not what the service wrote under that index.
var ErrTampered = errors.New("an audit entry was changed in the database")

// Prefix begins the key of every entry row; the node follows, a slash, and the index, 8 bytes, big endian.
const Prefix store.Key = "a/"

// Position is where an entry stands: every node has a log of its own, whose indexes are dense, counted from 0.
type Position struct {
	Node  string
	Index uint64
}

// NodePrefix begins the keys of one node's entries.
func NodePrefix(node string) store.Key { return Prefix + store.Key(node) + "/" }

// EntryKey is the row of the entry at this position.
func EntryKey(p Position) store.Key {
	return NodePrefix(p.Node) + store.Key(binary.BigEndian.AppendUint64(nil, p.Index))
}

// PositionOf returns the position of an entry row's key. Of a key that is none it returns the node if it has one.
func PositionOf(k store.Key) (Position, error) {
	rest, ok := strings.CutPrefix(string(k), string(Prefix))
	node, index, found := strings.Cut(rest, "/")
	p := Position{Node: node}
	if !ok || !found || len(index) != 8 {
		return p, fmt.Errorf("%w: %q is no entry's key", ErrTampered, string(k))
	}
	p.Index = binary.BigEndian.Uint64([]byte(index))
	return p, nil
}

// Log turns entries into rows and back. Each row carries a MAC over its position and entry, under a key the host holds:
// who has only the database can neither change an entry nor move it to another index or log. What proves more, and to
// others, is the tree.
type Log struct {
	key  atomic.Pointer[[]byte]
	node string
}

// NewLog makes a node's log. It reads those of all nodes. Before Use it can do neither.
func NewLog(node string) *Log { return &Log{node: node} }

// Use gives the log the key from which that of its MACs is made. It is the same for the life of the database.
func (l *Log) Use(hostKey []byte) {
	m := hmac.New(sha256.New, hostKey)
	m.Write([]byte("ramzban/audit-entry/3\x00"))
	key := m.Sum(nil)
	l.key.Store(&key)
}

var errNoKey = errors.New("the audit log has no key yet")

// row is how an entry is stored.
type row struct {
	Entry []byte `cbor:"1,keyasint"`
	MAC   []byte `cbor:"2,keyasint"`
}

// mac: the row's key tells where the node's name ends, as no name has a slash.
func (l *Log) mac(p Position, entry []byte) ([]byte, error) {
	key := l.key.Load()
	if key == nil {
		return nil, errNoKey
	}
	m := hmac.New(sha256.New, *key)
	m.Write([]byte(EntryKey(p)))
	m.Write(entry)
	return m.Sum(nil), nil
}

// Sequence is the store's Sequencer: one row per entry, under its index in this node's log.
func (l *Log) Sequence(first uint64, entries [][]byte) ([]store.Put, error) {
	puts := make([]store.Put, len(entries))
	for i, e := range entries {
		p := Position{l.node, first + uint64(i)}
		mac, err := l.mac(p, e)
		if err != nil {
			return nil, err
		}
		value, err := store.Encode(row{Entry: e, MAC: mac})
		if err != nil {
			return nil, err
		}
		puts[i] = store.Put{Key: EntryKey(p), Value: value}
	}
	return puts, nil
}

// Leaf reads the bytes of an entry's row, which are the leaf of the node's Merkle tree; ErrTampered if they are not what a
// node wrote at this position of its log.
func (l *Log) Leaf(it store.Item) (Position, []byte, error) {
	p, err := PositionOf(it.Key)
	if err != nil {
		return p, nil, err
	}
	r, err := store.Decode[row](it.Value)
	if err != nil {
		return p, nil, fmt.Errorf("%w: entry %d of %s: %w", ErrTampered, p.Index, p.Node, err)
	}
	mac, err := l.mac(p, r.Entry)
	if err != nil {
		return p, nil, err
	}
	if !hmac.Equal(r.MAC, mac) {
		return p, nil, fmt.Errorf("%w: entry %d of %s: its MAC is wrong", ErrTampered, p.Index, p.Node)
	}
	return p, r.Entry, nil
}

// Open reads an entry's row; ErrTampered if it is not what a node wrote at this position of its log.
func (l *Log) Open(it store.Item) (Position, Entry, error) {
	p, leaf, err := l.Leaf(it)
	if err != nil {
		return p, Entry{}, err
	}
	e, err := Decode(leaf)
	if err == nil && e.Node != p.Node {
		err = errors.New("it names another node")
	}
	if err != nil {
		return p, Entry{}, fmt.Errorf("%w: entry %d of %s: %w", ErrTampered, p.Index, p.Node, err)
	}
	return p, e, nil
}
