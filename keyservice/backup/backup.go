// Package backup is the file that a backup is: all rows of a database as of one moment, encrypted so that only the HSM opens
// it. What an attacker may do to such a file is found out before anything in it is believed.
//
// It must not know what the rows mean, nor any engine or HSM.
//
// # The file
//
// It is an age file (age-encryption.org/v1): age's payload is encrypted in chunks, so that no chunk can be changed, moved or
// cut off unseen. The one stanza of its header, "ramzban-hsm", has as body in CBOR a data key as the HSM has wrapped it under
// ramzban/backup/N, and age's file key encrypted under that data key (AES-256-GCM; it is used for nothing else, so the nonce
// is zero).
//
// The payload, numbers in 4 bytes, big endian:
//
//	"ramzban-backup/1\n"
//	length, Header in CBOR
//	for each row, in the order of keys: length and key, length and value
//	0, length, Summary in CBOR
//
// Nothing follows.
package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"filippo.io/age"

	"ramzban/keyservice/store"
)

// ErrDamaged: the file is not a backup, not a whole one, or not as it was written.
var ErrDamaged = errors.New("not a whole backup as it was written")

const (
	magic     = "ramzban-backup/1\n"
	maxHeader = 1 << 20 // bytes; also of the summary
)

// Header is what a backup says of itself. On disk it is CBOR with these integer keys.
type Header struct {
	Installation string   `cbor:"1,keyasint"` // see the key ring
	Ring         uint64   `cbor:"2,keyasint"` // revision of the key ring
	Node         string   `cbor:"3,keyasint"` // that took the backup
	Time         int64    `cbor:"4,keyasint"` // Unix milliseconds, that node's clock, before the rows were read
	Logs         []LogEnd `cbor:"5,keyasint"` // of all nodes, in the order of their names
}

// LogEnd is where a node's log ended in the backup.
type LogEnd struct {
	Node       string `cbor:"1,keyasint"`
	Entries    uint64 `cbor:"2,keyasint"`           // its indexes are below this
	Checkpoint []byte `cbor:"3,keyasint,omitempty"` // the newest signed one; none: there was none yet
}

// Summary ends a backup. On disk it is CBOR with these integer keys.
type Summary struct {
	Rows   uint64            `cbor:"1,keyasint"`
	Bytes  uint64            `cbor:"2,keyasint"` // of keys and values
	Digest [sha256.Size]byte `cbor:"3,keyasint"` // SHA-256 of the payload up to the last row
}

// Writer writes a backup.
type Writer struct {
	plain io.WriteCloser // age's
	sum   hash.Hash
	last  store.Key
	total Summary
}

// NewWriter begins a backup: the recipient is that of one HSM, see Recipient.
func NewWriter(w io.Writer, to age.Recipient, h Header) (*Writer, error) {
	plain, err := age.Encrypt(w, to)
	if err != nil {
		return nil, fmt.Errorf("beginning a backup: %w", err)
	}
	b := &Writer{plain: plain, sum: sha256.New()}
	encoded, err := store.Encode(h)
	if err != nil {
		return nil, err
	}
	return b, b.write(slices.Concat([]byte(magic), block(encoded)))
}

// write adds what is summed up.
func (b *Writer) write(part []byte) error {
	b.sum.Write(part)
	if _, err := b.plain.Write(part); err != nil {
		return fmt.Errorf("writing a backup: %w", err)
	}
	return nil
}

// block is a length and so many bytes.
func block(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// Add adds a row. They must come in the order of their keys.
func (b *Writer) Add(key store.Key, value []byte) error {
	if err := store.CheckPut(store.Put{Key: key, Value: value}); err != nil {
		return err
	}
	if key <= b.last {
		return fmt.Errorf("adding rows to a backup: %q does not follow %q", string(key), string(b.last))
	}
	b.last = key
	b.total.Rows++
	b.total.Bytes += uint64(len(key) + len(value))
	return b.write(slices.Concat(block([]byte(key)), block(value)))
}

// Close ends the backup; without it the file is a cut one. It does not close the writer beneath.
func (b *Writer) Close() (Summary, error) {
	b.sum.Sum(b.total.Digest[:0])
	encoded, err := store.Encode(b.total)
	if err != nil {
		return Summary{}, err
	}
	if err := b.write(slices.Concat(block(nil), block(encoded))); err != nil {
		return Summary{}, err
	}
	if err := b.plain.Close(); err != nil {
		return Summary{}, fmt.Errorf("ending a backup: %w", err)
	}
	return b.total, nil
}
