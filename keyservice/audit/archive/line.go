package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"ramzban/keyservice/audit"
)

// line is one entry as it stands in a segment, or in a bundle of proofs. The leaf is what is signed; the rest says the same
// so that people and other programs can read it, and must be exactly what the leaf says.
type line struct {
	Index      uint64        `json:"index"`
	Leaf       []byte        `json:"leaf"` // the entry's CBOR
	Time       time.Time     `json:"time"`
	Node       string        `json:"node"`
	Actor      string        `json:"actor"`
	Action     string        `json:"action"`
	Outcome    audit.Outcome `json:"outcome"`
	Reason     string        `json:"reason,omitempty"`
	Serial     string        `json:"serial,omitempty"`
	Use        string        `json:"use,omitempty"`
	RequestID  string        `json:"request_id,omitempty"`
	Commitment []byte        `json:"commitment,omitempty"`
	Revision   uint64        `json:"revision,omitempty"`
	Next       uint64        `json:"next,omitempty"`
	Budget     uint64        `json:"budget,omitempty"`
	State      uint64        `json:"state,omitempty"`
	Key        []byte        `json:"key,omitempty"`
	Also       []part        `json:"also,omitempty"`
	Tree       *tree         `json:"tree,omitempty"`

	Detail      string `json:"detail,omitempty"`
	Proposal    string `json:"proposal,omitempty"`
	Document    string `json:"document,omitempty"` // JSON, exactly as it was signed
	Signature   []byte `json:"signature,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`

	Maker *makerSeed `json:"maker_seed,omitempty"`
}

type makerSeed struct {
	Digest []byte `json:"digest"`
	Holder uint64 `json:"holder"`
}

type part struct {
	Serial     string `json:"serial"`
	Commitment []byte `json:"commitment"`
	Revision   uint64 `json:"revision"`
	Next       uint64 `json:"next"`
	State      uint64 `json:"state"`
}

type tree struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

// readable makes the line of a leaf.
func readable(index uint64, leaf []byte, e audit.Entry) line {
	l := line{
		Index: index, Leaf: leaf, Time: time.UnixMilli(e.Time).UTC(), Node: e.Node, Actor: e.Actor, Action: e.Action, Outcome: e.Outcome,
		Reason: e.Reason, Serial: e.Serial, Use: e.Use, RequestID: e.RequestID, Commitment: e.Commitment, Revision: e.Revision,
		Next: e.Next, Budget: e.Budget, State: e.State, Key: e.Key,
		Detail: e.Detail, Proposal: e.Proposal, Document: string(e.Document), Signature: e.Signature, Certificate: e.Certificate,
	}
	for _, p := range e.Also {
		l.Also = append(l.Also, part(p))
	}
	if e.Tree != nil {
		l.Tree = &tree{e.Tree.Size, e.Tree.Root}
	}
	if e.Maker != nil {
		l.Maker = new(makerSeed(*e.Maker))
	}
	return l
}

// render returns the bytes of an entry's line, its end included.
func render(index uint64, leaf []byte) ([]byte, audit.Entry, error) {
	e, err := audit.Decode(leaf)
	if err != nil {
		return nil, e, err
	}
	b, err := encode(readable(index, leaf, e))
	return b, e, err
}

// encode writes one JSON document and a newline.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("writing an entry as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// read is what a line says.
type read struct {
	index uint64
	leaf  []byte
	entry audit.Entry
	exact bool // it is what render makes of index and leaf
}

// readLine reads a line of a segment, with its end. An error says why it is none.
func readLine(b []byte) (read, error) {
	var l struct {
		Index *uint64 `json:"index"`
		Leaf  []byte  `json:"leaf"`
	}
	if err := json.Unmarshal(b, &l); err != nil || l.Index == nil {
		return read{}, fmt.Errorf("%w: it is no entry's JSON", ErrArchive)
	}
	again, e, err := render(*l.Index, l.Leaf)
	if err != nil {
		return read{}, err
	}
	return read{*l.Index, l.Leaf, e, bytes.Equal(again, b)}, nil
}
