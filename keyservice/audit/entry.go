// Package audit is the log of decisions: what an entry says, how entries become rows in the order of their indexes, and
// how a log proves itself: by a Merkle tree over its entries, of which checkpoints are signed. An entry names serials and
// commitments, never a card number, password, PIN or code.
//
// It must not know the use cases, nor how rows are stored.
package audit

import (
	"fmt"

	"ramzban/keyservice/store"
)

// Outcome is how a decision ended.
type Outcome string

// The outcomes.
const (
	Done     Outcome = "done"     // the change asked for was made
	Accepted Outcome = "accepted" // a password was accepted
	Refused  Outcome = "refused"  // refused by a rule; Reason says which
	Denied   Outcome = "denied"   // the caller's roles do not allow it
	Tampered Outcome = "tampered" // a stored row does not carry its seal
	Resumed  Outcome = "resumed"  // the store can write again after a failure
	Repeated Outcome = "repeated" // a retry got the answer of an earlier decision; Reason is that decision's
	Begun    Outcome = "begun"    // intent: what two officers agreed on is being carried out from now on
	Failed   Outcome = "failed"   // … and was not; Reason says why
)

// Entry is one decision: who asked for what, and what came of it. Its index is given when it is committed. On disk it is
// CBOR with these integer keys, core deterministic encoding, schema version first.
type Entry struct {
	Schema     uint8   `cbor:"0,keyasint"`
	Time       int64   `cbor:"1,keyasint"` // Unix milliseconds, the deciding node's clock
	Node       string  `cbor:"2,keyasint"`
	Actor      string  `cbor:"3,keyasint"`
	Action     string  `cbor:"4,keyasint"`
	Outcome    Outcome `cbor:"5,keyasint"`
	Reason     string  `cbor:"6,keyasint,omitempty"`
	Serial     string  `cbor:"7,keyasint,omitempty"`
	Use        string  `cbor:"8,keyasint,omitempty"`
	RequestID  string  `cbor:"9,keyasint,omitempty"`
	Commitment []byte  `cbor:"10,keyasint,omitempty"` // salted, of the subject
	Revision   uint64  `cbor:"11,keyasint,omitempty"` // of the token record, after; without a serial, of the officers or the key ring
	Next       uint64  `cbor:"12,keyasint,omitempty"` // lowest acceptable moving factor, after
	Budget     uint64  `cbor:"13,keyasint,omitempty"` // sequence number of the guess budget, after
	State      uint64  `cbor:"14,keyasint,omitempty"` // sequence number of the token's state, after
	Key        []byte  `cbor:"15,keyasint,omitempty"` // of the idempotency row: day, and keyed digest of caller, action and idempotency key; a repeat has that of the first
	Also       []Part  `cbor:"16,keyasint,omitempty"` // further tokens of the same decision
	Tree       *Head   `cbor:"17,keyasint,omitempty"` // of this node's log: what a checkpoint says, or of the entries before the one that is wrong

	Proposal    string `cbor:"18,keyasint,omitempty"` // id of the officers' proposal that this belongs to
	Document    []byte `cbor:"19,keyasint,omitempty"` // an officer's proposal or approval: the bytes that were signed …
	Signature   []byte `cbor:"20,keyasint,omitempty"` // … detached, by the key of …
	Certificate []byte `cbor:"21,keyasint,omitempty"` // … this certificate: DER, those of intermediate authorities after it
	Detail      string `cbor:"22,keyasint,omitempty"` // what was done, in words, where neither action nor reason says it

	Maker *MakerSeed `cbor:"23,keyasint,omitempty"` // the maker's seed that the token was given, so that a restore knows of it
}

// MakerSeed names the seed of a hardware token, which outlives the token.
type MakerSeed struct {
	Digest []byte `cbor:"1,keyasint"` // of its fingerprint, under a key of the installation: the seed's row is found by it
	Holder uint64 `cbor:"2,keyasint"` // the token is the seed's first, second … holder
}

// Head is a Merkle tree over the first Size entries of a log.
type Head struct {
	Size uint64 `cbor:"1,keyasint"`
	Root []byte `cbor:"2,keyasint"` // 32 bytes
}

// Part is what a decision made of a token besides the first one.
type Part struct {
	Serial     string `cbor:"1,keyasint"`
	Commitment []byte `cbor:"2,keyasint"`
	Revision   uint64 `cbor:"3,keyasint"`
	Next       uint64 `cbor:"4,keyasint"`
	State      uint64 `cbor:"5,keyasint"`
}

const schema = 1

// Encode returns the entry's bytes as they are handed to the store.
func Encode(e Entry) ([]byte, error) {
	e.Schema = schema
	b, err := store.Encode(e)
	if err != nil {
		return nil, fmt.Errorf("encoding an audit entry: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote; unknown fields and other schema versions are errors.
func Decode(b []byte) (Entry, error) {
	e, err := store.Decode[Entry](b)
	if err != nil {
		return Entry{}, fmt.Errorf("decoding an audit entry: %w", err)
	}
	if e.Schema != schema {
		return Entry{}, fmt.Errorf("audit entry of schema %d: this version reads %d", e.Schema, schema)
	}
	return e, nil
}
