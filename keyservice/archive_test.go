package keyservice

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/store"
)

// export writes what is signed of the node's log into an archive, as the command does.
func (w *world) export(dir string) {
	ctx := context.Background()
	require.NoError(w.t, NewCheckpointer(w.Service).Advance(ctx))
	keys, err := w.PublicAuditKeys(ctx)
	require.NoError(w.t, err)
	note := w.row(audit.CheckpointKey(w.node)).Value
	c, err := audit.OpenCheckpoint(note, w.origin(w.node), keys)
	require.NoError(w.t, err)
	out, err := archive.NewWriter(dir, w.node)
	require.NoError(w.t, err)
	for index := out.Next(); index < uint64(c.Tree.N); index++ {
		row := w.row(entryOf(w, index))
		_, leaf, err := w.logbook.Leaf(store.Item{Key: row.Key, Value: row.Value})
		require.NoError(w.t, err)
		require.NoError(w.t, out.Add(leaf))
	}
	require.NoError(w.t, out.Keys(keys))
	require.NoError(w.t, out.Checkpoint(note, c))
}

// exported is the archive of two nodes that decided some hundreds of things together, exported in three steps, and the
// file with the public key. All of it is real: PostgreSQL, SoftHSM's signatures.
func exported(t *testing.T) (dir, key string) {
	nodes := newCluster(t, 0, 0)
	dir = t.TempDir()
	phones := []*phone{nodes[0].enrol(card(1), "counter-6"), nodes[1].enrol(card(2), "offline-60"), nodes[0].enrol(card(3), "sha-512")}
	for step := range 3 {
		for i := range 25 {
			p := phones[i%len(phones)]
			typed := p.password()
			nodes[i%2].try(p, typed)
			nodes[(i+1)%2].try(p, typed)
			nodes[0].clock.add(time.Minute)
		}
		for _, w := range nodes {
			w.decideSome(15)
			w.export(dir)
		}
		nodes[step%2].agreed(ActionOfficers, nodes[0].newOfficers("alice", "bob", []string{"carol", "zoe"}[(step+1)%2]))
	}
	keys, err := nodes[0].PublicAuditKeys(context.Background())
	require.NoError(t, err)
	key = filepath.Join(t.TempDir(), "audit.pem")
	require.NoError(t, os.WriteFile(key, keys[0].PEM(), 0o600))
	return dir, key
}

// mutation is one change of an archive, and where it was made.
type mutation struct {
	what, file string
	files      map[string][]byte
}

// mutate changes an archive at random; false if nothing came of it.
func mutate(random *rand.Rand, files map[string][]byte) (mutation, bool) {
	names := slices.Sorted(maps.Keys(files))
	name := names[random.IntN(len(names))]
	if random.IntN(2) == 0 { // half of all in the entries
		name = ofKind(random, names, "entries-")
	}
	m := mutation{file: name, files: maps.Clone(files)}
	b := bytes.Clone(files[name])
	lines := bytes.SplitAfter(b, []byte("\n"))
	lines = lines[:max(1, len(lines)-1)]
	i, j := random.IntN(len(lines)), random.IntN(len(lines))
	switch random.IntN(8) {
	case 0, 1, 2:
		m.what = "a byte changed"
		b[random.IntN(len(b))] ^= byte(1 + random.IntN(255))
	case 3:
		m.what = "a line removed"
		b = bytes.Join(slices.Delete(lines, i, i+1), nil)
	case 4:
		m.what = "two lines swapped"
		lines[i], lines[j] = lines[j], lines[i]
		b = bytes.Join(lines, nil)
	case 5:
		m.what = "a line inserted"
		b = bytes.Join(slices.Insert(lines, j, lines[i]), nil)
	case 6:
		m.what = "truncated"
		b = b[:random.IntN(len(b))]
	case 7:
		other := ofKind(random, names, path.Base(name)[:4])
		if m.what = "two files swapped"; other == name {
			if m.what = "a file removed"; strings.HasSuffix(name, archive.KeysFile) {
				return m, false // it is no part of the log
			}
			delete(m.files, name)
			return m, true
		}
		m.files[other], b = files[name], files[other]
	}
	m.files[name] = b
	return m, !bytes.Equal(b, files[name])
}

// ofKind picks a file whose name begins so.
func ofKind(random *rand.Rand, names []string, prefix string) string {
	some := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(path.Base(n), prefix) })
	return some[random.IntN(len(some))]
}

func mapFS(files map[string][]byte) fstest.MapFS {
	all := fstest.MapFS{}
	for name, b := range files {
		all[name] = &fstest.MapFile{Data: b}
	}
	return all
}

func readFiles(t *testing.T, dir string) map[string][]byte {
	files := map[string][]byte{}
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files[name], err = os.ReadFile(filepath.Join(dir, name))
		return err
	}))
	return files
}

// 1,000 random changes, removals, swaps and truncations of an exported log are all found, in the log where they were made.
// A second implementation agrees: on the archive as it is, and on a part of the changed ones.
func TestEveryRandomChangeOfAnExportedLogIsFound(t *testing.T) {
	dir, key := exported(t)
	keys, err := audit.ParsePublicKeys(readFiles(t, filepath.Dir(key))["audit.pem"])
	require.NoError(t, err)
	files := readFiles(t, dir)
	o := archive.Options{Keys: keys}
	report, err := archive.Verify(t.Context(), mapFS(files), o)
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	entries := report.Logs[0].Entries + report.Logs[1].Entries
	require.Greater(t, entries, uint64(250))
	require.Equal(t, 6, report.Checked)

	random := rand.New(rand.NewPCG(5, 6))
	var all []mutation
	for len(all) < 1000 {
		if m, changed := mutate(random, files); changed {
			all = append(all, m)
		}
	}
	var wg sync.WaitGroup
	next := make(chan mutation)
	missed := make(chan string, len(all))
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for m := range next {
				r, err := archive.Verify(context.Background(), mapFS(m.files), o)
				named := slices.ContainsFunc(r.Findings, func(f archive.Finding) bool { return f.Node == path.Dir(m.file) })
				if err != nil || !named {
					missed <- fmt.Sprintf("%s: %s: %v, %v", m.file, m.what, r.Findings, err)
				}
			}
		})
	}
	for _, m := range all {
		next <- m
	}
	close(next)
	wg.Wait()
	close(missed)
	for what := range missed {
		t.Error(what)
	}
	t.Logf("%d changes of %d entries in %d files", len(all), entries, len(files))
	secondOpinion(t, key, dir, all[:30])
}

// secondOpinion has the independent verifier look at the archive, and at changed ones.
func secondOpinion(t *testing.T, key, dir string, changed []mutation) {
	args := []string{"testdata/verify-archive.py", key, dir}
	for i, m := range changed {
		folder := filepath.Join(t.TempDir(), fmt.Sprint(i))
		for name, b := range m.files {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(folder, name)), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(folder, name), b, 0o600))
		}
		args = append(args, folder)
	}
	out, err := exec.CommandContext(t.Context(), "python3", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 1+len(changed), "%s", out)
	require.Equal(t, dir+" ok", lines[0])
	for i, m := range changed {
		require.Contains(t, lines[1+i], " bad: ", "%s: %s", m.file, m.what)
	}
}

// After a pruning the archive goes on, and what is gone from the database is proven out of it.
func TestPruneThenProve(t *testing.T) {
	w, dir := newWorld(t), t.TempDir()
	p := w.enrol(card(1), "counter-6")
	accepted := w.try(p, p.password())
	at := w.now()
	w.decideSome(20)
	w.export(dir)
	before := w.head.Load() - 5
	w.days()
	w.decideSome(20)
	_, q := w.archived(before)
	w.prune(q)
	require.True(t, w.try(p, p.password()).Accepted)
	w.decideSome(3)
	w.export(dir)
	keys, err := w.PublicAuditKeys(t.Context())
	require.NoError(t, err)
	r, err := archive.Verify(t.Context(), os.DirFS(dir), archive.Options{Keys: keys})
	require.NoError(t, err)
	require.Empty(t, r.Findings)
	b, err := archive.Prove(t.Context(), os.DirFS(dir), p.serial, at)
	require.NoError(t, err)
	text, err := b.Encode()
	require.NoError(t, err)
	_, proven, err := archive.OpenBundle(text, keys)
	require.NoError(t, err)
	require.Len(t, proven, 2, "the one before the pruning, and the one after it")
	require.Equal(t, []any{accepted.Audit.Index, audit.Accepted}, []any{proven[0].Index, proven[0].Entry.Outcome})
	require.Greater(t, proven[1].Index, before)
}
