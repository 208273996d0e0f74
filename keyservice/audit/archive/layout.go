// Package archive is the audit log outside the service: one folder for each node, which is verified, and in which proofs
// are made, from files and public keys alone.
//
//	DIR/<node>/entries-<first>-<count>.ndjson  a segment: one line for each entry, in the order of their indexes
//	DIR/<node>/hashes-<first>-<count>.bin      the hashes of its leaves, 32 bytes each: they stay when a segment is removed
//	DIR/<node>/checkpoint-<size>.txt           signed notes: what the log was when it had so many entries
//	DIR/<node>/keys.pem                        the public audit keys; trust comes only from keys got elsewhere
//
// Numbers in names have twelve digits. Segments begin at multiples of SegmentEntries and where an export ended, which is
// where a checkpoint was signed.
//
// It must not know the service, its database or its HSM.
package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"

	"ramzban/keyservice/store"
)

// SegmentEntries is how many entries a segment has at most.
const SegmentEntries = 10_000

// ErrArchive: a folder is not an archive that can be read or continued. Its message says what to do.
var ErrArchive = errors.New("not an audit archive")

// KeysFile is the name of the file with the public audit keys.
const KeysFile = "keys.pem"

// segment is a run of entries as its files name it.
type segment struct {
	first, count uint64
	entries      bool // their file is there; it is not when they were removed
	hashes       bool // the file of their hashes is there
}

func (s segment) end() uint64 { return s.first + s.count }
func (s segment) entriesName() string {
	return fmt.Sprintf("entries-%012d-%012d.ndjson", s.first, s.count)
}
func (s segment) hashesName() string    { return fmt.Sprintf("hashes-%012d-%012d.bin", s.first, s.count) }
func checkpointName(size uint64) string { return fmt.Sprintf("checkpoint-%012d.txt", size) }

var (
	segmentForm    = regexp.MustCompile(`^(entries|hashes)-([0-9]{12})-([0-9]{12})\.(ndjson|bin)$`)
	checkpointForm = regexp.MustCompile(`^checkpoint-([0-9]{12})\.txt$`)
	ourForm        = regexp.MustCompile(`^(entries|hashes|checkpoint)`)
)

// contents is what a node's folder holds, by the names of its files.
type contents struct {
	segments    []segment // in the order of their entries
	checkpoints []uint64  // their sizes, in order
	keys        bool
	strange     []string // files that are named like an archive's, but wrongly
}

func (c contents) empty() bool { return len(c.segments)+len(c.checkpoints)+len(c.strange) == 0 }

// list reads the names in a node's folder. Files that have nothing to do with an archive are left out.
func list(dir fs.FS) (contents, error) {
	files, err := filesIn(dir)
	if err != nil {
		return contents{}, err
	}
	var c contents
	found := map[[2]uint64]segment{}
	for _, f := range files {
		c.add(f, found)
	}
	for _, s := range found {
		c.segments = append(c.segments, s)
	}
	slices.SortFunc(c.segments, func(a, b segment) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.count, b.count)) })
	slices.Sort(c.checkpoints)
	slices.Sort(c.strange)
	return c, nil
}

func (c *contents) add(f fs.DirEntry, found map[[2]uint64]segment) {
	name := f.Name()
	if !f.Type().IsRegular() {
		if name == KeysFile || ourForm.MatchString(name) {
			c.strange = append(c.strange, name)
		}
		return
	}
	if m := checkpointForm.FindStringSubmatch(name); m != nil {
		c.checkpoints = append(c.checkpoints, number(m[1]))
		return
	}
	m := segmentForm.FindStringSubmatch(name)
	switch {
	case name == KeysFile:
		c.keys = true
	case m != nil && (m[1] == "entries") == (m[4] == "ndjson") && fits(number(m[2]), number(m[3])):
		at := [2]uint64{number(m[2]), number(m[3])}
		s := found[at]
		s.first, s.count = at[0], at[1]
		s.entries, s.hashes = s.entries || m[1] == "entries", s.hashes || m[1] == "hashes"
		found[at] = s
	case ourForm.MatchString(name):
		c.strange = append(c.strange, name)
	}
}

// fits tells whether a segment can have so many entries: none goes over a round number.
func fits(first, count uint64) bool { return count > 0 && first%SegmentEntries+count <= SegmentEntries }

// number reads twelve digits.
func number(digits string) uint64 {
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		panic(err) // unreachable: the form was matched
	}
	return n
}

// nodes lists the folders of an archive that can be a node's, in the order of their names.
func nodes(archive fs.FS) ([]string, error) {
	files, err := filesIn(archive)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, f := range files {
		switch {
		case store.CheckNode(f.Name()) != nil:
		case f.IsDir():
			found = append(found, f.Name())
		case f.Type()&fs.ModeSymlink != 0: // left out unseen it would be a log that nobody misses
			return nil, fmt.Errorf("%w: %s is a symbolic link: put the folder itself there", ErrArchive, f.Name())
		}
	}
	switch {
	case found == nil:
		return nil, fmt.Errorf("%w: it has no node's folder: name the folder that `ramzban audit export` wrote", ErrArchive)
	case len(found) > maxNodes:
		return nil, fmt.Errorf("%w: it has more than %d nodes' folders", ErrArchive, maxNodes)
	}
	slices.Sort(found)
	return found, nil
}
