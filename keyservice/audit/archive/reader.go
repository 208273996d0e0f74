package archive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"ramzban/keyservice/audit"
)

// Reader reads entries and checkpoints of an archive in order, for whoever holds them against the roots that were signed:
// it checks nothing but that every entry is there once.
type Reader struct {
	archive fs.FS
	Nodes   []string // in the order of their names
}

// NewReader lists an archive; ErrArchive if it is none.
func NewReader(archive fs.FS) (*Reader, error) {
	found, err := nodes(archive)
	if err != nil {
		return nil, err
	}
	return &Reader{archive, found}, nil
}

// Newest returns the largest checkpoint in a node's folder that one of the keys signed for this origin, and its note. The
// zero one if there is none.
func (r *Reader) Newest(node, origin string, keys []audit.PublicKey) (audit.Checkpoint, []byte, error) {
	dir, c, err := r.open(node)
	if err != nil || len(c.checkpoints) == 0 {
		return audit.Checkpoint{}, nil, err
	}
	name := checkpointName(c.checkpoints[len(c.checkpoints)-1])
	signed, err := readFile(dir, name, maxNote)
	if err != nil {
		return audit.Checkpoint{}, nil, fmt.Errorf("reading the archive: %w", err)
	}
	newest, err := audit.OpenCheckpoint(signed, origin, keys)
	if err != nil {
		return audit.Checkpoint{}, nil, fmt.Errorf("%w: %s of %s: %w", ErrArchive, name, node, err)
	}
	return newest, signed, nil
}

func (r *Reader) open(node string) (fs.FS, contents, error) {
	dir, err := fs.Sub(r.archive, node)
	if err != nil {
		return nil, contents{}, err
	}
	c, err := list(dir)
	return dir, c, err
}

// Each calls fn for each entry of a node from the index from up to before end, in order. ErrArchive if one is not there.
func (r *Reader) Each(ctx context.Context, node string, from, end uint64, fn func(index uint64, leaf []byte) error) error {
	dir, c, err := r.open(node)
	if err != nil {
		return err
	}
	next := from
	for _, s := range c.segments {
		if s.end() <= next || s.first >= end {
			continue
		}
		if s.first > next || !s.entries {
			break
		}
		if next, err = eachOf(ctx, dir, s, next, end, fn); err != nil {
			return err
		}
	}
	if next < end {
		return fmt.Errorf("%w: entry %d of %s is not in it: export again, or leave the archive out", ErrArchive, next, node)
	}
	return nil
}

// eachOf reads one segment from the index next on, and returns where it came to.
func eachOf(ctx context.Context, dir fs.FS, s segment, next, end uint64, fn func(uint64, []byte) error) (uint64, error) {
	err := eachLine(dir, s, func(number uint64, b []byte) error {
		index := s.first + number
		if index >= min(s.end(), end) {
			return errEnough
		}
		if err := ctx.Err(); err != nil || index < next {
			return err
		}
		got, err := readLine(b)
		if err == nil && got.index != index {
			err = errors.New("another entry stands there")
		}
		if err != nil {
			return fmt.Errorf("%w: entry %d in %s: %w", ErrArchive, index, s.entriesName(), err)
		}
		if err := fn(index, got.leaf); err != nil {
			return err
		}
		next = index + 1
		return nil
	})
	return next, err
}

// errEnough ends the reading of a segment.
var errEnough = errors.New("no more of this segment is wanted")

// eachLine calls fn for the lines of a segment with their ends, counted from 0. errEnough of fn ends it; bufio.ErrTooLong
// is a line that is longer than any.
func eachLine(dir fs.FS, s segment, fn func(number uint64, line []byte) error) error {
	f, err := dir.Open(s.entriesName())
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	defer func() { _ = f.Close() }()
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, maxLine)
	scan.Split(withEnd)
	for number := uint64(0); scan.Scan(); number++ {
		if err := fn(number, scan.Bytes()); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if scan.Err() != nil {
		return fmt.Errorf("reading %s: %w", s.entriesName(), scan.Err())
	}
	return nil
}

// withEnd splits lines, and leaves them their ends: what ends a line was written, too.
func withEnd(data []byte, eof bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	if eof && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
