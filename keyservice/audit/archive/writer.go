package archive

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// Modes of what is written: who may read the log is for its keeper to say.
const (
	fileMode   os.FileMode = 0o600
	folderMode os.FileMode = 0o700
)

// Writer adds entries to the archive of one node's log. Every file appears whole or not at all, so it may be cut short at
// any moment: the next Writer goes on after the last whole segment. It is not safe for concurrent use.
type Writer struct {
	dir    string
	tree   frontier // of what is in the files, and of what is not yet
	first  uint64   // the first entry that is not in the files yet
	lines  bytes.Buffer
	hashes []byte
}

// NewWriter opens a node's folder in an archive, or makes it, and finds where it ends. ErrArchive if what is there is not
// whole: an archive that was damaged is not continued.
func NewWriter(archive, node string) (*Writer, error) {
	if err := store.CheckNode(node); err != nil {
		return nil, err
	}
	w := &Writer{dir: filepath.Join(archive, node)}
	if err := os.MkdirAll(w.dir, folderMode); err != nil {
		return nil, err
	}
	c, err := list(os.DirFS(w.dir))
	if err != nil {
		return nil, err
	}
	if len(c.strange) > 0 {
		return nil, fmt.Errorf("%w: %s: no export writes such a file", ErrArchive, filepath.Join(w.dir, c.strange[0]))
	}
	for i, s := range c.segments {
		if err := w.resume(s, i == len(c.segments)-1); err != nil {
			return nil, err
		}
	}
	w.first = w.tree.size
	return w, nil
}

// resume reads the hashes of a segment. The last one may lack them: it was written just before the export was cut short.
func (w *Writer) resume(s segment, last bool) error {
	if s.first != w.tree.size {
		return fmt.Errorf("%w: %s begins at entry %d, but %d is next: verify the archive", ErrArchive, filepath.Join(w.dir, s.entriesName()), s.first, w.tree.size)
	}
	if !s.hashes && last {
		if err := w.rehash(s); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(w.dir, s.hashesName()))
	if err != nil {
		return err
	}
	if uint64(len(b)) != s.count*tlog.HashSize {
		return fmt.Errorf("%w: %s is cut: verify the archive", ErrArchive, filepath.Join(w.dir, s.hashesName()))
	}
	for ; len(b) > 0; b = b[tlog.HashSize:] {
		w.tree.add(tlog.Hash(b))
	}
	return nil
}

// rehash makes the hashes of a segment from its lines.
func (w *Writer) rehash(s segment) error {
	b, err := os.ReadFile(filepath.Join(w.dir, s.entriesName()))
	if err != nil {
		return err
	}
	var hashes []byte
	for index := s.first; index < s.end(); index++ {
		end := bytes.IndexByte(b, '\n') + 1
		l, err := readLine(b[:end])
		if err != nil || !l.exact || l.index != index {
			return fmt.Errorf("%w: %s, line %d is damaged: verify the archive", ErrArchive, filepath.Join(w.dir, s.entriesName()), index-s.first+1)
		}
		hash := tlog.RecordHash(l.leaf)
		hashes, b = append(hashes, hash[:]...), b[end:]
	}
	return writeFile(filepath.Join(w.dir, s.hashesName()), hashes)
}

// Next is the index of the entry that Add takes next.
func (w *Writer) Next() uint64 { return w.tree.size }

// Add adds the entry with index Next. ErrArchive if the leaf is none of the node's.
func (w *Writer) Add(leaf []byte) error {
	b, e, err := render(w.Next(), leaf)
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrArchive, w.Next(), err)
	}
	if e.Node != filepath.Base(w.dir) {
		return fmt.Errorf("%w: entry %d is one of %s", ErrArchive, w.Next(), e.Node)
	}
	hash := tlog.RecordHash(leaf)
	w.lines.Write(b)
	w.hashes = append(w.hashes, hash[:]...)
	w.tree.add(hash)
	if w.Next()%SegmentEntries == 0 {
		return w.flush()
	}
	return nil
}

// Checkpoint ends an export: the entries added must be exactly those that the signed checkpoint c tells of. If they are
// not, nothing of the last segment is kept.
func (w *Writer) Checkpoint(signed []byte, c audit.Checkpoint) error {
	size := w.tree.size
	if uint64(c.Tree.N) != size || size == 0 {
		return fmt.Errorf("%w: the checkpoint tells of %d entries, and there are %d", ErrArchive, c.Tree.N, size)
	}
	if w.tree.root() != c.Tree.Hash {
		return fmt.Errorf("%w: the first %d entries are not those of the signed checkpoint: verify the archive, and compare the service's audit log", ErrArchive, size)
	}
	if err := writeFile(filepath.Join(w.dir, checkpointName(size)), signed); err != nil {
		return err
	}
	return w.flush() // the next export adds entries that are missing; a checkpoint that is missing it would not
}

// flush writes what was added as a segment. The entries come first: hashes without entries are those of a segment that was
// removed.
func (w *Writer) flush() error {
	s := segment{first: w.first, count: w.tree.size - w.first}
	if s.count == 0 {
		return nil
	}
	if err := writeFile(filepath.Join(w.dir, s.entriesName()), w.lines.Bytes()); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(w.dir, s.hashesName()), w.hashes); err != nil {
		return err
	}
	w.first, w.hashes = w.tree.size, w.hashes[:0]
	w.lines.Reset()
	return nil
}

// Keys writes the public audit keys beside the log.
func (w *Writer) Keys(keys []audit.PublicKey) error {
	return writeFile(filepath.Join(w.dir, KeysFile), pemOf(keys))
}

func pemOf(keys []audit.PublicKey) (text []byte) {
	for _, k := range keys {
		text = append(text, k.PEM()...)
	}
	return text
}

// writeFile makes path hold content: a crash leaves what was there, or all of the new.
func writeFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, werr := f.Write(content)
	if err := errors.Join(werr, f.Chmod(fileMode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
