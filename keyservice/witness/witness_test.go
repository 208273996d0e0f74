package witness_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
	"ramzban/keyservice/witness"
)

// log is a node's log, its tree, and the key that signs it.
type log struct {
	t       *testing.T
	origin  string
	private *ecdsa.PrivateKey
	public  audit.PublicKey
	rows    map[store.Key][]byte
	tree    tlog.Tree
}

func newLog(t *testing.T, origin string) *log {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	require.NoError(t, err)
	public, err := audit.ParsePublicKey(der)
	require.NoError(t, err)
	return &log{t: t, origin: origin, private: private, public: public, rows: map[store.Key][]byte{}}
}

// keyless is an installation that has no keys here.
const keyless = "77777777"

func (l *log) keys(_ context.Context, installation string) ([]audit.PublicKey, error) {
	if installation == keyless {
		return nil, nil
	}
	return []audit.PublicKey{l.public}, nil
}

func (l *log) read(keys []store.Key) ([]store.Item, error) {
	items := make([]store.Item, len(keys))
	for i, k := range keys {
		items[i] = store.Item{Key: k, Value: l.rows[k]}
	}
	return items, nil
}

// grow adds entries that say what, and returns the signed checkpoint.
func (l *log) grow(n int, what string) []byte {
	b, err := audit.NewBuilder("n", l.tree, l.read)
	require.NoError(l.t, err)
	for range n {
		b.Add(tlog.RecordHash([]byte(what + strconv.FormatInt(b.Size(), 10))))
	}
	l.tree, err = b.Tree()
	require.NoError(l.t, err)
	for _, p := range b.Rows() {
		l.rows[p.Key] = p.Value
	}
	return l.note()
}

func (l *log) note() []byte {
	note, err := audit.Checkpoint{Origin: l.origin, Tree: l.tree, Time: time.Unix(1774085420, 0).UTC()}.Sign(context.Background(),
		func(_ context.Context, message []byte) (audit.PublicKey, []byte, error) {
			sum := sha256.Sum256(message)
			sig, err := ecdsa.SignASN1(rand.Reader, l.private, sum[:])
			return l.public, sig, err
		})
	require.NoError(l.t, err)
	return note
}

// offer is the newest checkpoint with the proof that it follows the one of size old.
func (l *log) offer(old int64) audit.Offer {
	o := audit.Offer{Old: old, Note: l.note()}
	if old > 0 && old < l.tree.N {
		proof, err := audit.ProveConsistency(l.tree, old, l.tree.N, audit.Hashes("n", l.tree, l.read))
		require.NoError(l.t, err)
		o.Proof = proof
	}
	return o
}

type taker interface {
	Offer(ctx context.Context, o audit.Offer) error
}

// A directory, and the same one behind HTTPS, answer alike.
func eachWay(t *testing.T, test func(t *testing.T, l *log, dir string, w taker)) {
	for _, kind := range []string{"directory", "second host"} {
		t.Run(kind, func(t *testing.T) {
			l, dir := newLog(t, audit.Origin("5d0f6f3c", "node-1")), t.TempDir()
			d, err := witness.OpenDir(dir, l.keys)
			require.NoError(t, err)
			if kind == "directory" {
				test(t, l, dir, d)
				return
			}
			server := httptest.NewTLSServer(witness.Handler(d))
			defer server.Close()
			test(t, l, dir, witness.NewRemote(server.URL+"/", server.Client()))
		})
	}
}

func TestOffers(t *testing.T) {
	eachWay(t, func(t *testing.T, l *log, dir string, w taker) {
		ctx, path := context.Background(), filepath.Join(dir, "5d0f6f3c", "node-1", "checkpoint")
		var stale *audit.StaleError
		l.grow(5, "a")
		require.ErrorAs(t, w.Offer(ctx, l.offer(3)), &stale)
		require.Zero(t, stale.Size)
		require.NoError(t, w.Offer(ctx, l.offer(0)))
		older := *l
		l.grow(7, "a")
		require.ErrorAs(t, w.Offer(ctx, l.offer(0)), &stale)
		require.EqualValues(t, 5, stale.Size)
		require.NoError(t, w.Offer(ctx, l.offer(5)))
		require.NoError(t, w.Offer(ctx, l.offer(12)), "again")
		held, err := os.ReadFile(path)
		require.NoError(t, err)

		refused := func(o audit.Offer, as error) {
			t.Helper()
			err := w.Offer(ctx, o)
			require.Error(t, err)
			if as != nil {
				require.ErrorIs(t, err, as)
			}
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, held, now)
		}
		back := older.offer(12)
		refused(back, nil) // older than what it says it follows
		refused(older.offer(5), nil)
		other := *newLog(t, l.origin)
		other.private, other.public = l.private, l.public
		other.grow(12, "b")
		refused(other.offer(12), audit.ErrContradicted)
		other.grow(5, "b")
		refused(other.offer(12), audit.ErrContradicted)
		wrong := l.offer(12)
		l.grow(4, "a")
		wrong = l.offer(12)
		wrong.Proof = wrong.Proof[1:]
		refused(wrong, audit.ErrContradicted)
		moved := *l
		moved.origin = audit.Origin("another", "node-1")
		refused(moved.offer(12), nil) // it holds nothing of that one
		require.NoError(t, w.Offer(ctx, moved.offer(0)), "another installation's node of the same name")
		moved.origin = audit.Origin(keyless, "node-1")
		refused(moved.offer(0), nil) // the key is not that one's
		stranger := newLog(t, l.origin)
		stranger.grow(20, "a")
		refused(stranger.offer(12), nil)
		unsigned := l.offer(12)
		unsigned.Note = []byte(strings.Replace(string(unsigned.Note), "\n16\n", "\n17\n", 1))
		refused(unsigned, nil)

		require.NoError(t, w.Offer(ctx, l.offer(12)))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		held = []byte("x")
		l.grow(1, "a")
		refused(l.offer(0), nil)  // what was held is damaged: nobody may go on over it
		refused(l.offer(16), nil) // nor say what it was
	})
}

func TestADirectoryMustBeThere(t *testing.T) {
	l := newLog(t, audit.Origin("5d0f6f3c", "node-1"))
	_, err := witness.OpenDir(filepath.Join(t.TempDir(), "not-mounted"), l.keys)
	require.ErrorIs(t, err, os.ErrNotExist)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = witness.OpenDir(file, l.keys)
	require.Error(t, err)
}

// What is held of all nodes can be read, whatever else lies there.
func TestHeld(t *testing.T) {
	l, dir, ctx := newLog(t, audit.Origin("5d0f6f3c", "node-2")), t.TempDir(), context.Background()
	d, err := witness.OpenDir(dir, l.keys)
	require.NoError(t, err)
	server := httptest.NewTLSServer(witness.Handler(d))
	defer server.Close()
	remote := witness.NewRemote(server.URL, server.Client())
	held, err := remote.Held(ctx, "5d0f6f3c")
	require.NoError(t, err)
	require.Empty(t, held)
	second := l.grow(3, "a")
	require.NoError(t, d.Offer(ctx, audit.Offer{Note: second}))
	l.origin = audit.Origin("5d0f6f3c", "node-1")
	first := l.note()
	require.NoError(t, remote.Offer(ctx, audit.Offer{Note: first}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "5d0f6f3c", "notes.txt"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "5d0f6f3c", "lost+found"), 0o700))
	for _, w := range []interface {
		Held(context.Context, string) ([][]byte, error)
	}{d, remote} {
		held, err := w.Held(ctx, "5d0f6f3c")
		require.NoError(t, err)
		require.Equal(t, [][]byte{first, second}, held)
		held, err = w.Held(ctx, "another")
		require.NoError(t, err)
		require.Empty(t, held)
		for _, bad := range []string{"", "..", "5d0f6f3c/node-1"} {
			_, err = w.Held(ctx, bad)
			require.Error(t, err, bad)
		}
	}
	server.Close()
	_, err = remote.Held(ctx, "5d0f6f3c")
	require.Error(t, err)
}
