package archive

import (
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Older is the beginning of a log.
type Older struct {
	Entries uint64    // how many
	Root    tlog.Hash // of the tree over them; the zero hash if there are none
}

// OlderThan finds how many of a node's first entries were all made before a moment, without the last one that the archive's
// newest checkpoint tells of: a service never lets that go. The archive must have been verified: what is wrong with it is not looked for here.
func OlderThan(archive fs.FS, node string, moment time.Time) (Older, error) {
	p, err := newProving(archive, node)
	if err != nil {
		return Older{}, fmt.Errorf("%s: %w", node, err)
	}
	older := uint64(0)
	for _, s := range p.segments {
		if !s.entries {
			continue // it was older than what follows, and how old that is can be seen
		}
		end, err := p.olderIn(s, moment)
		if err != nil {
			return Older{}, fmt.Errorf("%s: %s: %w", node, s.entriesName(), err)
		}
		if end > s.first {
			older = end
		}
		if end < s.end() {
			break
		}
	}
	o := Older{Entries: min(older, p.size-1)}
	if o.Entries > 0 {
		o.Root, err = p.subtree(0, o.Entries)
	}
	return o, err
}

// olderIn returns the first index of a segment, or the one after it, that was not made before the moment.
func (p proving) olderIn(s segment, moment time.Time) (uint64, error) {
	next := s.first
	err := eachLine(p.dir, s, func(_ uint64, b []byte) error {
		if next == s.end() {
			return errEnough
		}
		l, err := readLine(b)
		if err != nil || l.index != next {
			return fmt.Errorf("%w: entry %d cannot be read: verify the archive", ErrArchive, next)
		}
		if !time.UnixMilli(l.entry.Time).Before(moment) {
			return errEnough
		}
		next++
		return nil
	})
	return next, err
}
