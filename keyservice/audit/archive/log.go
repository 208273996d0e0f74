package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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

// entries calls yield for every entry that can be read, and compares the trees with every checkpoint on the way.
func (l *log) entries() func(yield func(logged) bool) {
	return func(yield func(logged) bool) {
		l.Node, l.First = l.node, 0
		if l.contents.empty() {
			l.found(Finding{What: FileMissing, Detail: "the folder holds no log"})
			return
		}
		l.checkpoints()
		l.keysFile()
		for _, name := range l.strange {
			l.found(Finding{File: name, What: FileStrange})
		}
		for i, s := range l.segments {
			if !l.place(s, i) || !l.segment(s, yield) {
				return
			}
		}
		l.tail()
	}
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
	f, err := l.dir.Open(s.entriesName())
	if err != nil {
		l.err = err
		return false
	}
	defer func() { _ = f.Close() }()
	r := &reading{log: l, segment: s, known: hashes, next: s.first, yield: yield}
	if !r.lines(f) {
		return false
	}
	return r.rest()
}

// hashes are those of a segment's leaves; nil if their file is not there.
type hashes []byte

func (h hashes) at(i uint64) tlog.Hash { return tlog.Hash(h[i*tlog.HashSize:]) }

func (l *log) hashes(s segment) (hashes, bool) {
	if !s.hashes {
		l.found(Finding{File: s.hashesName(), What: FileMissing})
		return nil, true
	}
	b, err := fs.ReadFile(l.dir, s.hashesName())
	if err != nil {
		l.err = err
		return nil, false
	}
	if uint64(len(b)) != s.count*tlog.HashSize {
		l.found(Finding{File: s.hashesName(), What: FileCut, Detail: fmt.Sprintf("it has %d bytes, and %d hashes have %d", len(b), s.count, s.count*tlog.HashSize)})
		if !s.entries {
			l.found(Finding{Index: at(s.first), What: Unsigned, Detail: "nothing from here on can be verified"})
			return nil, false
		}
		return nil, true
	}
	return b, true
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

// maxLine is more than the longest line, in bytes: a leaf has at most 256 KiB.
const maxLine = 4 << 20

// lines reads the segment's lines; false if nothing more is to be read.
func (r *reading) lines(f io.Reader) bool {
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, maxLine)
	scan.Split(withEnd)
	for scan.Scan() {
		r.number++
		if !r.line(scan.Bytes()) {
			return false
		}
	}
	if errors.Is(scan.Err(), bufio.ErrTooLong) {
		r.number++
		r.at(Finding{What: EntryUnreadable, Detail: "the line has no end"})
		return true
	}
	if scan.Err() != nil {
		r.err = scan.Err()
	}
	return scan.Err() == nil
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

// at reports something about the line.
func (r *reading) at(f Finding) {
	f.File, f.Line = r.entriesName(), r.number
	r.found(f)
}

// line reads one line; false if nothing more is to be read.
func (r *reading) line(b []byte) bool {
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
	r.take(hash)
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
