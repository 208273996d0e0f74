package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// papers are what a restore is told besides its configuration.
type restorePapers struct{ backup, proposal, approval string }

func (p restorePapers) args(config string, more ...string) []string {
	return append([]string{"restore", "--config", config, "--backup", p.backup, "--proposal", p.proposal, "--approval", p.approval}, more...)
}

// output runs a command that must succeed, and returns what it printed.
func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), ramzban, args...).Output()
	require.NoError(t, err, "%v: %s", args, stderrOf(err))
	return string(out)
}

func stderrOf(err error) []byte {
	if exit, is := err.(*exec.ExitError); is { //nolint:errorlint // as exec returns it
		return exit.Stderr
	}
	return nil
}

// backUp takes a backup over the command line.
func (d *deployment) backUp(t *testing.T) (file string, report verifiedBackup) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "bank.backup")
	client := []string{"--url", "https://" + d.api, "--ca", d.pki("ca.crt"), "--cert", d.pki("operator.crt"), "--key", d.pki("operator.key")}
	require.Contains(t, output(t, append([]string{"backup", "--out", file}, client...)...), "SHA-256 ")
	_, stderr := runFailing(t, exitFailure, nil, append([]string{"backup", "--out", file}, client...)...)
	requireOneLine(t, stderr, "is there already")
	out := output(t, "backup", "verify", file, "--config", filepath.Join(d.dir, "ramzban.yaml"), "--json")
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	return file, report
}

// agree has two officers sign that a backup is restored, without an anchor if none is given.
func (d *deployment) agree(t *testing.T, file string, report verifiedBackup, anchor ...string) restorePapers {
	t.Helper()
	dir := t.TempDir()
	p := restorePapers{file, filepath.Join(dir, "proposal"), filepath.Join(dir, "approval")}
	parameters := output(t, append([]string{"restore", "parameters", "--backup", file}, anchor...)...)
	sign := func(officer string, args ...string) {
		output(t, append([]string{"approvals", "sign", "--name", officer, "--cert", d.pki(officer + ".crt"), "--key", d.pki(officer + ".key"), "--yes"}, args...)...)
	}
	sign("officer-1", "--action", "restore", "--parameters", parameters, "--installation", report.Installation, "--out", p.proposal)
	sign("officer-2", "--of", p.proposal, "--out", p.approval)
	return p
}

// fresh is the deployment's configuration with another node's name and a database that nobody has used.
func (d *deployment) fresh(t *testing.T, node string, s StoreConfig) string {
	c := d.config
	c.Node, c.Store = node, s
	return writeConfig(t, c)
}

func newBadger(t *testing.T, d *deployment) StoreConfig {
	b := *d.config.Store.Badger
	b.Dir = filepath.Join(t.TempDir(), "restored")
	return StoreConfig{Badger: &b}
}

func newPostgres(t *testing.T, _ *deployment) StoreConfig {
	s := StoreConfig{Postgres: new(defaultPostgres())}
	s.Postgres.DSNFile = writeFile(t, "dsn", pgtest.Database(t)+"\n")
	return s
}

// TestRestoreAtATerminal: from the backup of a service that runs to one that runs on what was restored, by commands alone.
func TestRestoreAtATerminal(t *testing.T) {
	d := deploy(t)
	d.startWith(t, writeConfig(t, d.config))
	c, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	file, report := d.backUp(t)
	used := c.password(t)
	d.requireVerdict(t, c.serial, used, "accepted")
	require.NoError(t, d.terminate())
	papers := d.agree(t, file, report)

	same := d.fresh(t, d.config.Node, newBadger(t, d))
	_, stderr := runFailing(t, exitFailure, nil, papers.args(same)...)
	requireOneLine(t, stderr, "give the node a new name")
	alone := papers
	alone.approval = alone.proposal
	_, stderr = runFailing(t, exitFailure, nil, alone.args(same)...)
	requireOneLine(t, stderr, "not restored")
	damaged := papers
	damaged.backup = damage(t, file)
	_, stderr = runFailing(t, exitDamaged, nil, damaged.args(same)...)
	requireOneLine(t, stderr, "not a whole backup")

	for name, s := range map[string]func(*testing.T, *deployment) StoreConfig{"badger": newBadger, "postgres": newPostgres} {
		t.Run(name, func(t *testing.T) {
			config, list := d.fresh(t, "node-after", s(t, d)), filepath.Join(t.TempDir(), "list")
			out := output(t, papers.args(config, "--list", list)...)
			require.Contains(t, out, "ENTRIES ARE LOST")
			require.Contains(t, out, "The log of node "+d.config.Node+" ends with entry")
			for line := range strings.Lines(out) {
				if !strings.Contains(line, string(filepath.Separator)) && !strings.HasPrefix(line, "to the ") { // paths are as long as they are
					requireColumns(t, line)
				}
			}
			listed, err := os.ReadFile(list)
			require.NoError(t, err)
			require.Contains(t, string(listed), `"serial":"`+c.serial+`","status":"suspended"`)
			_, stderr := runFailing(t, exitFailure, nil, papers.args(config)...)
			requireOneLine(t, stderr, "holds a database already")

			d.startWith(t, config)
			d.requireVerdict(t, c.serial, used, "refusednot_active")
			_, err = d.as("branch").Resume(t.Context(), c.serial)
			require.NoError(t, err)
			d.requireVerdict(t, c.serial, used, "refusedresync_needed")
			for _, want := range []string{"refused", "accepted"} {
				answer, err := d.as("mobile-bank").Resync(t.Context(), c.serial, wire.ResyncRequest{OTP1: c.password(t), OTP2: c.password(t)})
				require.NoError(t, err)
				require.Equal(t, want, answer.Result)
			}
			d.requireVerdict(t, c.serial, c.password(t), "accepted")
			d.requireAuditAgrees(t)
			require.NoError(t, d.terminate())
		})
	}
}

func damage(t *testing.T, file string) string {
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return writeFile(t, "damaged", string(b[:len(b)-1]))
}

// TestKilledRestores at random moments: nothing half done can be served from, and the same command again finishes.
func TestKilledRestores(t *testing.T) {
	d := deploy(t)
	d.startWith(t, writeConfig(t, d.config))
	for i := range 400 {
		_, err := d.as("branch").Issue(t.Context(), wire.IssueRequest{Class: "card", Subject: testCard(i), Channel: "app", Profile: "offline-60", Uses: []string{testUse}})
		require.NoError(t, err)
	}
	file, report := d.backUp(t)
	require.NoError(t, d.terminate())
	papers := d.agree(t, file, report)
	for name, s := range map[string]func(*testing.T, *deployment) StoreConfig{"badger": newBadger, "postgres": newPostgres} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			output(t, papers.args(d.fresh(t, "node-after", s(t, d)))...)
			took := time.Since(began)
			config := d.fresh(t, "node-after", s(t, d))
			for range 8 {
				if killed(t, took/4+rand.N(took*3/4), papers.args(config)) {
					requireHalfDone(t, config)
				}
			}
			if !released(t, config) {
				output(t, papers.args(config)...)
			}
			d.startWith(t, config)
			d.requireAuditAgrees(t)
			require.NoError(t, d.terminate())
		})
	}
}

// killed runs a command for so long, and tells whether it was killed before it ended.
func killed(t *testing.T, after time.Duration, args []string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	return exec.CommandContext(ctx, ramzban, args...).Run() != nil && ctx.Err() != nil
}

func fenceOf(t *testing.T, config string) (store.Fence, uint64) {
	t.Helper()
	db, err := openForCopy(t.Context(), "--config", config, true)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	fence, err := db.Fence(t.Context())
	require.NoError(t, err)
	rows, err := db.Count(t.Context())
	require.NoError(t, err)
	return fence, rows
}

func released(t *testing.T, config string) bool {
	fence, rows := fenceOf(t, config)
	return fence.State == store.Serving && rows > 0
}

// requireHalfDone: what a killed restore leaves is fenced, or empty, or whole.
func requireHalfDone(t *testing.T, config string) {
	t.Helper()
	fence, rows := fenceOf(t, config)
	if fence.State == store.Serving && rows > 0 {
		return // it had just ended
	}
	if fence.State == store.Serving {
		require.Zero(t, fence.Own)
		return
	}
	require.Equal(t, store.Restoring, fence.State)
	_, stderr := runFailing(t, exitConfig, nil, "serve", "--config", config)
	requireOneLine(t, stderr, "is being restored into it", "ramzban restore")
}
