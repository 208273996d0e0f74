package keyservice

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/pgstore/pgtest"
)

var operator = authz.Caller{Name: "operator", Roles: []authz.Role{authz.Operator}}

// takeBackup returns the file of a backup.
func (w *world) takeBackup() []byte {
	w.t.Helper()
	b, err := w.TakeBackup(context.Background(), operator)
	require.NoError(w.t, err)
	defer b.Close()
	var file bytes.Buffer
	taken, err := b.Write(context.Background(), &file)
	require.NoError(w.t, err)
	require.Equal(w.t, sha256.Sum256(file.Bytes()), taken.FileDigest)
	require.Equal(w.t, uint64(file.Len()), taken.FileBytes)
	return file.Bytes()
}

// leavesOf are the entries of a node's log, as they are in the tree.
func (w *world) leavesOf(node string) (leaves [][]byte) {
	w.t.Helper()
	snap, err := w.Store.Snapshot(context.Background())
	require.NoError(w.t, err)
	defer snap.Close()
	require.NoError(w.t, snap.Scan(context.Background(), audit.NodePrefix(node), "", func(it store.Item) error {
		_, leaf, err := w.logbook.Leaf(it)
		leaves = append(leaves, leaf)
		return err
	}))
	return leaves
}

// anchorOf is what a witness has seen of a log with these entries.
func (w *world) anchorOf(node string, leaves [][]byte) Anchor {
	b, err := audit.NewBuilder(node, tlog.Tree{}, func(keys []store.Key) ([]store.Item, error) { return make([]store.Item, len(keys)), nil })
	require.NoError(w.t, err)
	for _, leaf := range leaves {
		b.Add(tlog.RecordHash(leaf))
	}
	tree, err := b.Tree()
	require.NoError(w.t, err)
	return Anchor{Node: node, Size: uint64(len(leaves)), Root: tree.Hash.String(), Time: w.now().UTC()}
}

// signed signs what the node's log has become, and returns the note.
func (w *world) signed() []byte {
	w.t.Helper()
	require.NoError(w.t, NewCheckpointer(w.Service).Advance(context.Background()))
	return w.row(audit.CheckpointKey(w.node)).Value
}

// anchor is what a witness has seen of this node's log until now.
func (w *world) anchor() []Anchor {
	c := w.openNote(w.signed())
	return []Anchor{{Node: w.node, Size: uint64(c.Tree.N), Root: c.Tree.Hash.String(), Time: c.Time.UTC()}}
}

func (w *world) openNote(note []byte) audit.Checkpoint {
	keys, err := w.PublicAuditKeys(context.Background())
	require.NoError(w.t, err)
	c, err := audit.OpenCheckpoint(note, w.origin(w.node), keys)
	require.NoError(w.t, err)
	return c
}

// lost is what is left of a database that is gone: a backup, perhaps an archive, and what a witness has seen.
type lost struct {
	w       *world
	file    []byte
	archive string // empty: there is none
	anchor  []Anchor
	nodes   []string  // that the officers name; nil: those of the anchors
	seen    []byte    // the note of this node's anchor
	node    string    // that will serve
	now     time.Time // of the machine that restores; zero: the world's
	by      [2]authz.Caller
	life    time.Duration // of the proposal; zero: an hour
	without []string
	change  func(*Restore)
}

func (w *world) lost(file []byte, archive string) lost {
	return lost{w: w, file: file, archive: archive, anchor: w.anchor(), seen: w.signed(), node: w.node, by: [2]authz.Caller{alice, bob}}
}

// documents are what two officers sign.
func (l lost) documents() (proposal, approval_ approval.Signed) {
	sum := sha256.Sum256(l.file)
	nodes := l.nodes
	for _, a := range l.anchor {
		if l.nodes == nil && !slices.Contains(nodes, a.Node) {
			nodes = append(nodes, a.Node)
		}
	}
	if l.nodes == nil {
		slices.Sort(nodes)
	}
	return l.signed(ActionRestore, RestoreParameters{Backup: hex.EncodeToString(sum[:]), Anchor: l.anchor, Nodes: nodes, Without: l.without})
}

func (l lost) signed(action string, parameters any) (proposal, approval_ approval.Signed) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	p, err := approval.New(l.w.installation(), action, parameters, l.by[0].Name, nonce, l.clock(), cmp.Or(l.life, time.Hour))
	require.NoError(l.w.t, err)
	proposal = officersCA().sign(l.w.encoded(p), l.by[0].Name)
	a := approval.Approve(proposal.Document, l.by[1].Name, l.clock())
	return proposal, officersCA().sign(l.w.encoded(a), l.by[1].Name)
}

func (l lost) clock() time.Time {
	if l.now.IsZero() {
		return l.w.now()
	}
	return l.now
}

// run restores into a place.
func (l lost) run(to place) (Restored, error) {
	into, err := to.transfer()
	require.NoError(l.w.t, err)
	defer func() { require.NoError(l.w.t, into.Close()) }()
	return l.into(into)
}

func (l lost) into(into RestoreTarget) (Restored, error) {
	o := Restore{
		HSM: theHSM, File: bytes.NewReader(l.file), Size: int64(len(l.file)), Persons: persons(), Node: l.node, Into: into, Clock: l.clock,
	}
	o.Proposal, o.Approval = l.documents()
	if l.archive != "" {
		var err error
		o.Archive, err = archive.NewReader(os.DirFS(l.archive))
		require.NoError(l.w.t, err)
	}
	if l.change != nil {
		l.change(&o)
	}
	return o.Run(context.Background())
}

// restored restores into a new Badger database and serves from it.
func (l lost) restored() (*world, Restored) {
	return l.restoredTo(place(filepath.Join(l.w.t.TempDir(), "new")))
}

func (l lost) restoredTo(to place) (*world, Restored) {
	l.w.t.Helper()
	result, err := l.run(to)
	require.NoError(l.w.t, err)
	return l.serve(to), result
}

// serve starts the node on a restored database, at the time of the world that was lost.
func (l lost) serve(to place) *world {
	w := &world{t: l.w.t, node: l.node, clock: &fakeClock{now: l.w.clock.Now()}, skew: l.w.skew}
	w.open = func() (database, error) { return to.node(w) }
	w.begin()
	if l.seen != nil {
		require.NoError(w.t, w.CheckAnchor(context.Background(), l.seen), "it is no older than what a witness has seen")
	}
	require.NoError(w.t, w.CheckAnchor(context.Background(), w.signed()), "its log goes on")
	return w
}

// place is where a database is: a DSN, or the directory of a Badger database.
type place string

var places = map[string]func(testing.TB) place{
	"badger":   func(t testing.TB) place { return place(filepath.Join(t.TempDir(), "new")) },
	"postgres": func(t testing.TB) place { return place(pgtest.Database(t)) },
}

var quiet = slog.New(slog.DiscardHandler)

func (p place) isPostgres() bool { return strings.HasPrefix(string(p), "host=") }

func (p place) node(w *world) (database, error) {
	if p.isPostgres() {
		return pgstore.Open(context.Background(), pgstore.Options{DSN: string(p), Node: w.node, Sequencer: w.logbook.Sequence, Log: quiet})
	}
	return badgerstore.Open(badgerstore.Options{Dir: string(p), Node: w.node, Clock: w.clock.Now, Sequencer: w.logbook.Sequence, Log: quiet})
}

// closable is a RestoreTarget to close.
type closable interface {
	RestoreTarget
	Close() error
}

func (p place) transfer() (closable, error) {
	if p.isPostgres() {
		return pgstore.OpenTransfer(context.Background(), pgstore.Options{DSN: string(p), Log: quiet})
	}
	return badgerstore.OpenTransfer(badgerstore.Options{Dir: string(p), Log: quiet})
}

// on gives the phone to the customers of another world.
func (p *phone) on(w *world) *phone {
	moved := *p
	moved.w = w
	return &moved
}

func (w *world) resume(serial string) {
	w.t.Helper()
	_, err := w.Resume(context.Background(), branch, serial)
	require.NoError(w.t, err)
}

func (w *world) status(serial string) Status {
	w.t.Helper()
	v, err := w.Token(context.Background(), branch, serial)
	require.NoError(w.t, err)
	return v.Status
}

// whyOf is what a restore says of a token.
func (r Restored) whyOf(serial string) string {
	for _, f := range r.Changed {
		if f.Serial == serial {
			return f.Why
		}
	}
	return ""
}

func (w *world) archiveDir() string {
	dir := filepath.Join(w.t.TempDir(), "archive")
	require.NoError(w.t, os.MkdirAll(dir, 0o700))
	return dir
}

// bothWays runs a test on what is restored with the archive, and on what is restored without it.
func bothWays(t *testing.T, test func(t *testing.T, complete bool)) {
	for _, complete := range []bool{true, false} {
		t.Run(fmt.Sprintf("complete=%v", complete), func(t *testing.T) { test(t, complete) })
	}
}

// lostNow is what is left if everything is lost this moment.
func (w *world) lostNow(file []byte, complete bool) lost {
	l := w.lost(file, "")
	if complete {
		l.archive = w.archiveDir()
		w.export(l.archive)
	} else {
		l.node = "node-after"
	}
	return l
}
