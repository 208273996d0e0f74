package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrMoved: the database was moved to another one, or is in the middle of that. A node must not serve from it.
var ErrMoved = errors.New("store: this database must not be served from")

// FenceState is what a database is in a copy from one to another.
type FenceState uint8

// Serving is the state of a database that was never part of a copy.
const (
	Serving   FenceState = iota // a node may open it
	Filling                     // a copy is being made into it
	Copying                     // a copy is being made of it
	Moved                       // a copy has taken its place
	Abandoned                   // a copy into it was given up; it is empty
	Restoring                   // a backup is being restored into it
)

// ID tells databases apart, wherever they are. The zero value is none.
type ID [16]byte

// NewID returns a random one.
func NewID() (id ID) {
	rand.Read(id[:]) // never fails
	return id
}

// String returns the ID in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Fence says who may use a database. Every engine keeps one with the database; the zero value is that of a new one.
type Fence struct {
	Own   ID         `cbor:"1,keyasint"` // of this database; zero until it is part of a copy
	State FenceState `cbor:"2,keyasint"`
	Peer  ID         `cbor:"3,keyasint"` // of the database copied from or to
	Where string     `cbor:"4,keyasint"` // that is, for people; without secrets
	Run   ID         `cbor:"5,keyasint"` // of the process that copies: the last one to begin may write
}

// Encode returns the fence as engines keep it; nothing for the zero value.
func (f Fence) Encode() ([]byte, error) {
	if f == (Fence{}) {
		return []byte{}, nil
	}
	return Encode(f)
}

// DecodeFence reads what Encode wrote.
func DecodeFence(b []byte) (Fence, error) {
	if len(b) == 0 {
		return Fence{}, nil
	}
	f, err := Decode[Fence](b)
	if err != nil {
		return Fence{}, fmt.Errorf("the fence: %w", err)
	}
	if f.State > Restoring {
		return Fence{}, fmt.Errorf("%w: the fence has the unknown state %d", ErrEncoding, f.State)
	}
	return f, nil
}

// Check returns ErrMoved, with what to do, unless a node may open the database.
func (f Fence) Check() error {
	if f.State == Serving {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMoved, f)
}

// String says what has become of the database and what to do, on one line.
func (f Fence) String() string {
	switch f.State {
	case Filling:
		return fmt.Sprintf("it is being filled from %s: run the same `ramzban store copy` again to finish that", f.Where)
	case Copying:
		return fmt.Sprintf("it is being copied to %s: run the same `ramzban store copy` again to finish that, or with --abandon to serve from here again", f.Where)
	case Moved:
		return fmt.Sprintf("it was moved to %s: serve from there, or from where that was moved since; to come back, copy from there to here with `ramzban store copy`", f.Where)
	case Abandoned:
		return "a copy into it was abandoned, and it is empty: serve from where the copy came from, or fill it with `ramzban store copy`"
	case Restoring:
		return fmt.Sprintf("%s is being restored into it: run the same `ramzban restore` again to finish that", f.Where)
	}
	return "a node may serve from it"
}
