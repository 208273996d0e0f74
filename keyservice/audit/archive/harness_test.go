package archive

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

const installation = "test-bank"

var birth = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

// testLog is a log as a node of the service would have it.
type testLog struct {
	t      testing.TB
	node   string
	signer audittest.Signer
	leaves [][]byte
	tree   frontier
	last   int64             // time of the last entry
	signed map[uint64][]byte // checkpoints
}

func newLog(t testing.TB, node string, s audittest.Signer) *testLog {
	return &testLog{t: t, node: node, signer: s, signed: map[uint64][]byte{}}
}

func serialOf(i int) string { return fmt.Sprintf("%012d", i) }

// fill adds n entries, one a second: verifications of ten tokens.
func (l *testLog) fill(n int) *testLog {
	for range n {
		i := len(l.leaves)
		l.add(audit.Entry{Serial: serialOf(i % 10), Action: "otp.verify", Outcome: audit.Accepted, Use: "second-pin", State: uint64(i/10) + 1, Next: uint64(i)})
	}
	return l
}

func (l *testLog) add(e audit.Entry) {
	e.Node, e.Actor = l.node, "core-banking"
	if e.Time == 0 {
		e.Time = birth.Add(time.Duration(len(l.leaves)) * time.Second).UnixMilli()
	}
	l.last = e.Time
	leaf, err := audit.Encode(e)
	require.NoError(l.t, err)
	l.leaves = append(l.leaves, leaf)
	l.tree.add(tlog.RecordHash(leaf))
}

// checkpoint signs what is there.
func (l *testLog) checkpoint() audit.Checkpoint {
	c := audit.Checkpoint{
		Origin: audit.Origin(installation, l.node), Tree: tlog.Tree{N: int64(l.tree.size), Hash: l.tree.root()},
		Time: time.UnixMilli(l.last).UTC().Add(time.Second),
	}
	signed, err := c.Sign(context.Background(), l.signer.Sign)
	require.NoError(l.t, err)
	l.signed[l.tree.size] = signed
	return c
}

// export adds what is new to the archive.
func (l *testLog) export(dir string) {
	c := l.checkpoint()
	w, err := NewWriter(dir, l.node)
	require.NoError(l.t, err)
	for _, leaf := range l.leaves[w.Next():] {
		require.NoError(l.t, w.Add(leaf))
	}
	require.NoError(l.t, w.Keys([]audit.PublicKey{l.signer.Public}))
	require.NoError(l.t, w.Checkpoint(l.signed[l.tree.size], c))
}

// files reads an archive into memory, so that it can be changed often.
func files(t testing.TB, dir string) fstest.MapFS {
	all := fstest.MapFS{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[name] = &fstest.MapFile{Data: b}
		return err
	}))
	return all
}

// changed is a copy of an archive in which one file is another.
func changed(archive fstest.MapFS, name string, content []byte) fstest.MapFS {
	all := maps.Clone(archive)
	all[name] = &fstest.MapFile{Data: content}
	return all
}

func without(archive fstest.MapFS, names ...string) fstest.MapFS {
	all := maps.Clone(archive)
	for _, name := range names {
		delete(all, name)
	}
	return all
}

func verified(t testing.TB, archive fs.FS, o Options) Report {
	r, err := Verify(context.Background(), archive, o)
	require.NoError(t, err)
	return r
}
