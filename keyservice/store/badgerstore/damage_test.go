package badgerstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

const (
	sampleRows  = 300
	sampleTable = 2 << 20 // memtable: its log is sparse, but is copied here again and again
)

func openSample(t testing.TB, dir string) *Store {
	t.Helper()
	return openTest(t, Options{Dir: dir, Sequencer: storetest.Sequencer(), memTable: sampleTable})
}

func sampleKey(i int) store.Key { return store.Key(fmt.Sprintf("row/%03d", i)) }

// sample makes a database with several tables and with rows only in a log, as a killed process leaves it.
func sample(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for part := range 3 {
		s := openSample(t, dir)
		for i := part * sampleRows / 3; i < (part+1)*sampleRows/3; i++ {
			mustCommit(t, s, change(sampleKey(i), strings.Repeat("v", 100+i)))
		}
		if part == 2 {
			killed := copyDir(t, dir)
			require.NoError(t, s.Close())
			return killed
		}
		require.NoError(t, s.Close())
	}
	return ""
}

func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// files returns the paths of a database's files with the suffix that hold something besides zeroes.
func files(t testing.TB, dir, suffix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	require.NoError(t, err)
	var found []string
	for _, path := range paths {
		if b := read(t, path); len(b) > logHeader && strings.Trim(string(b[logHeader:]), "\x00") != "" {
			found = append(found, path)
		}
	}
	require.NotEmpty(t, found, suffix)
	return found
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func overwrite(t testing.TB, path string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// logEnd returns where a log's rows end.
func logEnd(b []byte) int { return len(strings.TrimRight(string(b), "\x00")) }

// requireRows fails the test unless the first n rows of the sample are there, with their entries.
func requireRows(t testing.TB, s *Store, n int) {
	t.Helper()
	for i := range n {
		require.Len(t, value(t, s, sampleKey(i)), 100+i)
	}
	require.EqualValues(t, n, s.commits.next)
}

func TestSampleIsWhole(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	require.Len(t, files(t, dir, tableSuffix), 2)
	require.Len(t, files(t, dir, walSuffix), 1)
	s := openSample(t, dir)
	requireRows(t, s, sampleRows)
	require.NoError(t, s.Close())
}

// openError opens a database that must not open, and returns the error, a single line.
func openError(t testing.TB, dir string) error {
	t.Helper()
	s, err := Open(Options{Dir: dir, Node: "a", Log: slog.New(slog.DiscardHandler), memTable: sampleTable, Reserve: crashReserve})
	if err == nil {
		s.Close()
		t.Fatal("a database opened that should not")
	}
	require.NotContains(t, err.Error(), "\n")
	require.Contains(t, err.Error(), dir)
	return err
}

func TestADirectoryWithoutADatabase(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "absent")} {
		found, err := Exists(dir)
		require.NoError(t, err)
		require.False(t, found)
	}
}

func TestDamageIsFoundBeforeOpening(t *testing.T) {
	t.Parallel()
	pristine := sample(t)
	cases := map[string]func(t *testing.T, dir string){
		"a table's block":          func(t *testing.T, dir string) { flip(t, files(t, dir, tableSuffix)[0], 1000) },
		"a table's index":          func(t *testing.T, dir string) { flip(t, files(t, dir, tableSuffix)[0], -100) },
		"a table's last byte":      func(t *testing.T, dir string) { flip(t, files(t, dir, tableSuffix)[0], -1) },
		"a table cut short":        func(t *testing.T, dir string) { cut(t, files(t, dir, tableSuffix)[1], 10) },
		"a table of zeroes":        func(t *testing.T, dir string) { zero(t, files(t, dir, tableSuffix)[1]) },
		"an empty table":           func(t *testing.T, dir string) { overwrite(t, files(t, dir, tableSuffix)[0], nil) },
		"a table gone":             func(t *testing.T, dir string) { require.NoError(t, os.Remove(files(t, dir, tableSuffix)[0])) },
		"the manifest's magic":     func(t *testing.T, dir string) { flip(t, manifest(dir), 0) },
		"another program's":        func(t *testing.T, dir string) { flip(t, manifest(dir), 5) },
		"the manifest's list":      func(t *testing.T, dir string) { flip(t, manifest(dir), 20) },
		"the manifest cut short":   func(t *testing.T, dir string) { cut(t, manifest(dir), 1) },
		"an empty manifest":        func(t *testing.T, dir string) { overwrite(t, manifest(dir), nil) },
		"no manifest":              func(t *testing.T, dir string) { require.NoError(t, os.Remove(manifest(dir))) },
		"a log's first batch":      func(t *testing.T, dir string) { flip(t, files(t, dir, walSuffix)[0], logHeader+50) },
		"a log's middle":           func(t *testing.T, dir string) { flip(t, files(t, dir, walSuffix)[0], 20000) },
		"a log gone before others": loseLog,
		"a value log with values":  func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "000009.vlog"), make200()) },
		"the key registry":         func(t *testing.T, dir string) { flip(t, filepath.Join(dir, badger.KeyRegistryFileName), 20) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, pristine)
			damage(t, dir)
			found, err := Exists(dir)
			require.NoError(t, err)
			require.True(t, found, "a damaged database is none that was never made")
			require.ErrorIs(t, openError(t, dir), ErrCorrupt)
			require.ErrorContains(t, openError(t, dir), "restore it from a backup", "and it says what to do, again and again")
		})
	}
}

func manifest(dir string) string { return filepath.Join(dir, badger.ManifestFilename) }

func make200() []byte { return []byte(strings.Repeat("x", 200)) }

// TestManifestCutShortAfterAClose: no log is left to show that the newest table is missing, but the table is there.
func TestManifestCutShortAfterAClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 2 {
		s := openSample(t, dir)
		mustCommit(t, s, change(sampleKey(i), "v"))
		require.NoError(t, s.Close())
	}
	cut(t, manifest(dir), 1)
	require.ErrorIs(t, openError(t, dir), ErrCorrupt)
}

// flip changes a bit of the byte at the offset, counted from the end when negative.
func flip(t testing.TB, path string, at int) {
	t.Helper()
	b := read(t, path)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	overwrite(t, path, b)
}

func cut(t testing.TB, path string, n int) {
	t.Helper()
	b := read(t, path)
	overwrite(t, path, b[:len(b)-n])
}

func zero(t testing.TB, path string) {
	t.Helper()
	overwrite(t, path, make([]byte, len(read(t, path))))
}

// loseLog makes the log begin with a later batch than the one after the tables.
func loseLog(t *testing.T, dir string) {
	path := files(t, dir, walSuffix)[0]
	b := read(t, path)
	_, size, ok := readBatch(b[logHeader:])
	require.True(t, ok)
	overwrite(t, path, append(b[:logHeader:logHeader], b[logHeader+size:]...))
}

// TestEveryByteOfATableCounts flips bits all over a table: none goes unnoticed.
func TestEveryByteOfATableCounts(t *testing.T) {
	t.Parallel()
	path := files(t, sample(t), tableSuffix)[0]
	b := read(t, path)
	step := storetest.Scaled(29, 1)
	for at := 0; at < len(b); at += step {
		b[at] ^= 1 << (at % 8)
		_, err := verifyTable(strings.NewReader(string(b)), int64(len(b)))
		require.Error(t, err, "byte %d", at)
		b[at] ^= 1 << (at % 8)
	}
	newest, err := verifyTable(strings.NewReader(string(b)), int64(len(b)))
	require.NoError(t, err)
	require.EqualValues(t, sampleRows/3, newest)
}

// TestTornLastBatch: whatever part of the last batch a power cut leaves, the database opens without it and goes on.
func TestTornLastBatch(t *testing.T) {
	t.Parallel()
	pristine := sample(t)
	path := files(t, pristine, walSuffix)[0]
	b := read(t, path)
	end, last := logEnd(b), lastBatch(t, b)
	step := max(1, (end-last)/storetest.Scaled(5, 200))
	for at := last; at < end; at += step {
		dir := copyDir(t, pristine)
		torn := append([]byte(nil), b...)
		clear(torn[at:])
		overwrite(t, filepath.Join(dir, filepath.Base(path)), torn)
		s := openSample(t, dir)
		requireRows(t, s, sampleRows-1)
		require.EqualValues(t, sampleRows-1, mustCommit(t, s, change("again", "v")))
		require.NoError(t, s.Close())
		s = openSample(t, dir)
		require.EqualValues(t, sampleRows, s.commits.next)
		require.NoError(t, s.Close())
	}
}

// lastBatch returns where the last batch of a log begins.
func lastBatch(t *testing.T, b []byte) int {
	at := logHeader
	for {
		_, size, ok := readBatch(b[at:])
		require.True(t, ok)
		if _, _, more := readBatch(b[at+size:]); !more {
			return at
		}
		at += size
	}
}

// TestRandomDamage flips bits anywhere: the database refuses to open or has every row but those of its last batch.
func TestRandomDamage(t *testing.T) {
	t.Parallel()
	pristine := sample(t)
	random := rand.New(rand.NewPCG(1, 2))
	refused, rounds := 0, storetest.Scaled(30, 2000)
	for round := range rounds {
		dir := copyDir(t, pristine)
		all, err := filepath.Glob(filepath.Join(dir, "*"))
		require.NoError(t, err)
		path := all[random.IntN(len(all))]
		b := read(t, path)
		if len(b) == 0 {
			continue
		}
		at, bit := random.IntN(min(len(b), max(1, logEnd(b)+100))), byte(1)<<random.IntN(8)
		b[at] ^= bit
		overwrite(t, path, b)
		s, err := Open(Options{Dir: dir, Node: "a", Log: slog.New(slog.DiscardHandler), Sequencer: storetest.Sequencer(), memTable: sampleTable})
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			refused++
			continue
		}
		require.GreaterOrEqual(t, s.commits.next, uint64(sampleRows-1), "round %d: bit %d of byte %d of %s", round, bit, at, path)
		requireRows(t, s, int(s.commits.next))
		require.NoError(t, s.Close())
	}
	require.NotZero(t, refused)
}

// TestEmptyLogsAreRemoved: a process killed while it made or removed a log leaves it empty, and Badger stumbles on it.
func TestEmptyLogsAreRemoved(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		overwrite(t, filepath.Join(dir, name), nil)
	}
	s := openSample(t, dir)
	defer s.Close()
	requireRows(t, s, sampleRows)
}

func TestLockedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openTest(t, Options{Dir: dir})
	require.ErrorIs(t, openError(t, dir), ErrLocked)
	mustCommit(t, s, change("k", "v"))
	require.NoError(t, s.Close())
	s = openTest(t, Options{Dir: dir})
	require.Equal(t, "v", value(t, s, "k"))
	require.NoError(t, s.Close())
}

func TestNotADirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	overwrite(t, file, nil)
	require.ErrorIs(t, openError(t, file), ErrNotWritable)
	require.ErrorIs(t, openError(t, filepath.Join(file, "below")), ErrNotWritable)
}

func TestDirectoryIsMade(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b[c]*", "d")
	s := openTest(t, Options{Dir: dir})
	mustCommit(t, s, change("k", "v"))
	require.NoError(t, s.Close())
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	_, err = s.Get(context.Background(), "k")
	require.ErrorIs(t, err, ErrClosed)
	s = openTest(t, Options{Dir: dir})
	require.Equal(t, "v", value(t, s, "k"))
	require.NoError(t, s.Close())
}

// TestForeignDatabase: a Badger database of another program, with our magic number, has no row of the next index.
func TestForeignDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := badger.OpenManaged(badgerOptions(Options{Dir: dir, Log: slog.New(slog.DiscardHandler), memTable: memTableSize}))
	require.NoError(t, err)
	txn := db.NewTransactionAt(0, true)
	require.NoError(t, txn.Set([]byte("k"), []byte("v")))
	require.NoError(t, txn.CommitAt(1, nil))
	require.NoError(t, db.Close())
	require.ErrorIs(t, openError(t, dir), ErrCorrupt)
}
