package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
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
	fault "ramzban/softhsm/faultmodule"
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
	path := heldFile(t, dir, node)
	if path == "" {
		return audit.Checkpoint{}
	}
	note, err := os.ReadFile(path)
	require.NoError(t, err)
	c, err := audit.PeekCheckpoint(note)
	require.NoError(t, err)
	return c
}

// heldFile is the file in which the witness holds a node's checkpoint; empty if there is none yet.
func heldFile(t *testing.T, dir, node string) string {
	files, err := filepath.Glob(filepath.Join(dir, "*", node, "checkpoint"))
	require.NoError(t, err)
	if len(files) == 0 {
		return ""
	}
	require.Len(t, files, 1)
	return files[0]
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
	anchor.Audit.Witness, anchor.Audit.Anchor = nil, heldFile(t, dir, d.config.Node)
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

// A witness that is not there stops a start, unless the configuration says otherwise; then it holds nobody up, which is said
// once, can be seen, and is the end's error.
func TestAWitnessThatIsNotThere(t *testing.T) {
	d := deploy(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	d.config.Audit.Witness = &WitnessConfig{URL: "https://" + gone.Addr().String()}
	_, stderr := d.serve(t, d.config, exitFailure)
	requireOneLine(t, stderr, "audit.witness: ", "cannot be asked", "audit.witness.optional")
	d.config.Audit.Witness.Optional = true
	d.startServing(t)
	_, err = d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	covered := regexp.MustCompile(`\nramzban_audit_checkpoint_entries [1-9]`)
	require.Eventually(t, func() bool { return covered.MatchString(scrape(t, d.service)) }, startLimit, 10*time.Millisecond)
	require.Contains(t, scrape(t, d.service), "\nramzban_audit_witness_entries 0\n")
	require.Contains(t, scrape(t, d.service), "\nramzban_audit_witness_away 1\n")
	require.Eventually(t, func() bool { return strings.Contains(d.everything(), "the witness does not take") }, startLimit, 10*time.Millisecond)
	status, err := get(t.Context(), "http://"+d.ops+"/readyz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Error(t, d.terminate())
	require.Contains(t, d.everything(), "was not handed to the witness")
	require.Equal(t, 1, strings.Count(d.everything(), "the witness does not take"))
}

// An emptied witness is not filled again before somebody says so, once.
func TestAWitnessThatWasEmptied(t *testing.T) {
	d, dir := witnessed(t, "")
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	d.startServing(t)
	require.Eventually(t, func() bool { return signed(t, dir, d.config.Node).Tree.N > 0 }, startLimit, 10*time.Millisecond)
	_, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	require.Positive(t, signed(t, dir, d.config.Node).Witness)

	require.NoError(t, os.Remove(heldFile(t, dir, d.config.Node)))
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "audit.witness: ", "does not hold what it had taken", "--new-witness")
	require.Empty(t, heldFile(t, dir, d.config.Node))
	d.startServing(t, "--new-witness")
	require.Eventually(t, func() bool { return heldFile(t, dir, d.config.Node) != "" }, startLimit, 10*time.Millisecond)
	require.NoError(t, d.terminate())
	_, stderr = d.serve(t, d.config, exitConfig, "--new-witness")
	requireOneLine(t, stderr, "is not a new one", "without --new-witness")
	d.startServing(t)
	require.NoError(t, d.terminate())
}

// What cannot be signed at the end is said, and is the end's error; the next start signs it.
func TestAnEndThatCannotBeSigned(t *testing.T) {
	d := deploy(t)
	faults, err := fault.New(t.TempDir(), d.config.HSM.Module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, faults.Close()) })
	d.config.HSM.Module = faults.Module()
	d.startServing(t)
	faults.Inject(fault.Fault{Function: fault.SignInit, Code: 0x30}) // CKR_DEVICE_ERROR
	_, err = d.as("auditor").AuditLogs(t.Context())
	require.NoError(t, err, "reading is logged, and needs no HSM")
	require.Error(t, d.terminate())
	require.Equal(t, exitFailure, d.cmd.ProcessState.ExitCode())
	require.Contains(t, d.everything(), "the end of the audit log was not signed")
	faults.Clear()
	d.startServing(t)
	require.Eventually(t, func() bool { return strings.Contains(scrape(t, d.service), "\nramzban_audit_waiting_entries 1\n") }, startLimit, 10*time.Millisecond)
	require.NoError(t, d.terminate())
}

// The second host takes what the node hands over, proves to the next start that the database was put back, and needs
// nothing but the public key.
func TestTheWitnessOnASecondHost(t *testing.T) {
	d, dir := deploy(t), t.TempDir()
	d.startServing(t)
	keys, err := d.as("auditor").AuditKeys(t.Context())
	require.NoError(t, err)
	installation := ""
	require.Eventually(t, func() bool {
		newest, err := d.as("auditor").AuditCheckpoint(t.Context(), d.config.Node)
		installation, _, _ = audit.SplitOrigin(newest.Origin)
		return err == nil && installation != ""
	}, startLimit, 10*time.Millisecond)
	require.NoError(t, d.terminate())
	key, err := audit.ParsePublicKey(keys.Keys[0].PublicKey)
	require.NoError(t, err)
	another, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&another.PublicKey)
	require.NoError(t, err)
	older := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	first, second := writeFile(t, "first.pem", string(key.PEM())), writeFile(t, "second.pem", older)
	host := newService(t)
	args := []string{"witness", "--listen", host.api, "--dir", dir, "--key", "another=" + first, "--key", installation + "=" + second,
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
	require.Eventually(t, func() bool { return strings.Contains(d.everything(), "the witness answered 403") }, startLimit, 10*time.Millisecond, "the key counts for another installation only")
	require.NoError(t, os.WriteFile(second, append([]byte(older), key.PEM()...), 0o600)) // as before a rotation
	require.Eventually(t, held, startLimit, 10*time.Millisecond, "%s\n%s", d.output(), host.output())
	require.NoError(t, d.terminate())

	stranger := d.config
	stranger.Audit.Witness = &WitnessConfig{URL: "https://" + host.api, CA: d.pki("ca.crt")} // shows no certificate
	_, stderr := d.serve(t, stranger, exitFailure)
	requireOneLine(t, stderr, "the witness cannot be asked")
	data, saved := d.config.Store.Badger.Dir, filepath.Join(t.TempDir(), "older")
	require.NoError(t, os.CopyFS(saved, os.DirFS(data)))
	d.startServing(t)
	_, err = d.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	require.NoError(t, d.terminate())
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.CopyFS(data, os.DirFS(saved)))
	require.NoError(t, os.Chmod(data, 0o700))
	_, stderr = d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "audit.witness: ", "rolled back")
	require.NoError(t, host.terminate())
}

func TestTheWitnessSaysInOneLineWhyItCannotStart(t *testing.T) {
	_, stderr := runFailing(t, exitFailure, nil, "witness", "--dir", t.TempDir())
	requireOneLine(t, stderr, "required flag")
	key := writeFile(t, "audit.pem", "x")
	_, stderr = runFailing(t, exitFailure, nil, "witness", "--dir", t.TempDir(), "--key", key, "--certificate", key, "--private-key", key)
	requireOneLine(t, stderr, "--key", "PUBLIC KEY")
	_, stderr = runFailing(t, exitFailure, nil, "witness", "--dir", t.TempDir(), "--key", "bank="+key, "--key", key, "--certificate", key, "--private-key", key)
	requireOneLine(t, stderr, "say whose keys they are", "INSTALLATION="+key)
}
