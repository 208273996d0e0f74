package archive

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

// An export that is cut short between any two files is gone on with; the archive is whole in the end.
func TestAnExportGoesOnWhereItWasCut(t *testing.T) {
	s := audittest.NewSigner(t)
	l := newLog(t, "node-1", s).fill(2*SegmentEntries + 50)
	c := l.checkpoint()
	for name, cut := range map[string]func(dir string){
		"after a segment": func(string) {},
		"before its hashes": func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "node-1", "hashes-000000010000-000000010000.bin")))
		},
		"within a file": func(dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "node-1", ".new-123"), []byte("half"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := NewWriter(dir, "node-1")
			require.NoError(t, err)
			for _, leaf := range l.leaves[:2*SegmentEntries+7] {
				require.NoError(t, w.Add(leaf))
			}
			cut(dir)
			w, err = NewWriter(dir, "node-1")
			require.NoError(t, err)
			require.EqualValues(t, 2*SegmentEntries, w.Next(), "whole segments are there")
			for _, leaf := range l.leaves[w.Next():] {
				require.NoError(t, w.Add(leaf))
			}
			require.NoError(t, w.Checkpoint(l.signed[l.tree.size], c))
			require.Empty(t, verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}}).Findings)
		})
	}
}

// An export that could not write its checkpoint leaves no segment that ends there: the next one goes on, and all verifies.
func TestAnExportWithoutItsCheckpointLeavesNoTrace(t *testing.T) {
	s := audittest.NewSigner(t)
	l := newLog(t, "node-1", s).fill(9)
	c, dir := l.checkpoint(), t.TempDir()
	add := func(w *Writer) {
		for _, leaf := range l.leaves[w.Next():] {
			require.NoError(t, w.Add(leaf))
		}
	}
	w, err := NewWriter(dir, "node-1")
	require.NoError(t, err)
	add(w)
	inTheWay := filepath.Join(dir, "node-1", checkpointName(9))
	require.NoError(t, os.Mkdir(inTheWay, 0o700))
	require.Error(t, w.Checkpoint(l.signed[9], c))
	require.NoError(t, os.Remove(inTheWay))

	l.fill(5)
	c = l.checkpoint()
	w, err = NewWriter(dir, "node-1")
	require.NoError(t, err)
	add(w)
	require.NoError(t, w.Checkpoint(l.signed[l.tree.size], c))
	require.Empty(t, verified(t, os.DirFS(dir), Options{Keys: []audit.PublicKey{s.Public}}).Findings)
}

// What is not the log that was signed does not get into an archive, nor is a damaged archive continued.
func TestOnlyTheSignedLogIsArchived(t *testing.T) {
	s := audittest.NewSigner(t)
	l := newLog(t, "node-1", s).fill(9)
	c := l.checkpoint()
	dir := t.TempDir()
	w, err := NewWriter(dir, "node-1")
	require.NoError(t, err)
	require.ErrorIs(t, w.Checkpoint(l.signed[9], c), ErrArchive, "entries are missing")
	require.ErrorIs(t, w.Add([]byte("no entry")), ErrArchive)
	require.ErrorIs(t, w.Add(newLog(t, "node-2", s).fill(1).leaves[0]), ErrArchive)
	for i := range l.leaves {
		require.NoError(t, w.Add(l.leaves[len(l.leaves)-1-i]))
	}
	require.ErrorIs(t, w.Checkpoint(l.signed[9], c), ErrArchive, "they are in another order")
	files, err := os.ReadDir(filepath.Join(dir, "node-1"))
	require.NoError(t, err)
	require.Empty(t, files)

	l.export(dir)
	for name, damage := range map[string]func(node string) error{
		"hashes cut": func(n string) error { return os.Truncate(filepath.Join(n, "hashes-000000000000-000000000009.bin"), 10) },
		"a gap": func(n string) error {
			return os.WriteFile(filepath.Join(n, "entries-000000000010-000000000001.ndjson"), nil, 0o600)
		},
		"a strange file": func(n string) error { return os.WriteFile(filepath.Join(n, "entries-x"), nil, 0o600) },
		"no hashes, a cut": func(n string) error {
			return errors.Join(os.Remove(filepath.Join(n, "hashes-000000000000-000000000009.bin")), os.Truncate(filepath.Join(n, "entries-000000000000-000000000009.ndjson"), 10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			copied := t.TempDir()
			require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
			require.NoError(t, damage(filepath.Join(copied, "node-1")))
			_, err := NewWriter(copied, "node-1")
			require.ErrorIs(t, err, ErrArchive)
		})
	}
	_, err = NewWriter(dir, "../x")
	require.Error(t, err)
}
