package keyservice

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
	"ramzban/keyservice/witness"
)

// witnesses are the ways to reach a directory.
func (w *world) witnesses(dir string) map[string]Witness {
	d, err := witness.OpenDir(dir, func(ctx context.Context, _ string) ([]audit.PublicKey, error) { return w.PublicAuditKeys(ctx) })
	require.NoError(w.t, err)
	server := httptest.NewTLSServer(witness.Handler(d))
	w.t.Cleanup(server.Close)
	return map[string]Witness{"directory": d, "second host": witness.NewRemote(server.URL, server.Client())}
}

// held is what stands in a witness's directory for this node.
func (w *world) heldIn(dir string) []byte {
	note, err := os.ReadFile(filepath.Join(dir, w.installation(), w.node, "checkpoint"))
	require.NoError(w.t, err)
	return note
}

// The witness has each checkpoint as it was signed, also after a start; a restarted node finds out what it has.
func TestAWitnessFollows(t *testing.T) {
	for _, kind := range []string{"directory", "second host"} {
		t.Run(kind, func(t *testing.T) {
			onBothEngines(t, func(t *testing.T, w *world) {
				ctx, dir := context.Background(), t.TempDir()
				to := w.witnesses(dir)[kind]
				c := NewCheckpointer(w.Service)
				p := NewPublisher(c, to)
				require.NoError(t, p.Publish(ctx), "there is none yet")
				for i := range 6 {
					w.decideSome(3)
					require.NoError(t, c.Advance(ctx))
					for range 1 + i%2 {
						require.NoError(t, p.Publish(ctx))
					}
					require.Equal(t, w.row(audit.CheckpointKey(w.node)).Value, w.heldIn(dir))
					require.Equal(t, PublisherStats{Size: w.checkpoint().Tree.N}, p.Stats())
					if i == 3 {
						w.reopen()
						c = NewCheckpointer(w.Service)
						p = NewPublisher(c, to)
					}
				}
				held, err := to.Held(ctx, w.installation())
				require.NoError(t, err)
				require.Equal(t, [][]byte{w.heldIn(dir)}, held)
				require.NoError(t, w.CheckAnchor(ctx, held[0]))
			})
		})
	}
}

// A witness that is away, or was away for long, holds nothing up: it gets the newest one when it is back.
func TestAWitnessThatWasAway(t *testing.T) {
	w, ctx, dir := newWorld(t), context.Background(), t.TempDir()
	away := errors.New("no answer")
	to := &sometimes{Witness: w.witnesses(dir)["directory"]}
	c := NewCheckpointer(w.Service)
	p := NewPublisher(c, to)
	for range 3 {
		w.decideSome(300)
		require.NoError(t, c.Advance(ctx))
		to.away = away
		require.ErrorIs(t, p.Publish(ctx), away)
		require.ErrorIs(t, NewPublisher(c, to).Begin(ctx, false), ErrWitnessAway)
		require.True(t, p.Stats().Away)
		to.away = nil
	}
	require.NoError(t, p.Publish(ctx))
	require.False(t, p.Stats().Away)
	require.Equal(t, w.row(audit.CheckpointKey(w.node)).Value, w.heldIn(dir))
	require.False(t, p.Stats().Refused)
}

// A witness that was emptied, that holds something older, or that another one took the place of is not taken for one that has
// never had anything: neither at the start, nor by a node that could not ask it then. It must be declared a new one.
func TestAWitnessThatLostWhatItHadTaken(t *testing.T) {
	for _, kind := range []string{"directory", "second host"} {
		t.Run(kind, func(t *testing.T) {
			w, ctx, dir := newWorld(t), context.Background(), t.TempDir()
			to := w.witnesses(dir)[kind]
			c := NewCheckpointer(w.Service)
			p := NewPublisher(c, to)
			require.NoError(t, p.Begin(ctx, false), "it has never had anything")
			var held [][]byte
			for range 3 {
				w.decideSome(2)
				require.NoError(t, c.Advance(ctx))
				require.NoError(t, p.Publish(ctx))
				held = append(held, w.heldIn(dir))
			}
			require.Positive(t, w.checkpoint().Witness)
			require.NoError(t, NewPublisher(c, to).Begin(ctx, false))
			require.ErrorIs(t, NewPublisher(c, to).Begin(ctx, true), ErrWitnessKnown)

			path := filepath.Join(dir, w.installation(), w.node, "checkpoint")
			alarms := 0
			for _, older := range [][]byte{held[0], nil} {
				if require.NoError(t, os.Remove(path)); older != nil {
					require.NoError(t, os.WriteFile(path, older, 0o600))
				}
				require.ErrorIs(t, NewPublisher(c, to).Begin(ctx, false), ErrWitnessLost)
				running := []*Publisher{p, NewPublisher(c, to)}
				w.decideSome(1)
				require.NoError(t, c.Advance(ctx))
				for _, p := range running {
					require.ErrorIs(t, p.Publish(ctx), ErrWitnessLost)
					require.ErrorIs(t, p.Publish(ctx), ErrWitnessLost)
					require.True(t, p.Stats().Refused)
				}
				now, _ := os.ReadFile(path)
				require.Equal(t, older, now, "nothing is handed to it")
			}
			for _, e := range w.entries() {
				alarms += count(e.Outcome == audit.Tampered && e.Reason == witnessLost)
			}
			require.Equal(t, 3, alarms, "once for each of three")

			fresh := NewPublisher(c, to)
			require.NoError(t, fresh.Begin(ctx, true))
			require.NoError(t, fresh.Publish(ctx))
			require.NoError(t, NewPublisher(c, to).Begin(ctx, false))
			require.NoError(t, p.Publish(ctx), "the witness has it again")
			require.False(t, p.Stats().Refused)
		})
	}
}

// put makes a note what a witness's directory holds of a node, whoever signed it.
func (w *world) put(dir, node string, tree tlog.Tree, sign audit.SignFunc) {
	note, err := audit.Checkpoint{Origin: w.origin(node), Tree: tree, Time: w.now()}.Sign(context.Background(), sign)
	require.NoError(w.t, err)
	at := filepath.Join(dir, w.installation(), node)
	require.NoError(w.t, os.MkdirAll(at, 0o700))
	require.NoError(w.t, os.WriteFile(filepath.Join(at, "checkpoint"), note, 0o600))
}

// What a stranger signed under another node's name keeps no node from starting. Under the node's own it does, for then
// nobody knows what the witness had of it.
func TestAStrangersCheckpointIsPassedOver(t *testing.T) {
	w, ctx, dir, stranger := newWorld(t), context.Background(), t.TempDir(), audittest.NewSigner(t)
	p := NewPublisher(NewCheckpointer(w.Service), w.witnesses(dir)["directory"])
	w.decideSome(3)
	require.NoError(t, p.c.Advance(ctx))
	w.put(dir, "evil", w.checkpoint().Tree, stranger.Sign)
	require.NoError(t, p.Begin(ctx, false))
	require.NoError(t, p.Publish(ctx))
	require.NoError(t, p.Begin(ctx, false))
	require.Equal(t, w.checkpoint().Tree.N, p.Stats().Size)
	w.put(dir, w.node, w.checkpoint().Tree, stranger.Sign)
	require.ErrorIs(t, p.Begin(ctx, false), audit.ErrSignature)
}

// A witness that could not be asked at the start is asked of all nodes when it is back, before it is handed anything.
func TestAWitnessThatIsBackIsAskedOfAllNodes(t *testing.T) {
	w, ctx, dir := newWorld(t), context.Background(), t.TempDir()
	to := &sometimes{Witness: w.witnesses(dir)["directory"], away: errors.New("no answer")}
	p := NewPublisher(NewCheckpointer(w.Service), to)
	w.decideSome(3)
	require.NoError(t, p.c.Advance(ctx))
	require.ErrorIs(t, p.Begin(ctx, false), ErrWitnessAway)
	require.ErrorIs(t, p.Publish(ctx), ErrWitnessAway)
	w.put(dir, "node-9", w.checkpoint().Tree, w.signAudit) // which this database has never seen
	to.away = nil
	for range 2 {
		require.ErrorIs(t, p.Publish(ctx), ErrRollback)
		require.Equal(t, PublisherStats{Refused: true}, p.Stats())
	}
	require.NoDirExists(t, filepath.Join(dir, w.installation(), w.node))
	alarms := 0
	for _, e := range w.entries() {
		alarms += count(e.Outcome == audit.Tampered && e.Reason == checkpointContradicted)
	}
	require.Equal(t, 1, alarms)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, w.installation(), "node-9")))
	require.NoError(t, p.Publish(ctx))
	require.Equal(t, PublisherStats{Size: w.checkpoint().Tree.N}, p.Stats())
}

// sometimes is a witness that can be out of reach.
type sometimes struct {
	Witness
	away error
}

func (s *sometimes) Held(ctx context.Context, installation string) ([][]byte, error) {
	if s.away != nil {
		return nil, s.away
	}
	return s.Witness.Held(ctx, installation)
}

func (s *sometimes) Offer(ctx context.Context, o audit.Offer) error {
	if s.away != nil {
		return s.away
	}
	return s.Witness.Offer(ctx, o)
}

// A database that was put back as a whole, log, tree and checkpoint, contradicts the witness: at once if it is started
// from, and for ever once it has gone on. What the witness holds stays.
func TestAWitnessContradictsADatabaseThatWasPutBack(t *testing.T) {
	for _, kind := range []string{"directory", "second host"} {
		t.Run(kind, func(t *testing.T) {
			onBothEngines(t, func(t *testing.T, w *world) {
				ctx, dir := context.Background(), t.TempDir()
				to := w.witnesses(dir)[kind]
				w.decideSome(5)
				require.NoError(t, NewCheckpointer(w.Service).Advance(ctx))
				putBack := w.saved()
				w.decideSome(5)
				c := NewCheckpointer(w.Service)
				require.NoError(t, c.Advance(ctx))
				require.NoError(t, NewPublisher(c, to).Publish(ctx))
				newest := w.heldIn(dir)

				putBack()
				require.ErrorIs(t, w.CheckAnchor(ctx, newest), ErrRollback)
				c = NewCheckpointer(w.Service)
				p := NewPublisher(c, to)
				for range 2 { // shorter than what the witness holds, then longer
					w.decideSome(4)
					require.NoError(t, c.Advance(ctx))
					for range 3 {
						require.ErrorIs(t, p.Publish(ctx), audit.ErrContradicted)
					}
				}
				require.ErrorIs(t, w.CheckAnchor(ctx, newest), ErrRollback)
				require.True(t, p.Stats().Refused)
				require.Equal(t, newest, w.heldIn(dir))
				alarms := 0
				for _, e := range w.entries() {
					alarms += count(e.Outcome == audit.Tampered && e.Reason == checkpointContradicted)
				}
				require.Equal(t, 1, alarms)
			})
		})
	}
}

// saved copies the node's database as a whole, and returns what puts the copy in its place.
func (w *world) saved() (putBack func()) {
	require.NoError(w.t, w.db.Close())
	defer w.start()
	if w.dsn == "" {
		older := filepath.Join(w.t.TempDir(), "older")
		require.NoError(w.t, os.CopyFS(older, os.DirFS(w.dir)))
		return func() {
			require.NoError(w.t, w.db.Close())
			require.NoError(w.t, os.RemoveAll(w.dir))
			require.NoError(w.t, os.CopyFS(w.dir, os.DirFS(older)))
			w.start()
		}
	}
	at, err := pgx.ParseConfig(w.dsn)
	require.NoError(w.t, err)
	name := pgx.Identifier{at.Database}.Sanitize()
	older := pgx.Identifier{at.Database + "_older"}.Sanitize()
	at.Database = "postgres"
	do := func(statement string) {
		conn, err := pgx.ConnectConfig(context.Background(), at)
		require.NoError(w.t, err)
		defer func() { require.NoError(w.t, conn.Close(context.Background())) }()
		_, err = conn.Exec(context.Background(), statement)
		require.NoError(w.t, err)
	}
	do("CREATE DATABASE " + older + " TEMPLATE " + name)
	return func() {
		require.NoError(w.t, w.db.Close())
		do("DROP DATABASE " + name + " WITH (FORCE)")
		do("ALTER DATABASE " + older + " RENAME TO " + name)
		w.start()
	}
}

// An anchor says of which node's log it is, and only of one that this database holds.
func TestAnchors(t *testing.T) {
	nodes, ctx := newCluster(t, 0, 0), context.Background()
	w := nodes[0]
	for _, n := range nodes {
		n.decideSome(3)
		require.NoError(t, NewCheckpointer(n.Service).Advance(ctx))
	}
	for _, n := range nodes {
		note := n.row(audit.CheckpointKey(n.node)).Value
		for _, at := range nodes {
			at.decideSome(1)
			require.NoError(t, at.CheckAnchor(ctx, note), "each node checks those of all")
		}
	}
	note := w.row(audit.CheckpointKey(w.node)).Value
	changed := append([]byte{}, note...)
	changed[len(changed)-9] ^= 1
	require.ErrorIs(t, w.CheckAnchor(ctx, changed), audit.ErrSignature)
	require.ErrorIs(t, w.CheckAnchor(ctx, []byte("x")), audit.ErrCheckpoint)
	sign := func(origin string) []byte {
		c := w.checkpoint()
		c.Origin = origin
		note, err := c.Sign(ctx, w.signAudit)
		require.NoError(t, err)
		return note
	}
	require.ErrorIs(t, w.CheckAnchor(ctx, sign(audit.Origin("another", w.node))), audit.ErrCheckpoint)
	require.ErrorIs(t, w.CheckAnchor(ctx, sign(w.origin("node-9"))), ErrRollback, "a node that this database has never seen")

	other := w.checkpoint()
	other.Tree.Hash[0] ^= 1
	note, err := other.Sign(ctx, w.signAudit)
	require.NoError(t, err)
	require.ErrorIs(t, w.CheckAnchor(ctx, note), ErrRollback, "the same size, another root")
	w.editTile()
	require.ErrorIs(t, w.CheckAnchor(ctx, w.row(audit.CheckpointKey(w.node)).Value), audit.ErrTampered)
}
