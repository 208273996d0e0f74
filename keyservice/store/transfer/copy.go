package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"

	"ramzban/keyservice/store"
)

// A batch of rows is loaded when it has so many rows or bytes; the row that makes it full may be of store.MaxValue.
const (
	batchRows  = 512
	batchBytes = 1 << 20
)

// Steps that a Report tells apart.
const (
	Copying  = "copied"
	Checking = "checked"
)

// Report is told from time to time how many rows of all have been copied, and then checked; nil: nobody is told.
type Report func(step string, done, all uint64)

// Summary is what a database holds.
type Summary struct {
	Rows   uint64
	Bytes  uint64            // of keys and values
	Kinds  map[string]uint64 // rows by the first byte of their keys
	Digest [sha256.Size]byte // SHA-256 over the rows in the order of keys: length of key, key, length of value, value
	Logs   map[string]uint64 // index of the next change of each node
}

// copy writes all of the origin to the destination and compares.
func (c *copying) copy(ctx context.Context) (Result, error) {
	empty, err := isEmpty(ctx, c.to)
	if err != nil {
		return Result{}, err
	}
	if !empty {
		if err := c.to.Clear(ctx, c.target); err != nil {
			return Result{}, failed(c.to, err)
		}
	}
	all, err := c.from.Count(ctx)
	if err != nil {
		return Result{}, err
	}
	written, err := c.write(ctx, all)
	if err != nil {
		return Result{}, err
	}
	there, err := summarize(ctx, c.to, func(done uint64) { c.told(Checking, done, all) })
	if err != nil {
		return Result{}, err
	}
	if err := written.compare(there); err != nil {
		return Result{}, fmt.Errorf("%w: %s: %w: run the same copy again, and look at the destination's disk if it happens again",
			ErrDiffers, c.to.Name(), err)
	}
	return Result{Summary: there, Restarted: !empty}, nil
}

// write loads all rows and the logs, and returns what was read.
func (c *copying) write(ctx context.Context, all uint64) (Summary, error) {
	l := loader{copying: c, all: all}
	read, err := survey(ctx, c.from, l.add)
	if err == nil {
		err = l.flush(ctx)
	}
	if err != nil {
		return Summary{}, err
	}
	if read.Logs, err = c.from.Logs(ctx); err != nil {
		return Summary{}, err
	}
	if err := c.to.SetLogs(ctx, c.target, read.Logs); err != nil {
		return Summary{}, failed(c.to, err)
	}
	return read, nil
}

// loader gathers rows into batches.
type loader struct {
	*copying
	rows      []store.Put
	bytes     int
	done, all uint64
}

func (l *loader) add(ctx context.Context, i store.Item) error {
	l.rows = append(l.rows, store.Put{Key: i.Key, Value: i.Value})
	l.bytes += len(i.Key) + len(i.Value)
	if len(l.rows) < batchRows && l.bytes < batchBytes {
		return nil
	}
	return l.flush(ctx)
}

func (l *loader) flush(ctx context.Context) error {
	if len(l.rows) == 0 {
		return nil
	}
	if err := l.to.Load(ctx, l.target, l.rows); err != nil {
		return failed(l.to, err)
	}
	l.done += uint64(len(l.rows))
	l.rows, l.bytes = nil, 0
	l.told(Copying, l.done, l.all)
	return nil
}

func (c *copying) told(step string, done, all uint64) {
	if c.report != nil {
		c.report(step, done, all)
	}
}

// summarize reads all of a database, its logs too, and tells after every batch how many rows it has read.
func summarize(ctx context.Context, d Database, told func(uint64)) (Summary, error) {
	done := uint64(0)
	s, err := survey(ctx, d, func(context.Context, store.Item) error {
		if done++; done%batchRows == 0 {
			told(done)
		}
		return nil
	})
	if err != nil {
		return Summary{}, err
	}
	told(done)
	s.Logs, err = d.Logs(ctx)
	return s, err
}

// survey reads all rows of one state in the order of keys, and passes them on.
func survey(ctx context.Context, d Database, each func(context.Context, store.Item) error) (Summary, error) {
	snap, err := d.Snapshot(ctx)
	if err != nil {
		return Summary{}, err
	}
	defer snap.Close()
	s, sum := Summary{Kinds: map[string]uint64{}}, sha256.New()
	err = snap.Scan(ctx, "", "", func(i store.Item) error {
		s.Rows++
		s.Bytes += uint64(len(i.Key) + len(i.Value))
		s.Kinds[string(i.Key[:1])]++
		digest(sum, []byte(i.Key))
		digest(sum, i.Value)
		return each(ctx, i)
	})
	if err != nil {
		return Summary{}, fmt.Errorf("%s: %w", d.Name(), err)
	}
	sum.Sum(s.Digest[:0])
	return s, nil
}

// digest adds a length, 8 bytes, big endian, and so many bytes.
func digest(h hash.Hash, b []byte) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

// compare says in what a copy differs, nil if in nothing.
func (s Summary) compare(other Summary) error {
	switch {
	case s.Rows != other.Rows:
		return fmt.Errorf("it has %d rows of %d", other.Rows, s.Rows)
	case !maps.Equal(s.Kinds, other.Kinds):
		return errors.New("it has other kinds of rows")
	case s.Digest != other.Digest:
		return fmt.Errorf("its digest is %x instead of %x", other.Digest, s.Digest)
	case !maps.Equal(s.Logs, other.Logs):
		return errors.New("its logs end elsewhere")
	}
	return nil
}
