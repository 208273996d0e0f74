package archive

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit/audittest"
)

// consistency is a consistency proof as the second implementation reads it.
type consistency struct {
	From  uint64   `json:"from"`
	To    uint64   `json:"to"`
	Old   []byte   `json:"old"`
	New   []byte   `json:"new"`
	Proof [][]byte `json:"proof"`
}

// The second implementation of the check, in Python with openssl, agrees on inclusion and consistency proofs: on those that
// hold, and on those that do not.
func TestASecondImplementationAgreesOnProofs(t *testing.T) {
	dir := t.TempDir()
	text, keys := proven(t)
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	args := []string{"../../testdata/verify-archive.py", write("key.pem", keys[0].PEM()), write("bundle", text)}
	want := []string{"ok"}
	add := func(content []byte, verdict string) {
		args, want = append(args, write(fmt.Sprint(len(args)), content)), append(want, verdict)
	}
	var b map[string]any
	for _, change := range []func(entry map[string]any){
		func(e map[string]any) { e["index"] = e["index"].(float64) + 1 },
		func(e map[string]any) { p := e["proof"].([]any); p[0], p[1] = p[1], p[0] },
		func(e map[string]any) { p := e["proof"].([]any); e["proof"] = p[:len(p)-1] },
		func(e map[string]any) { p := e["proof"].([]any); e["proof"] = append(p, p[0]) },
		func(e map[string]any) { e["outcome"] = "denied" },
	} {
		require.NoError(t, json.Unmarshal(text, &b))
		change(b["entries"].([]any)[1].(map[string]any))
		changed, err := json.Marshal(b)
		require.NoError(t, err)
		add(changed, "bad")
	}
	add([]byte(strings.Replace(string(text), "300\\n", "301\\n", 1)), "bad")

	var all []consistency
	leaves := newLog(t, "node-1", audittest.NewSigner(t)).fill(70).leaves
	for _, to := range []int{1, 2, 3, 7, 8, 33, 64, 70} {
		for from := 1; from <= to; from++ {
			all = append(all, consistencyOf(t, leaves, from, to))
		}
	}
	good, err := json.Marshal(all)
	require.NoError(t, err)
	add(good, "ok")
	for i := range 40 {
		c := all[len(all)-2-i]
		switch i % 4 {
		case 0:
			c.Old = c.New
		case 1:
			c.From++
		case 2:
			c.Proof = append(c.Proof[:len(c.Proof):len(c.Proof)], c.New)
		case 3:
			c.Proof = c.Proof[1:]
		}
		bad, err := json.Marshal([]consistency{c})
		require.NoError(t, err)
		add(bad, "bad")
	}
	out, err := exec.CommandContext(t.Context(), "python3", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	said := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, said, len(want), "%s", out)
	for i, verdict := range want {
		require.Equal(t, verdict, strings.TrimSuffix(strings.Fields(said[i])[1], ":"), said[i])
	}
}

// consistencyOf makes the proof that the tree over the first leaves grew to one over more.
func consistencyOf(t *testing.T, leaves [][]byte, from, to int) consistency {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) (found []tlog.Hash, err error) {
		for _, i := range indexes {
			found = append(found, stored[i])
		}
		return found, nil
	})
	root := map[int]tlog.Hash{}
	for i := range to {
		more, err := tlog.StoredHashes(int64(i), leaves[i], read)
		require.NoError(t, err)
		stored = append(stored, more...)
		if i+1 == from || i+1 == to {
			root[i+1], err = tlog.TreeHash(int64(i+1), read)
			require.NoError(t, err)
		}
	}
	proof, err := tlog.ProveTree(int64(to), int64(from), read)
	require.NoError(t, err)
	old, now := root[from], root[to]
	c := consistency{From: uint64(from), To: uint64(to), Old: old[:], New: now[:], Proof: [][]byte{}}
	for _, h := range proof {
		c.Proof = append(c.Proof, h[:])
	}
	return c
}
