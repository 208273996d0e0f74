package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// witnessed is a deployment with a witness in a folder, on the embedded engine or in a cluster.
func witnessed(t *testing.T, dsn string) (d *deployment, dir string) {
	if dsn == "" {
		d = deploy(t)
	} else {
		d = onPostgres(t, dsn)
	}
	dir = t.TempDir()
	d.config.Audit.Witness = &WitnessConfig{Dir: dir}
	return d, dir
}

// signed returns the checkpoint that the witness holds, unchecked; one of size 0 if there is none yet.
func signed(t *testing.T, dir, node string) audit.Checkpoint {
	note, err := os.ReadFile(filepath.Join(dir, node, "checkpoint"))
	if err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
		return audit.Checkpoint{}
	}
	text, _, found := strings.Cut(string(note), "\n\n")
	require.True(t, found)
	c, err := audit.ParseCheckpoint(text + "\n")
	require.NoError(t, err)
	return c
}

// The log is signed by itself while something is decided, also what was decided before a kill -9, and at the end; where
// nothing is decided it does not grow.
func TestTheLogIsSignedByItself(t *testing.T) {
	d, dir := witnessed(t, "")
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	entries := func() uint64 {
		logs, err := d.as("auditor").AuditLogs(t.Context())
		require.NoError(t, err)
		return logs.Logs[0].Entries
	}
	covers := func(end uint64) func() bool {
		return func() bool { return signed(t, dir, d.config.Node).Tree.N >= int64(end) }
	}
	d.startServing(t)
	for range 2 {
		c, err := d.enrol(t.Context(), "counter-6", testCard(int(time.Now().UnixNano()%1e6)))
		require.NoError(t, err)
		answer, err := d.verify(t.Context(), c.serial, c.password(t))
		require.NoError(t, err)
		require.Eventually(t, covers(answer.Audit.Index+1), startLimit, 10*time.Millisecond, "%s", d.output())
		decided, err := d.verify(t.Context(), c.serial, c.password(t))
		require.NoError(t, err)
		d.kill()
		d.startServing(t)
		require.Eventually(t, covers(decided.Audit.Index+1), startLimit, 10*time.Millisecond, "%s", d.output())
	}
	last := entries()
	require.NoError(t, d.terminate())
	require.True(t, covers(last)(), "what was decided last is signed at the end")
	at := signed(t, dir, d.config.Node)
	d.startServing(t)
	require.Contains(t, scrape(t, d.service), "\nramzban_audit_log_broken 0\n")
	require.NoError(t, d.terminate())
	require.Equal(t, at, signed(t, dir, d.config.Node), "nothing was decided in between")
}

// A database that was put back is refused at the start, on both engines; the newest one is served from. What is said is
// on one line, and nothing is started again that starting again cannot mend.
func TestADatabaseThatWasPutBackIsRefused(t *testing.T) {
	t.Run("badger", func(t *testing.T) {
		d, dir := witnessed(t, "")
		data := d.config.Store.Badger.Dir
		older, newest := filepath.Join(t.TempDir(), "older"), filepath.Join(t.TempDir(), "newest")
		copyDir := func(to, from string) {
			require.NoError(t, os.RemoveAll(to))
			require.NoError(t, os.CopyFS(to, os.DirFS(from)))
			require.NoError(t, os.Chmod(to, 0o700))
		}
		d.refusedWhenPutBack(t, dir,
			func() { copyDir(older, data) },
			func() { copyDir(newest, data); copyDir(data, older) },
			func() { copyDir(data, newest) })
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		dsn := server.Database(t)
		at, err := pgx.ParseConfig(dsn)
		require.NoError(t, err)
		name := at.Database
		d, dir := witnessed(t, dsn)
		d.startServing(t, "--new-database")
		require.NoError(t, d.terminate())
		d.refusedWhenPutBack(t, dir,
			func() { server.Exec(t, "CREATE DATABASE older TEMPLATE "+name) },
			func() {
				server.Exec(t, "ALTER DATABASE "+name+" RENAME TO newest", "ALTER DATABASE older RENAME TO "+name)
			},
			func() { server.Exec(t, "DROP DATABASE "+name, "ALTER DATABASE newest RENAME TO "+name) })
	})
}

func (d *deployment) refusedWhenPutBack(t *testing.T, dir string, save, putBack, mend func()) {
	t.Helper()
	d.startServing(t)
	c, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	save()
	d.startServing(t)
	used := c.password(t)
	_, err = d.verify(t.Context(), c.serial, used)
	require.NoError(t, err)
	require.NoError(t, d.terminate())

	putBack()
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "audit.witness: ", "rolled back", "declare a restore")
	anchor := d.config
	anchor.Audit.Witness, anchor.Audit.Anchor = nil, filepath.Join(dir, d.config.Node, "checkpoint")
	_, stderr = d.serve(t, anchor, exitConfig)
	requireOneLine(t, stderr, "audit.anchor: ", "rolled back", "declare a restore")
	mend()
	d.startServing(t)
	answer, err := d.verify(t.Context(), c.serial, used)
	require.NoError(t, err)
	require.Equal(t, "already_used", answer.Reason)
	require.NoError(t, d.terminate())
}

func TestServeSaysWhatIsWrongWithWitnessAndAnchor(t *testing.T) {
	d := deploy(t)
	for name, c := range map[string]struct {
		spoil func(*Config)
		says  []string
	}{
		"no such folder": {func(c *Config) { c.Audit.Witness = &WitnessConfig{Dir: "/nonexistent"} }, []string{"audit.witness.dir", "mount its disk"}},
		"no such anchor": {func(c *Config) { c.Audit.Anchor = "/nonexistent" }, []string{"audit.anchor", "put the checkpoint there"}},
		"no checkpoint":  {func(c *Config) { c.Audit.Anchor = writeFile(t, "anchor", "x") }, []string{"audit.anchor", "give a checkpoint of this database"}},
		"no CA":          {func(c *Config) { c.Audit.Witness = &WitnessConfig{URL: "https://127.0.0.1:1", CA: "/nonexistent"} }, []string{"audit.witness.ca"}},
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := d.config
			c.spoil(&spoilt)
			_, stderr := d.serve(t, spoilt, exitConfig)
			requireOneLine(t, stderr, c.says...)
		})
	}
}

// A witness that is not there holds nobody up; that is said once, and can be seen.
func TestAWitnessThatIsNotThere(t *testing.T) {
	d := deploy(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	d.config.Audit.Witness = &WitnessConfig{URL: "https://" + gone.Addr().String()}
	d.startServing(t)
	_, err = d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	covered := regexp.MustCompile(`\nramzban_audit_checkpoint_entries [1-9]`)
	require.Eventually(t, func() bool { return covered.MatchString(scrape(t, d.service)) }, startLimit, 10*time.Millisecond)
	require.Contains(t, scrape(t, d.service), "\nramzban_audit_witness_entries 0\n")
	require.Eventually(t, func() bool { return strings.Contains(d.everything(), "the witness does not take") }, startLimit, 10*time.Millisecond)
	status, err := get(t.Context(), "http://"+d.ops+"/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, d.terminate())
	require.Equal(t, 1, strings.Count(d.everything(), "the witness does not take"))
}

// The second host takes what the node hands over, proves to the next start that the database was put back, and needs
// nothing but the public key.
func TestTheWitnessOnASecondHost(t *testing.T) {
	d, dir := deploy(t), t.TempDir()
	d.startServing(t)
	keys, err := d.as("auditor").AuditKeys(t.Context())
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	key, err := audit.ParsePublicKey(keys.Keys[0].PublicKey)
	require.NoError(t, err)
	host := newService(t)
	args := []string{"witness", "--listen", host.api, "--dir", dir, "--key", writeFile(t, "audit.pem", string(key.PEM())),
		"--certificate", d.pki("server.crt"), "--private-key", d.pki("server.key"), "--client-ca", d.pki("ca.crt")}
	host.launch(args...)
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	d.config.Audit.Witness = &WitnessConfig{URL: "https://" + host.api, CA: d.pki("ca.crt"), Certificate: d.pki("auditor.crt"), Key: d.pki("auditor.key")}
	d.startServing(t)
	c, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	answer, err := d.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	held := func() bool { return signed(t, dir, d.config.Node).Tree.N > int64(answer.Audit.Index) }
	require.Eventually(t, held, startLimit, 10*time.Millisecond, "%s\n%s", d.output(), host.output())
	require.NoError(t, d.terminate())

	stranger := &deployment{service: d.service, config: d.config}
	stranger.config.Audit.Witness = &WitnessConfig{URL: "https://" + host.api, CA: d.pki("ca.crt")} // shows no certificate
	stranger.startServing(t)
	require.Contains(t, stranger.everything(), "the witness cannot be asked")
	require.NoError(t, stranger.terminate())
	data, older := d.config.Store.Badger.Dir, filepath.Join(t.TempDir(), "older")
	require.NoError(t, os.CopyFS(older, os.DirFS(data)))
	d.startServing(t)
	_, err = d.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.CopyFS(data, os.DirFS(older)))
	require.NoError(t, os.Chmod(data, 0o700))
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "audit.witness: ", "rolled back")
	require.NoError(t, host.terminate())
}

func TestTheWitnessSaysInOneLineWhyItCannotStart(t *testing.T) {
	_, stderr := runFailing(t, exitFailure, nil, "witness", "--dir", t.TempDir())
	requireOneLine(t, stderr, "required flag")
	key := writeFile(t, "audit.pem", "x")
	_, stderr = runFailing(t, exitFailure, nil, "witness", "--dir", t.TempDir(), "--key", key, "--certificate", key, "--private-key", key)
	requireOneLine(t, stderr, "--key", "PUBLIC KEY")
}
