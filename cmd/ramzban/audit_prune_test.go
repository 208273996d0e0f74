package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/audit/audittest"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// oldArchive is an archive of node-1 with two entries of a month ago and two of today; it returns the file of its key, too.
func oldArchive(t *testing.T) (dir, key string) {
	signer := audittest.NewSigner(t)
	dir, key = filepath.Join(t.TempDir(), "archive"), writeFile(t, "audit.pem", string(signer.Public.PEM()))
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
	note, err := c.Sign(t.Context(), signer.Sign)
	require.NoError(t, err)
	require.NoError(t, w.Keys([]audit.PublicKey{signer.Public}))
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
		"--node or":                 func(p *pruning) { p.node = "" },
		"at least 8 days":           func(p *pruning) { p.days = 7 },
		"or --audit-key is missing": func(p *pruning) { p.keys = nil },
		"no entries of node-1":      func(p *pruning) { p.days = 60 },
		"node-2":                    func(p *pruning) { p.node = "node-2" },
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

// at runs the binary with one of the bank's certificates; it must succeed.
func (b *retailBank) at(name string, args ...string) string {
	b.t.Helper()
	stdout, stderr, err := atTerminal(b.t, "", b.args(name, args...)...)
	require.NoError(b.t, err, "%v: %s%s", args, stdout, stderr)
	return stdout
}

func (b *retailBank) args(name string, args ...string) []string {
	file := func(name string) string { return filepath.Join(b.dir, "pki", name) }
	return append(args, "--url", "https://"+b.config.API.Listen, "--ca", file("ca.crt"), "--cert", file(name+".crt"), "--key", file(name+".key"))
}

// exports exports the log until what was decided before is in the archive.
func (b *retailBank) exports(dir string) {
	b.t.Helper()
	require.NoError(b.t, keyservice.NewCheckpointer(b.node.service).Advance(b.t.Context()))
	require.Contains(b.t, b.at("auditor", "audit", "export", "--out", dir), " in the archive, signed ")
}

// Two officers prune a log at their terminals: one proposes what is old and verified, the other approves it, and it goes from
// the database. The log goes on, the archive verifies without the segments that were put elsewhere, and an entry in one of
// those is proven out of them.
func TestTwoOfficersPruneTheLog(t *testing.T) {
	b := openBankAt(t, time.Now().AddDate(0, 0, -20), func(*Config) {})
	branch := authz.Caller{Name: "branch", Roles: []authz.Role{authz.Issuer}}
	issued, err := b.node.service.Issue(t.Context(), branch, keyservice.IssueRequest{
		Class: "card", Subject: seed.NewSubject(testCard(61)), Channel: "app", Profile: "offline-60", Uses: []string{testUse}})
	require.NoError(t, err)
	at := b.clock.Now()
	require.NoError(t, keyservice.NewCheckpointer(b.node.service).Advance(t.Context()))
	b.clock.pass(time.Since(at))
	dir, elsewhere := filepath.Join(t.TempDir(), "archive"), filepath.Join(t.TempDir(), "elsewhere")
	b.exports(dir)
	old, err := filepath.Glob(filepath.Join(dir, "*", "entries-*"))
	require.NoError(t, err)
	require.Len(t, old, 1)
	key := filepath.Join(filepath.Dir(old[0]), archive.KeysFile)

	said := b.at("officer-1", "audit", "prune", dir, "--node", b.config.Node, "--older-than", "10", "--audit-key", key)
	require.Contains(t, said, "all is as it was signed: installation ")
	var p wire.Proposal
	require.NoError(t, json.Unmarshal([]byte(b.at("officer-1", "approvals", "list", "--json")), &p))
	_, stderr, err := atTerminal(t, "", b.args("officer-1", "approvals", "approve", p.ID, "--yes")...)
	require.Error(t, err)
	require.Contains(t, stderr, "second_person_required")
	require.Contains(t, b.at("officer-2", "approvals", "approve", p.ID, "--yes"), "carried out")
	logs, err := b.as("auditor").AuditLogs(t.Context())
	require.NoError(t, err)
	require.Positive(t, logs.Logs[0].First)
	first := strings.Fields(b.at("auditor", "audit", "entries", "--limit", "1"))
	require.Contains(t, first, fmt.Sprint(logs.Logs[0].First), "the log begins there")
	require.Contains(t, b.at("auditor", "audit", "compare"), "agrees with the audit log")

	b.exports(dir)
	require.NoError(t, os.CopyFS(elsewhere, os.DirFS(dir)))
	require.NoError(t, os.Remove(old[0]))
	status, out := offline(t, "verify", dir, "--key", key)
	require.Equal(t, exitDamaged, status, out)
	status, out = offline(t, "verify", dir, "--key", key, "--pruned")
	require.Zero(t, status, out)
	require.Contains(t, out, "only from entry ")
	status, out = offline(t, "verify", elsewhere, "--key", key)
	require.Zero(t, status, out)
	bundle := filepath.Join(t.TempDir(), "bundle.json")
	status, out = offline(t, "prove", issued.Serial, at.Format(time.RFC3339Nano), "--archive", dir, "--out", bundle)
	require.Equal(t, exitFailure, status, out)
	require.Contains(t, out, "no entry of this token")
	status, out = offline(t, "prove", issued.Serial, at.Format(time.RFC3339Nano), "--archive", elsewhere, "--out", bundle)
	require.Zero(t, status, out)
	status, out = offline(t, "verify", "--bundle", bundle, "--key", key)
	require.Zero(t, status, out)
	require.Contains(t, out, "token.issue by branch: done")
}
