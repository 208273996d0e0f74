package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/keyservice/store/transfer"
)

// movable is a deployment on Badger with a customer, and the same on a PostgreSQL database that nobody has used.
func movable(t *testing.T) (d *deployment, badger, postgres string) {
	d = deploy(t)
	there := d.config
	there.Store = StoreConfig{Postgres: new(defaultPostgres())}
	there.Store.Postgres.DSNFile = writeFile(t, "dsn", pgtest.Database(t)+" password="+dsnPassword+"\n")
	t.Cleanup(func() { require.NotContains(t, d.everything(), dsnPassword) })
	return d, writeConfig(t, d.config), writeConfig(t, there)
}

func (d *deployment) startWith(t *testing.T, config string) {
	t.Helper()
	d.launch("serve", "--config", config)
	d.waitReady()
}

// copyStore runs the command, which must succeed, and returns what it printed.
func copyStore(t *testing.T, from, to string, flags ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), ramzban, append([]string{"store", "copy", "--from", from, "--to", to}, flags...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), dsnPassword)
	t.Logf("%s", out)
	return string(out)
}

func copyRefused(t *testing.T, status int, from, to string, flags ...string) (stderr string) {
	t.Helper()
	stdout, stderr := runFailing(t, status, nil, append([]string{"store", "copy", "--from", from, "--to", to}, flags...)...)
	require.Empty(t, stdout)
	require.NotContains(t, stderr, dsnPassword)
	return stderr
}

func (d *deployment) requireVerdict(t *testing.T, serial, password, verdict string) {
	t.Helper()
	answer, err := d.verify(t.Context(), serial, password)
	require.NoError(t, err)
	require.Equal(t, verdict, answer.Result+answer.Reason)
}

func (d *deployment) requireAuditAgrees(t *testing.T) {
	t.Helper()
	answer, err := d.as("auditor").CompareAudit(t.Context())
	require.NoError(t, err)
	require.Empty(t, answer.Discrepancies)
}

// TestStoreCopyThereAndBack: passwords used in one database stay used in the other, others are good, and the audit log goes
// on: nothing stored depends on where it is stored.
func TestStoreCopyThereAndBack(t *testing.T) {
	d, badger, postgres := movable(t)
	requireOneLine(t, copyRefused(t, exitConfig, postgres, badger), "--from", "there is nothing to copy")
	d.startWith(t, badger)
	first, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	used := []string{first.password(t), first.password(t)}
	d.requireVerdict(t, first.serial, used[0], "accepted")
	requireOneLine(t, copyRefused(t, exitConfig, badger, postgres), "--from", "in use by another process", "stop the node")
	require.NoError(t, d.terminate())

	out := copyStore(t, badger, postgres)
	require.Regexp(t, `(?m)^ +1  token states$`, out)
	require.Regexp(t, `(?m)^ +\d+  audit entries$`, out)
	require.Regexp(t, `the same: SHA-256 [0-9a-f]{64}\n`, out)
	require.Regexp(t, `The log of node \S+ goes on with entry [1-9]\d*\.`, out)
	require.NotContains(t, out, "begins a new log")
	require.Contains(t, out, "start the nodes with the configuration "+postgres)
	require.Contains(t, copyStore(t, badger, postgres), "was moved before: there was nothing left to copy")
	_, stderr := runFailing(t, exitConfig, nil, "serve", "--config", badger)
	requireOneLine(t, stderr, "store: this database must not be served from: it was moved to the PostgreSQL database test", "serve from there")

	d.startWith(t, postgres)
	d.requireVerdict(t, first.serial, used[0], "refusedalready_used")
	d.requireVerdict(t, first.serial, used[1], "accepted")
	second, err := d.enrol(t.Context(), "counter-6", testCard(2))
	require.NoError(t, err)
	d.requireAuditAgrees(t)

	requireOneLine(t, copyRefused(t, exitConfig, badger, postgres, "--abandon"), "has all of it", "to come back, copy in the other direction")
	var report copyReport
	require.NoError(t, json.Unmarshal([]byte(copyStore(t, postgres, badger, "--json")), &report))
	require.Equal(t, "moved", report.State)
	require.EqualValues(t, 2, report.Kinds["token states"])
	require.NotContains(t, report.Kinds, "others")
	require.Regexp(t, `^the PostgreSQL database test\d+ on \S+:5432$`, report.Database)

	_, err = d.verify(t.Context(), second.serial, second.password(t))
	require.Error(t, err, "the node that was left running decides nothing any more")
	<-d.exited
	require.Equal(t, exitConfig, d.cmd.ProcessState.ExitCode())
	log, err := os.ReadFile(filepath.Join(d.dir, "err.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "it was moved to the Badger database in")

	d.startWith(t, badger)
	d.requireVerdict(t, first.serial, used[1], "refusedalready_used")
	d.requireVerdict(t, first.serial, used[0], "refusedmismatch")
	d.requireVerdict(t, first.serial, first.password(t), "accepted")
	d.requireVerdict(t, second.serial, second.password(t), "accepted")
	d.requireAuditAgrees(t)
	require.NoError(t, d.terminate())
}

// TestStoreCopyCutOff: nobody serves from either until the copy is finished or given up, each by the command that says so.
func TestStoreCopyCutOff(t *testing.T) {
	d, badger, postgres := movable(t)
	d.startWith(t, badger)
	_, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	cutOff := func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		from, err := openForCopy(ctx, "--from", badger, false)
		require.NoError(t, err)
		defer from.Close()
		to, err := openForCopy(ctx, "--to", postgres, true)
		require.NoError(t, err)
		defer to.Close()
		_, err = transfer.Copy(ctx, from, to, func(string, uint64, uint64) { cancel() })
		err = explainCopy(ctx, err)
		require.ErrorContains(t, err, "the copy is not finished: interrupted: ")
		require.Equal(t, exitFailure, exitStatus(err))
		require.ErrorContains(t, err, "run the same command again, or with --abandon")
	}
	cutOff()
	for _, config := range []string{badger, postgres} {
		_, stderr := runFailing(t, exitConfig, nil, "serve", "--config", config)
		requireOneLine(t, stderr, "this database must not be served from", "ramzban store copy")
	}
	require.Contains(t, copyStore(t, badger, postgres, "--abandon"), "can be served from again")
	d.startWith(t, badger)
	require.NoError(t, d.terminate())
	for _, flags := range [][]string{nil, {"--new-database"}} {
		_, stderr := runFailing(t, exitConfig, nil, append([]string{"serve", "--config", postgres}, flags...)...)
		requireOneLine(t, stderr, "a copy into it was abandoned")
	}
	cutOff()
	require.Regexp(t, regexp.QuoteMeta("Moved the Badger database in"), copyStore(t, badger, postgres))
	d.startWith(t, postgres)
	require.NoError(t, d.terminate())
}

// TestStoreCopySaysWhatIsMissing, in one line.
func TestStoreCopySaysWhatIsMissing(t *testing.T) {
	d, badger, postgres := movable(t)
	requireOneLine(t, copyRefused(t, exitConfig, "", postgres), "give both --from and --to")
	requireOneLine(t, copyRefused(t, exitConfig, badger, postgres, "--abandom"), "unknown flag", "see `ramzban store copy --help`")
	requireOneLine(t, copyRefused(t, exitConfig, "/nonexistent.yaml", postgres), "no such file", "name an existing file with --from")
	nowhere := d.config
	nowhere.Store.Badger = &BadgerConfig{Dir: filepath.Join(t.TempDir(), "gone")}
	requireOneLine(t, copyRefused(t, exitConfig, writeConfig(t, nowhere), postgres), "holds no database: mount its disk")
	requireOneLine(t, copyRefused(t, exitConfig, badger, badger), "in use by another process")
}

// TestStoreCopyAsAnotherUser is refused, as the folder's node could not open what the copy leaves there.
func TestStoreCopyAsAnotherUser(t *testing.T) {
	d, _, postgres := movable(t)
	theirs := filepath.Join(t.TempDir(), "theirs")
	require.NoError(t, os.Mkdir(theirs, 0o700))
	asRoot(t, "chown", "65534", theirs)
	d.config.Store.Badger = &BadgerConfig{Dir: theirs}
	requireOneLine(t, copyRefused(t, exitConfig, writeConfig(t, d.config), postgres), theirs+" belongs to ", "run the copy as that user")
	require.ErrorContains(t, requireOwn("key", filepath.Join(theirs, "new"), 0), "run the copy as that user", "root, in a folder of theirs")
	require.NoError(t, requireOwn("key", theirs, 65534))
	require.NoError(t, requireOwn("key", filepath.Join(theirs, "new"), 1000), "whose it will be")
}

// TestStoreCopyWithoutRights is refused before either database is closed to nodes.
func TestStoreCopyWithoutRights(t *testing.T) {
	d, badger, postgres := movable(t)
	d.startWith(t, badger)
	_, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	copyStore(t, badger, postgres)
	d.config.Node = "solo"
	d.config.Store.Badger = &BadgerConfig{Dir: filepath.Join(t.TempDir(), "back")}
	badger = writeConfig(t, d.config)
	require.Contains(t, copyStore(t, postgres, badger), "Node solo, of the configuration "+badger+", begins a new log.\n")
	there, err := LoadConfig(postgres)
	require.NoError(t, err)
	dsn, err := there.Store.Postgres.dsn()
	require.NoError(t, err)
	operator, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer operator.Close(context.Background())
	for _, statement := range []string{"DROP ROLE IF EXISTS porter", "CREATE ROLE porter LOGIN"} {
		_, err := operator.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	there.Store.Postgres.DSNFile = writeFile(t, "dsn", dsn+" user=porter\n")
	requireOneLine(t, copyRefused(t, exitConfig, badger, writeConfig(t, there)), "--to", "GRANT ", "TRUNCATE", "ON rows TO porter")
	d.startWith(t, badger)
	require.NoError(t, d.terminate())
}

// TestStoreCopyHelpSaysHowItEnds: scripts go by that.
func TestStoreCopyHelpSaysHowItEnds(t *testing.T) {
	help, err := exec.CommandContext(t.Context(), ramzban, "store", "copy", "--help").Output()
	require.NoError(t, err)
	for _, status := range []int{0, exitFailure, exitDamaged, exitConfig} {
		require.Regexp(t, fmt.Sprintf(`\n  %2d  \w`, status), string(help))
	}
	require.Equal(t, exitConfig, exitStatus(fmt.Errorf("here: %w", transfer.ErrRefused)))
}
