package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Offer is a checkpoint on its way to a witness, as the body of add-checkpoint in https://c2sp.org/tlog-witness: the line
// "old" with the size of the checkpoint that the witness is believed to hold, a line for each hash of the proof that the
// new tree begins with that one, an empty line, the signed note.
type Offer struct {
	Old   int64 // 0: none
	Proof tlog.TreeProof
	Note  []byte
}

// MaxOffer is the most bytes that an offer of this service has: 63 hashes, and a note of four lines and a few signatures.
const MaxOffer = 16 << 10

const maxProof = 63

// What a witness says of an offer it does not take.
var (
	ErrOffer        = errors.New("not an offer to a witness")
	ErrContradicted = errors.New("the checkpoint contradicts the one that the witness holds")
)

// StaleError: the witness holds another checkpoint than the offer says.
type StaleError struct{ Size int64 } // 0: it holds none

// Error implements error.
func (e *StaleError) Error() string {
	return fmt.Sprintf("the witness holds a checkpoint of size %d", e.Size)
}

// Encode returns the body.
func (o Offer) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", o.Old)
	for _, h := range o.Proof {
		fmt.Fprintf(&b, "%s\n", h)
	}
	fmt.Fprintf(&b, "\n%s", o.Note)
	return b.Bytes()
}

// ParseOffer reads what Encode wrote; else ErrOffer.
func ParseOffer(body []byte) (Offer, error) {
	head, signed, found := bytes.Cut(body, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	old, isOld := strings.CutPrefix(lines[0], "old ")
	size, err := strconv.ParseInt(old, 10, 64)
	if !found || !isOld || err != nil || size < 0 || len(lines) > 1+maxProof || len(body) > MaxOffer {
		return Offer{}, ErrOffer
	}
	o := Offer{Old: size, Note: signed}
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return Offer{}, ErrOffer
		}
		o.Proof = append(o.Proof, h)
	}
	if !bytes.Equal(o.Encode(), body) {
		return Offer{}, ErrOffer
	}
	return o, nil
}

// Accept says whether a witness that holds one checkpoint, or none (the zero value), may hold the offered one instead.
// ErrOffer: it is older than it says; *StaleError: it follows another one than that; ErrContradicted: it does not follow it.
// Whose checkpoints they are, and who signed them, the caller has checked.
func (o Offer) Accept(held, offered Checkpoint) error {
	switch {
	case o.Old > offered.Tree.N, o.Old == 0 && len(o.Proof) > 0:
		return ErrOffer
	case o.Old != held.Tree.N:
		return &StaleError{held.Tree.N}
	case o.Old == 0:
		return nil
	case o.Old == offered.Tree.N && len(o.Proof) > 0:
		return ErrOffer
	case o.Old == offered.Tree.N && held.Tree.Hash == offered.Tree.Hash:
		return nil
	case o.Old == offered.Tree.N:
		return ErrContradicted
	}
	if err := tlog.CheckTree(o.Proof, offered.Tree.N, offered.Tree.Hash, held.Tree.N, held.Tree.Hash); err != nil {
		return fmt.Errorf("%w: sizes %d and %d: %w", ErrContradicted, held.Tree.N, offered.Tree.N, err)
	}
	return nil
}
