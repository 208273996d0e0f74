package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

// verifyFolder verifies an archive on disk, and fails if that takes long.
func verifyFolder(t *testing.T, dir string, o Options) (Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	folder, err := OpenFolder(dir)
	require.NoError(t, err)
	defer func() { _ = folder.Close() }()
	r, err := Verify(ctx, folder, o)
	require.NoError(t, ctx.Err())
	return r, err
}

// Whatever its maker puts in the place of a file: the reader does not wait, follows no link, and reads no more than such a
// file can hold. It is found, and says of what.
func TestAHostileFileIsFound(t *testing.T) {
	good, s := t.TempDir(), audittest.NewSigner(t)
	newLog(t, "node-1", s).fill(40).export(good)
	outside := filepath.Join(t.TempDir(), "outside")
	huge := func(path string) error { // as large as a disk, and takes no place
		f, err := os.Create(path)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(1<<42))
		return f.Close()
	}
	for _, name := range []string{"entries-000000000000-000000000040.ndjson", "hashes-000000000000-000000000040.bin", "checkpoint-000000000040.txt", KeysFile} {
		for what, put := range map[string]func(path string) error{
			"a pipe":            func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a link to outside": func(path string) error { return os.Symlink(outside, path) },
			"a link to a pipe":  func(path string) error { return os.Symlink("/dev/stdin", path) },
			"a device":          func(path string) error { return os.Symlink("/dev/zero", path) },
			"a folder":          func(path string) error { return os.Mkdir(path, 0o700) },
			"a huge file":       huge,
		} {
			dir := filepath.Join(t.TempDir(), "archive")
			require.NoError(t, os.CopyFS(dir, os.DirFS(good)))
			path := filepath.Join(dir, "node-1", name)
			require.NoError(t, os.Rename(path, outside))
			require.NoError(t, put(path))
			r, err := verifyFolder(t, dir, Options{Keys: []audit.PublicKey{s.Public}})
			require.NoError(t, err, "%s: %s", name, what)
			require.NotEmpty(t, r.Findings, "%s: %s", name, what)
			require.Contains(t, fmt.Sprint(r.Findings), name, what)
		}
	}
}

// Files of hashes that nothing was signed of, each large and taking no place on the disk, are not read: there can be a million.
func TestInventedHashesAreNotRead(t *testing.T) {
	for name, entries := range map[string]int{"behind a log": SegmentEntries, "alone": 0} {
		dir, s := t.TempDir(), audittest.NewSigner(t)
		if entries > 0 {
			newLog(t, "node-1", s).fill(entries).export(dir)
		}
		node := filepath.Join(dir, "node-1")
		require.NoError(t, os.MkdirAll(node, 0o700))
		for i := range 1500 {
			path := filepath.Join(node, segment{first: uint64(entries + i*SegmentEntries), count: SegmentEntries}.hashesName())
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			require.NoError(t, os.Truncate(path, SegmentEntries*tlog.HashSize))
		}
		for _, pruned := range []bool{false, true} {
			folder, err := OpenFolder(dir)
			require.NoError(t, err)
			read := &opened{FS: folder}
			r, err := Verify(context.Background(), read, Options{Keys: []audit.PublicKey{s.Public}, Pruned: pruned})
			require.NoError(t, errors.Join(err, folder.Close()))
			require.Less(t, read.files, 10, "%s, pruned: %v", name, pruned)
			require.Equal(t, Unsigned, r.Findings[0].What, "%s, pruned: %v", name, pruned)
			require.LessOrEqual(t, len(r.Findings), 2, "%s", r.Findings)
		}
	}
}

// opened counts the files that are opened.
type opened struct {
	fs.FS
	files int
}

func (o *opened) Open(name string) (fs.File, error) {
	o.files++
	return o.FS.Open(name)
}

// A folder that is a link is refused: it could be any log, and left out it would be one that nobody misses.
func TestALinkedFolderIsRefused(t *testing.T) {
	dir, s := t.TempDir(), audittest.NewSigner(t)
	newLog(t, "node-1", s).fill(4).export(dir)
	require.NoError(t, os.Symlink("node-1", filepath.Join(dir, "node-2")))
	_, err := verifyFolder(t, dir, Options{Keys: []audit.PublicKey{s.Public}})
	require.ErrorIs(t, err, ErrArchive)
	folder, err := OpenFolder(dir)
	require.NoError(t, err)
	defer func() { _ = folder.Close() }()
	_, err = folder.Open("node-2/" + KeysFile)
	require.ErrorIs(t, err, ErrArchive)
	_, err = folder.Open("../x")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// Names that promise what no disk can hold cost nothing, and neither do many wrong lines.
func TestGiganticNumbersCostNothing(t *testing.T) {
	archive, l := sample(t)
	o := Options{Keys: []audit.PublicKey{l.signer.Public}}
	nothing := bytes.Repeat([]byte("\n"), 8<<20)
	for name, a := range map[string]fstest.MapFS{
		"a count":      changed(archive, "node-1/entries-000000000100-999999999999.ndjson", nil),
		"hashes":       changed(archive, "node-1/hashes-000000000100-999999999999.bin", nil),
		"a beginning":  changed(archive, "node-1/entries-999999990000-000000010000.ndjson", nil),
		"a checkpoint": changed(archive, "node-1/checkpoint-999999999999.txt", archive[secondSigned].Data),
		"empty lines":  changed(archive, secondFile, nothing),
		"lines":        changed(archive, secondFile, bytes.Repeat(archive[secondFile].Data, 1000)),
		"a long line":  changed(archive, secondFile, bytes.Repeat([]byte("x"), maxLine+1)),
		"deep JSON":    changed(archive, secondFile, append(bytes.Repeat([]byte(`{"index":`), 300_000), '\n')),
		"a long note":  changed(archive, secondSigned, append(bytes.Clone(archive[secondSigned].Data), nothing...)),
	} {
		start := time.Now()
		r := verified(t, a, o)
		require.NotEmpty(t, r.Findings, name)
		require.Less(t, time.Since(start), 30*time.Second, name)
		_, _ = Prove(context.Background(), a, serialOf(3), birth.Add(time.Hour)) // ends, whatever it says
		_, _ = OlderThan(a, "node-1", birth.Add(time.Hour))
	}
}

func TestTooManyNodesAreRefused(t *testing.T) {
	a := fstest.MapFS{}
	for i := range maxNodes + 1 {
		a[fmt.Sprintf("node-%d/x", i)] = &fstest.MapFile{}
	}
	_, err := Verify(context.Background(), a, Options{})
	require.ErrorIs(t, err, ErrArchive)
}

// Tokens that nobody signed are not remembered, however many a line names.
func TestMadeUpTokensTakeNoMemory(t *testing.T) {
	const lines, tokens = 20, 50
	dir := t.TempDir()
	l := newLog(t, "node-1", audittest.NewSigner(t))
	for i := range lines {
		e := audit.Entry{Action: "restore.tokens", Outcome: audit.Done}
		for j := range tokens {
			e.Also = append(e.Also, audit.Part{Serial: fmt.Sprintf("%d-%d", i, j), State: 1})
		}
		l.add(e)
	}
	l.export(dir)
	a := files(t, dir)
	v := &verification{Options: Options{Keys: []audit.PublicKey{l.signer.Public}}}
	for _, a := range []fstest.MapFS{a, without(a, "node-1/checkpoint-000000000020.txt")} {
		want := 0
		if a["node-1/checkpoint-000000000020.txt"] != nil {
			want = lines * tokens
		}
		*v = verification{Options: v.Options, report: Report{}}
		c, err := list(mustSub(t, a, "node-1"))
		require.NoError(t, err)
		v.logs = []*log{{verification: v, node: "node-1", dir: mustSub(t, a, "node-1"), contents: c}}
		require.NoError(t, v.merge(context.Background()))
		require.Len(t, v.tokens, want)
	}
}

func mustSub(t *testing.T, a fs.FS, name string) fs.FS {
	sub, err := fs.Sub(a, name)
	require.NoError(t, err)
	return sub
}

// No bytes that stand as a line make its reader panic, and what it takes for exact is what it would write.
func FuzzLine(f *testing.F) {
	l := newLog(f, "node-1", audittest.NewSigner(f)).fill(1)
	b, _, err := render(0, l.leaves[0])
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{"index":1,"leaf":"oA=="}`))
	f.Add([]byte(strings.Repeat("[", 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readLine(b)
		if err != nil {
			return
		}
		again, _, err := render(got.index, got.leaf)
		require.NoError(t, err)
		require.Equal(t, bytes.Equal(again, b), got.exact)
		require.True(t, json.Valid(again))
	})
}

// Whatever names stand in a folder: segments are within bounds, and nothing of ours is left out unseen.
func FuzzNames(f *testing.F) {
	f.Add("entries-000000000000-000000000040.ndjson")
	f.Add("hashes-999999999999-999999999999.bin")
	f.Add("checkpoint-000000000001.txt")
	f.Fuzz(func(t *testing.T, name string) {
		if !fs.ValidPath(name) || name == "." || strings.Contains(name, "/") {
			return
		}
		c, err := list(fstest.MapFS{name: &fstest.MapFile{}})
		require.NoError(t, err)
		for _, s := range c.segments {
			require.LessOrEqual(t, s.count, uint64(SegmentEntries))
			require.Contains(t, []string{s.entriesName(), s.hashesName()}, name)
		}
		if ourForm.MatchString(name) {
			require.Equal(t, 1, len(c.segments)+len(c.checkpoints)+len(c.strange))
		}
	})
}
