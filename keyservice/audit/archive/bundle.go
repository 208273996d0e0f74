package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
)

// ErrBundle: a file does not prove what it says.
var ErrBundle = errors.New("the bundle proves nothing")

// Proven is an entry with what proves that it is in its node's log.
type Proven struct {
	Index uint64
	Leaf  []byte // the entry's CBOR
	Proof tlog.RecordProof
}

// Bundle proves entries of one token: each is in the tree of a signed checkpoint. It proves nothing about entries that are
// not in it.
type Bundle struct {
	Installation string // whose logs they are in, by the checkpoints; set by OpenBundle

	Serial      string
	Time        time.Time         // that was asked for
	Checkpoints map[string][]byte // the signed notes, by node
	Keys        []audit.PublicKey // for convenience: trust comes from keys got elsewhere
	Entries     []Proven
}

// AddKeys adds the keys that the bundle does not name yet.
func (b *Bundle) AddKeys(keys []audit.PublicKey) {
	for _, k := range keys {
		if !isAmong(k, b.Keys) {
			b.Keys = append(b.Keys, k)
		}
	}
}

// isAmong tells whether a key is one of these.
func isAmong(k audit.PublicKey, keys []audit.PublicKey) bool {
	return slices.ContainsFunc(keys, func(other audit.PublicKey) bool { return bytes.Equal(other.DER(), k.DER()) })
}

// bundleFile is a bundle as it is written: indented JSON.
type bundleFile struct {
	Version     int               `json:"ramzban_proof"`
	Serial      string            `json:"serial"`
	Time        time.Time         `json:"time"`
	Checkpoints map[string]string `json:"checkpoints"`
	Keys        string            `json:"keys"`
	Entries     []provenLine      `json:"entries"`
}

type provenLine struct {
	line
	Proof [][]byte `json:"proof"` // RFC 6962 audit path, from the leaf on
}

// Encode writes the bundle's file.
func (b Bundle) Encode() ([]byte, error) {
	f := bundleFile{Version: 1, Serial: b.Serial, Time: b.Time.UTC(), Checkpoints: map[string]string{}, Keys: string(pemOf(b.Keys)), Entries: []provenLine{}}
	for node, signed := range b.Checkpoints {
		f.Checkpoints[node] = string(signed)
	}
	for _, p := range b.Entries {
		e, err := audit.Decode(p.Leaf)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBundle, err)
		}
		l := provenLine{readable(p.Index, p.Leaf, e), [][]byte{}}
		for _, h := range p.Proof {
			l.Proof = append(l.Proof, h[:])
		}
		f.Entries = append(f.Entries, l)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return text.Bytes(), nil
}

// decodeBundle reads what Encode wrote, and nothing else.
func decodeBundle(text []byte) (Bundle, error) {
	var f bundleFile
	if err := json.Unmarshal(text, &f); err != nil || f.Version != 1 {
		return Bundle{}, fmt.Errorf("%w: it is no bundle of `ramzban audit prove`", ErrBundle)
	}
	keys, err := audit.ParsePublicKeys([]byte(f.Keys))
	if err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	b := Bundle{Serial: f.Serial, Time: f.Time, Checkpoints: map[string][]byte{}, Keys: keys}
	for node, signed := range f.Checkpoints {
		b.Checkpoints[node] = []byte(signed)
	}
	for _, l := range f.Entries {
		p := Proven{Index: l.Index, Leaf: l.Leaf}
		for _, h := range l.Proof {
			if len(h) != tlog.HashSize {
				return Bundle{}, fmt.Errorf("%w: a hash of a proof has %d bytes", ErrBundle, len(h))
			}
			p.Proof = append(p.Proof, tlog.Hash(h))
		}
		b.Entries = append(b.Entries, p)
	}
	again, err := b.Encode()
	if err == nil && !bytes.Equal(again, text) {
		err = fmt.Errorf("%w: what it says of its entries is not what their leaves say, or it is written in another way", ErrBundle)
	}
	return b, err
}

// Statement is an entry that a bundle proves.
type Statement struct {
	Index  uint64      `json:"index"`
	Entry  audit.Entry `json:"-"`
	Signed uint64      `json:"signed"` // the size of the log that it is proven to be in …
	By     time.Time   `json:"by"`     // … and when that was signed
}

// MaxBundle is more than any bundle has, in bytes.
const MaxBundle = 16 << 20

// OpenBundle reads a bundle and checks everything in it against the keys; ErrBundle says what is wrong.
func OpenBundle(text []byte, keys []audit.PublicKey) (Bundle, []Statement, error) {
	if len(text) > MaxBundle {
		return Bundle{}, nil, fmt.Errorf("%w: it has more than %d bytes", ErrBundle, MaxBundle)
	}
	b, err := decodeBundle(text)
	if err != nil {
		return Bundle{}, nil, err
	}
	signed, err := b.openCheckpoints(keys)
	if err != nil {
		return Bundle{}, nil, err
	}
	var proven []Statement
	for _, p := range b.Entries {
		s, err := b.check(p, signed)
		if err == nil && slices.ContainsFunc(proven, func(had Statement) bool { return had.Index == s.Index && had.Entry.Node == s.Entry.Node }) {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return Bundle{}, nil, fmt.Errorf("%w: entry %d: %w", ErrBundle, p.Index, err)
		}
		proven = append(proven, s)
	}
	for node := range signed {
		if !slices.ContainsFunc(proven, func(s Statement) bool { return s.Entry.Node == node }) {
			return Bundle{}, nil, fmt.Errorf("%w: it has no entry of %s, but a checkpoint", ErrBundle, node)
		}
	}
	if proven == nil {
		return Bundle{}, nil, fmt.Errorf("%w: it has no entries", ErrBundle)
	}
	for _, k := range b.Keys {
		if !isAmong(k, keys) {
			return Bundle{}, nil, fmt.Errorf("%w: it names a key that was not given with --key", ErrBundle)
		}
	}
	return b, proven, nil
}

// openCheckpoints opens the bundle's checkpoints, by node. All must be of one installation.
func (b *Bundle) openCheckpoints(keys []audit.PublicKey) (map[string]audit.Checkpoint, error) {
	signed := map[string]audit.Checkpoint{}
	for node, note := range b.Checkpoints {
		installation, of, err := audit.OriginOf(note)
		if err == nil && of != node {
			err = fmt.Errorf("it is one of %s", of)
		}
		if err == nil && b.Installation != "" && b.Installation != installation {
			err = fmt.Errorf("it is of %s, another one of %s", installation, b.Installation)
		}
		var c audit.Checkpoint
		if err == nil {
			c, err = audit.OpenCheckpoint(note, audit.Origin(installation, node), keys)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the checkpoint of %s: %w", ErrBundle, node, err)
		}
		b.Installation, signed[node] = installation, c
	}
	return signed, nil
}

// check checks one entry: it is about the token, and in the tree that its node signed.
func (b Bundle) check(p Proven, signed map[string]audit.Checkpoint) (Statement, error) {
	e, err := audit.Decode(p.Leaf)
	if err != nil {
		return Statement{}, err
	}
	if !about(e, b.Serial) {
		return Statement{}, errors.New("it is about another token")
	}
	c, is := signed[e.Node]
	if !is {
		return Statement{}, fmt.Errorf("there is no checkpoint of %s", e.Node)
	}
	if p.Index >= uint64(c.Tree.N) {
		return Statement{}, fmt.Errorf("its checkpoint tells of %d entries", c.Tree.N)
	}
	if err := tlog.CheckRecord(p.Proof, c.Tree.N, c.Tree.Hash, int64(p.Index), tlog.RecordHash(p.Leaf)); err != nil {
		return Statement{}, fmt.Errorf("it is not in the tree of its checkpoint: %w", err)
	}
	return Statement{Index: p.Index, Entry: e, Signed: uint64(c.Tree.N), By: c.Time}, nil
}

// about tells whether an entry is about a token.
func about(e audit.Entry, serial string) bool {
	return serial != "" && (e.Serial == serial || slices.ContainsFunc(e.Also, func(p audit.Part) bool { return p.Serial == serial }))
}
