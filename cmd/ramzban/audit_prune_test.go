package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
)

// oldArchive is an archive of node-1 with two entries of a month ago and two of today; it returns the file of its key, too.
func oldArchive(t *testing.T) (dir, key string) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&signer.PublicKey)
	require.NoError(t, err)
	public, err := audit.ParsePublicKey(der)
	require.NoError(t, err)
	dir, key = filepath.Join(t.TempDir(), "archive"), writeFile(t, "audit.pem", string(public.PEM()))
	w, err := archive.NewWriter(dir, "node-1")
	require.NoError(t, err)
	var hashes []tlog.Hash
	for _, age := range []int{31, 30, 1, 0} {
		leaf, err := audit.Encode(audit.Entry{Time: time.Now().AddDate(0, 0, -age).UnixMilli(), Node: "node-1", Actor: "x", Action: "audit.read", Outcome: audit.Done})
		require.NoError(t, err)
		require.NoError(t, w.Add(leaf))
		hashes = append(hashes, tlog.RecordHash(leaf))
	}
	root := tlog.NodeHash(tlog.NodeHash(hashes[0], hashes[1]), tlog.NodeHash(hashes[2], hashes[3]))
	c := audit.Checkpoint{Origin: audit.Origin("bank", "node-1"), Tree: tlog.Tree{N: 4, Hash: root}, Time: time.Now().Truncate(time.Millisecond)}
	note, err := c.Sign(t.Context(), func(_ context.Context, message []byte) (audit.PublicKey, []byte, error) {
		sum := sha256.Sum256(message)
		sig, err := ecdsa.SignASN1(rand.Reader, signer, sum[:])
		return public, sig, err
	})
	require.NoError(t, err)
	require.NoError(t, w.Keys([]audit.PublicKey{public}))
	require.NoError(t, w.Checkpoint(note, c))
	return dir, key
}

// Only what is old, and in an archive that verifies, is proposed to be removed.
func TestWhatIsProposedToBePruned(t *testing.T) {
	dir, key := oldArchive(t)
	var out bytes.Buffer
	p := pruning{dir: dir, node: "node-1", days: 10, keys: []string{key}}
	older, err := p.older(t.Context(), &out)
	require.NoError(t, err)
	require.EqualValues(t, 2, older.Entries)
	require.Contains(t, out.String(), "all is as it was signed")
	for why, change := range map[string]func(*pruning){
		"--node is missing":      func(p *pruning) { p.node = "" },
		"at least 8 days":        func(p *pruning) { p.days = 7 },
		"--audit-key is missing": func(p *pruning) { p.keys = nil },
		"no entries of node-1":   func(p *pruning) { p.days = 60 },
		"node-2":                 func(p *pruning) { p.node = "node-2" },
	} {
		wrong := p
		change(&wrong)
		_, err := wrong.older(t.Context(), &out)
		require.ErrorContains(t, err, why)
	}
	spoil(t, filepath.Join(dir, "node-1", "entries-000000000000-000000000004.ndjson"), `"actor":"x"`, `"actor":"y"`)
	_, err = p.older(t.Context(), &out)
	require.ErrorIs(t, err, errNotSigned)
}
