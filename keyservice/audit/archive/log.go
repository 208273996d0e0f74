package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
)

// log is one node's log while it is verified.
//
// Two trees grow side by side: one of the entries, one of the file of their hashes. Only what leads to the root of a signed
// checkpoint is right. If just one of the two does, the places where they differ are those that were changed; if neither
// does, it is at least known between which two checkpoints.
type log struct {
	*verification
	Log
	contents // by the names of the files
	node     string
	dir      fs.FS
	targets  []target // roots that the tree must have, in the order of their sizes

	entryTree, hashTree frontier
	differences         []place // since the last root that was right
	right               uint64  // the size of that tree
	signed              uint64  // so many of the hashes in the files lead to a root that was signed
	reach               uint64  // the size of the largest root that was signed
	told                uint64  // how many entries were handed on
	lost                bool    // no root can be right any more: what is wrong was reported
	err                 error   // why the files cannot be read
}

// place is where an entry stands.
type place struct {
	index uint64
	file  string
	line  int
}

// found reports something about the log.
func (l *log) found(f Finding) {
	f.Node = l.node
	l.report.add(f)
}

// entries calls yield for every entry that is one of those that were signed, and compares the trees with every checkpoint on
// the way.
func (l *log) entries(ctx context.Context) func(yield func(logged) bool) {
	return func(yield func(logged) bool) {
		l.Node, l.First = l.node, 0
		defer func() { l.Entries = l.entryTree.size }()
		if l.contents.empty() {
			l.found(Finding{What: FileMissing, Detail: "the folder holds no log"})
			return
		}
		for _, name := range l.strange {
			l.found(Finding{File: name, What: FileStrange})
		}
		l.checkpoints()
		l.keysFile()
		if n := len(l.targets); n > 0 {
			l.reach = l.targets[n-1].size
		}
		if l.err = l.signedHashes(ctx); l.err != nil {
			return
		}
		for i, s := range l.segments {
			if l.err = ctx.Err(); l.err != nil || l.report.full() {
				return
			}
			if !s.entries && s.first >= l.reach { // files of hashes can be invented, large ones that take no place on the disk
				l.found(Finding{File: s.hashesName(), Index: at(s.first), What: Unsigned, Detail: "its entries are not there, and nothing from here on was read"})
				break
			}
			if !l.place(s, i) || !l.segment(s, yield) {
				return
			}
		}
		l.tail()
	}
}

// signedHashes finds out how many of the hashes in the files lead to a root that was signed. An entry with such a hash is
// one that the node wrote. What anybody else made up is not remembered: its maker would decide how much memory that takes.
func (l *log) signedHashes(ctx context.Context) error {
	var tree frontier
	targets := l.targets
	for _, s := range l.segments {
		if len(targets) == 0 || l.report.full() || ctx.Err() != nil || s.first != tree.size {
			return ctx.Err()
		}
		known, err := readHashes(l.dir, s)
		if err != nil {
			return ctx.Err() // what is wrong is said when it is verified
		}
		for i := range s.count {
			tree.add(known.at(i))
			for ; len(targets) > 0 && targets[0].size == tree.size; targets = targets[1:] {
				if tree.root() == targets[0].root {
					l.signed = tree.size
				}
			}
		}
	}
	return ctx.Err()
}

// place tells whether a segment begins where the last one ended.
func (l *log) place(s segment, i int) bool {
	next := l.entryTree.size
	switch {
	case s.first < next:
		l.found(Finding{File: s.entriesName(), Index: at(s.first), What: FileStrange, Detail: "another file has the same entries"})
		return false
	case s.first > next:
		l.found(Finding{Index: at(next), Last: at(s.first - 1), What: FileMissing, Detail: "nothing after them can be verified: neither their entries nor their hashes are there"})
		return false
	case !s.entries && l.First != next:
		l.found(Finding{File: s.entriesName(), Index: at(s.first), Last: at(s.end() - 1), What: FileMissing, Detail: "only segments before all others can have been removed on purpose"})
	case !s.entries && !l.Pruned:
		l.found(Finding{File: s.entriesName(), Index: at(s.first), Last: at(s.end() - 1), What: FileMissing, Detail: "if it was removed on purpose, --pruned verifies the rest"})
	}
	if !s.entries && l.First == next {
		l.First = s.end()
	}
	if i+1 < len(l.segments) && s.end()%SegmentEntries != 0 && !l.signedAt(s.end()) {
		l.found(Finding{File: checkpointName(s.end()), What: FileMissing, Detail: "an export ended there"})
	}
	return true
}

// segment reads one segment; false if nothing more is to be read.
func (l *log) segment(s segment, yield func(logged) bool) bool {
	hashes, ok := l.hashes(s)
	if !ok {
		return false
	}
	if !s.entries {
		for i := range s.count {
			l.grow(hashes.at(i), hashes.at(i))
		}
		return true
	}
	r := &reading{log: l, segment: s, known: hashes, next: s.first, yield: yield}
	return r.lines() && r.rest()
}

// hashes are those of a segment's leaves; nil if their file is not there.
type hashes []byte

func (h hashes) at(i uint64) tlog.Hash { return tlog.Hash(h[i*tlog.HashSize:]) }

func (l *log) hashes(s segment) (hashes, bool) {
	if !s.hashes {
		l.found(Finding{File: s.hashesName(), What: FileMissing})
		return nil, true
	}
	b, err := readHashes(l.dir, s)
	if err == nil {
		return b, true
	}
	l.found(Finding{File: s.hashesName(), What: FileCut, Detail: err.Error()})
	if !s.entries {
		l.found(Finding{Index: at(s.first), What: Unsigned, Detail: "nothing from here on can be verified"})
		return nil, false
	}
	return nil, true
}

// readHashes reads the hashes of a segment's leaves.
func readHashes(dir fs.FS, s segment) (hashes, error) {
	size := s.count * tlog.HashSize
	b, err := readFile(dir, s.hashesName(), int64(size))
	if err == nil && uint64(len(b)) != size {
		err = fmt.Errorf("%w: it has %d bytes, and %d hashes have %d", ErrArchive, len(b), s.count, size)
	}
	return b, err
}

// grow adds one leaf to both trees, and compares their roots where one is known.
func (l *log) grow(entry, hash tlog.Hash) {
	l.entryTree.add(entry)
	l.hashTree.add(hash)
	l.compare()
}

// reading is one segment while its lines are read.
type reading struct {
	*log
	segment
	known  hashes // of the leaves; nil: there are none
	next   uint64 // the index that the next line should have
	number int    // of the line
	yield  func(logged) bool
}

// lines reads the segment's lines; false if nothing more is to be read.
func (r *reading) lines() bool {
	err := eachLine(r.dir, r.segment, func(number uint64, b []byte) error {
		if r.number = int(number) + 1; !r.line(b) {
			return errStop
		}
		return nil
	})
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		r.number++
		r.at(Finding{What: EntryUnreadable, Detail: "the line has no end"})
		return true
	case err != nil && !errors.Is(err, errStop):
		r.err = err
	}
	return err == nil
}

// errStop ends the reading of all segments.
var errStop = errors.New("nothing more is to be read")

// at reports something about the line.
func (r *reading) at(f Finding) {
	f.File, f.Line = r.entriesName(), r.number
	r.found(f)
}

// line reads one line; false if nothing more is to be read.
func (r *reading) line(b []byte) bool {
	if r.report.full() {
		return false
	}
	got, err := readLine(b)
	switch {
	case err != nil && r.next < r.end():
		r.at(Finding{Index: at(r.next), What: EntryUnreadable, Detail: err.Error()})
		r.skip()
		return true
	case err != nil:
		r.at(Finding{What: EntryStrange, Detail: "there are more lines than entries"})
		return true
	}
	hash := tlog.RecordHash(got.leaf)
	if !r.find(got.index, hash) {
		return true
	}
	here := r.next
	if r.known != nil && r.known.at(here-r.first) != hash {
		r.differences = append(r.differences, place{here, r.entriesName(), r.number})
	}
	if !got.exact || got.index != here {
		r.at(Finding{Index: at(here), What: LineChanged})
	}
	if got.entry.Node != r.node {
		r.at(Finding{Index: at(here), What: EntryForeign, Detail: "it names " + got.entry.Node})
	}
	genuine := r.known != nil && here < r.signed && r.known.at(here-r.first) == hash
	if r.take(hash); !genuine {
		return true
	}
	r.told++
	return r.yield(logged{got.entry, here, r.entriesName(), r.number})
}

// find tells whether the line is the next entry, after reporting those that are missing before it. An entry whose hash is
// the one that belongs here is the one that belongs here, whatever index the line says.
func (r *reading) find(index uint64, hash tlog.Hash) bool {
	switch {
	case r.next < r.end() && (index == r.next || r.known != nil && r.known.at(r.next-r.first) == hash):
		return true
	case index > r.next && index < r.end():
		r.missing(index)
		return true
	}
	r.at(Finding{Index: at(index), What: EntryStrange})
	return false
}

// missing reports that the entries before index are not there.
func (r *reading) missing(index uint64) {
	f := Finding{File: r.entriesName(), Line: r.number, Index: at(r.next), What: EntryMissing}
	if index > r.next+1 {
		f.Last = at(index - 1)
	}
	r.found(f)
	for r.next < index {
		r.skip()
	}
}

// skip puts the hash of an entry that cannot be read in its place. Without it no later root can be compared.
func (r *reading) skip() {
	if r.known == nil {
		r.take(tlog.Hash{})
		return
	}
	r.take(r.known.at(r.next - r.first))
}

// take adds a leaf.
func (r *reading) take(entry tlog.Hash) {
	hash := entry
	if r.known != nil {
		hash = r.known.at(r.next - r.first)
	}
	r.next++
	r.grow(entry, hash)
}

// rest reports the entries that the file should have had.
func (r *reading) rest() bool {
	if r.next < r.end() {
		r.missing(r.end())
	}
	return true
}
