package archive

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/audittest"
)

func proven(t testing.TB) ([]byte, []audit.PublicKey) {
	dir, s := t.TempDir(), audittest.NewSigner(t)
	newLog(t, "node-1", s).fill(300).export(dir)
	second := newLog(t, "node-2", s)
	for range 150 {
		second.add(audit.Entry{Action: "audit.read"})
	}
	second.add(audit.Entry{Serial: serialOf(77), Time: birth.Add(150 * time.Second).UnixMilli(), Also: []audit.Part{{Serial: serialOf(3), State: 16, Next: 1, Commitment: []byte{1}}}})
	second.export(dir)
	b, err := Prove(context.Background(), os.DirFS(dir), serialOf(3), birth.Add(151*time.Second))
	require.NoError(t, err)
	text, err := b.Encode()
	require.NoError(t, err)
	return text, []audit.PublicKey{s.Public}
}

// A bundle holds the entries of a token nearest to a moment, also those of a decision about several tokens, and proves
// them with nothing but the public key.
func TestABundleProvesTheNearestEntries(t *testing.T) {
	text, keys := proven(t)
	b, said, err := OpenBundle(text, keys)
	require.NoError(t, err)
	require.Equal(t, []string{serialOf(3), installation}, []string{b.Serial, b.Installation})
	require.Len(t, said, 2)
	require.Equal(t, []any{"node-2", uint64(150), uint64(151)}, []any{said[0].Entry.Node, said[0].Index, said[0].Signed}, "the last one before")
	require.Equal(t, []any{"node-1", uint64(153), uint64(300)}, []any{said[1].Entry.Node, said[1].Index, said[1].Signed}, "the first one after")
}

// Of the bundle nothing can be changed: each byte is either part of a proof, or must say what the leaves say.
func TestNoByteOfABundleCanBeChanged(t *testing.T) {
	text, keys := proven(t)
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1 << (i % 8)
		_, said, err := OpenBundle(changed, keys)
		if err == nil { // the moment that was asked for proves nothing
			at := bytes.Index(text, []byte(`"time":`))
			require.True(t, i > at && i < at+40, "byte %d: %q", i, text[max(0, i-30):i+1])
		} else {
			require.Nil(t, said)
		}
	}
	_, _, err := OpenBundle(text, []audit.PublicKey{audittest.NewSigner(t).Public})
	require.ErrorIs(t, err, ErrBundle, "the key in the bundle is not trusted")
	_, _, err = OpenBundle(bytes.ReplaceAll(text, []byte(serialOf(3)), []byte(serialOf(4))), keys)
	require.ErrorIs(t, err, ErrBundle)
}

// A proof cannot be moved to an entry that it does not prove.
func TestAProofIsOfOneEntry(t *testing.T) {
	text, keys := proven(t)
	b, _, err := OpenBundle(text, keys)
	require.NoError(t, err)
	for name, change := range map[string]func(*Bundle){
		"another index":                   func(b *Bundle) { b.Entries[1].Index-- },
		"beyond":                          func(b *Bundle) { b.Entries[1].Index = 300 },
		"another leaf":                    func(b *Bundle) { b.Entries[1].Leaf = b.Entries[0].Leaf },
		"no proof":                        func(b *Bundle) { b.Entries[1].Proof = nil },
		"no checkpoint":                   func(b *Bundle) { delete(b.Checkpoints, "node-1") },
		"another one":                     func(b *Bundle) { b.Checkpoints["node-1"] = b.Checkpoints["node-2"] },
		"no entries":                      func(b *Bundle) { b.Entries = nil },
		"an entry twice":                  func(b *Bundle) { b.Entries[1] = b.Entries[0]; delete(b.Checkpoints, "node-1") },
		"a checkpoint that nothing is in": func(b *Bundle) { b.Entries = b.Entries[:1] },
		"two installations": func(b *Bundle) {
			b.Checkpoints["node-1"] = bytes.ReplaceAll(b.Checkpoints["node-1"], []byte(installation), []byte("other-bank"))
		},
	} {
		c := b
		c.Entries = append([]Proven{}, b.Entries...)
		c.Checkpoints = map[string][]byte{"node-1": b.Checkpoints["node-1"], "node-2": b.Checkpoints["node-2"]}
		change(&c)
		text, err := c.Encode()
		require.NoError(t, err, name)
		_, _, err = OpenBundle(text, keys)
		require.ErrorIs(t, err, ErrBundle, name)
	}
}

// Proofs are made in a pruned archive, too; but not of what is not there.
func TestProvingInAPrunedArchive(t *testing.T) {
	archive, l := sample(t)
	rest := without(archive, firstFile)
	b, err := Prove(context.Background(), rest, serialOf(3), birth.Add(time.Hour))
	require.NoError(t, err)
	text, err := b.Encode()
	require.NoError(t, err)
	_, said, err := OpenBundle(text, []audit.PublicKey{l.signer.Public})
	require.NoError(t, err)
	require.EqualValues(t, 93, said[0].Index)
	_, err = Prove(context.Background(), rest, serialOf(10), birth)
	require.ErrorIs(t, err, ErrArchive, "no such token")
	_, err = Prove(context.Background(), without(rest, firstHashes), serialOf(3), birth)
	require.ErrorIs(t, err, errNoHashes)
	_, err = Prove(context.Background(), without(rest, firstSigned, secondSigned), serialOf(3), birth)
	require.ErrorIs(t, err, ErrArchive)
}

func FuzzOpenBundle(f *testing.F) {
	text, keys := proven(f)
	f.Add(text)
	f.Add([]byte(`{"ramzban_proof":1,"entries":[{"index":0,"leaf":"` + base64.StdEncoding.EncodeToString([]byte{0xa0}) + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, said, err := OpenBundle(b, keys); err == nil {
			require.NotEmpty(t, said)
		}
	})
}
