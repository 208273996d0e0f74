package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// dsnPassword stands in every DSN; the tests' servers do not ask for it.
const dsnPassword = "geheim-577215"

// onPostgres is a deployment whose database is this one instead; nobody has used it yet.
func onPostgres(t testing.TB, dsn string) *deployment {
	d := deploy(t)
	d.config.Store = StoreConfig{Postgres: new(defaultPostgres())}
	d.config.Store.Postgres.DSNFile = writeFile(t, "dsn", dsn+" password="+dsnPassword+"\n")
	t.Cleanup(func() { require.NotContains(t, d.everything(), dsnPassword) })
	return d
}

// everything is all that the service has printed.
func (s *service) everything() string {
	var all bytes.Buffer
	for _, name := range []string{"out.log", "err.log"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		require.NoError(s.t, err)
		all.Write(b)
	}
	return all.String()
}

func (d *deployment) startServing(t testing.TB, flags ...string) {
	t.Helper()
	d.launch(append([]string{"serve", "--config", writeConfig(t, d.config)}, flags...)...)
	d.waitReady()
}

// another is a further process with this deployment's keys and database.
func (d *deployment) another(t testing.TB, node string) *deployment {
	t.Helper()
	n := &deployment{service: newService(t), config: d.config}
	n.keys, n.config.Node = d.dir, node
	n.config.API.Listen, n.config.Operator.Listen = n.api, n.ops
	return n
}

func tables(t *testing.T, dsn string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	require.NoError(t, conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&n))
	return n
}

// A database is made when that is asked for, and only then; what is in it is there after a restart.
func TestServeOnPostgres(t *testing.T) {
	dsn := pgtest.Database(t)
	d := onPostgres(t, dsn)
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "store.postgres.dsn_file", "correct the DSN, or start the very first node once with --new-database")
	require.Zero(t, tables(t, dsn), "a mistyped DSN leaves nothing behind")
	d.startServing(t, "--new-database")
	c, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	password := c.password(t)
	answer, err := d.verify(t.Context(), c.serial, password)
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)

	metrics := scrape(t, d.service)
	for _, name := range alertMetrics(t) {
		if name != "ramzban_store_free_bytes" && name != "ramzban_store_reserve_bytes" {
			require.Contains(t, metrics, "\n"+name, "an alert names a metric that does not exist")
		}
	}
	require.NotContains(t, metrics, "ramzban_store_free_bytes", "the server's disk is not this machine's")
	require.Contains(t, metrics, "ramzban_postgres_connections_max 16\n")
	require.Regexp(t, `ramzban_postgres_connections\{state="idle"\} [1-9]`, metrics)
	require.NoError(t, d.terminate())

	_, stderr = runFailing(t, exitConfig, nil, "serve", "--new-database", "--config", writeConfig(t, d.config))
	requireOneLine(t, stderr, "in use already: start without --new-database")
	d.startServing(t)
	answer, err = d.verify(t.Context(), c.serial, password)
	require.NoError(t, err)
	require.Equal(t, "already_used", answer.Reason)
	require.NoError(t, d.terminate())
}

// What only another configuration or server can mend ends with the status that is not tried again; what passes does not.
func TestServeSaysInOneLineWhyItCannotUsePostgres(t *testing.T) {
	unsafe := pgtest.Start(t, "fsync = off")
	d := onPostgres(t, pgtest.Database(t))
	file := d.config.Store.Postgres.DSNFile
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		dsn    string
		mode   os.FileMode
		says   []string
		status int

		offline bool // `config check` says so too
	}{
		"no file":          {"", 0, []string{"store.postgres.dsn_file", "no such file", "put the database's DSN there, mode 0600"}, exitConfig, true},
		"others may read":  {string(good), 0o640, []string{"store.postgres.dsn_file", "chmod 600"}, exitConfig, true},
		"two lines":        {string(good) + "sslmode=disable\n", 0o600, []string{"store.postgres.dsn_file", "on one line"}, exitConfig, true},
		"empty":            {"\n", 0o600, []string{"store.postgres.dsn_file", "on one line"}, exitConfig, true},
		"no DSN":           {"postgres//db", 0o600, []string{"store.postgres.dsn_file", "options are wrong"}, exitConfig, true},
		"not verified":     {"host=db.bank.test sslmode=require", 0o600, []string{"store.postgres.dsn_file", "db.bank.test", "add sslmode=verify-full"}, exitConfig, true},
		"no such database": {unsafe.DSN("other"), 0o600, []string{"store.postgres.dsn_file", `"other" does not exist`, "createdb"}, exitConfig, false},
		"mistyped key":     {"hots=127.0.0.1 user=x", 0o600, []string{"store.postgres.dsn_file", "a key that is not known"}, exitConfig, true},
		"no authority":     {"host=db.bank.test sslmode=verify-full sslrootcert=/nonexistent", 0o600, []string{"store.postgres.dsn_file", "open /nonexistent"}, exitConfig, true},
		"not safe":         {unsafe.DSN("postgres"), 0o600, []string{"store.postgres.dsn_file", "set fsync = on"}, exitConfig, false},
		"not there":        {"host=127.0.0.1 port=1 dbname=x user=x", 0o600, []string{"failed to connect", "connection refused", "start the server"}, exitFailure, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := *d.config.Store.Postgres
			p.DSNFile = filepath.Join(t.TempDir(), "dsn")
			if c.mode != 0 {
				require.NoError(t, os.WriteFile(p.DSNFile, []byte(c.dsn), c.mode))
			}
			spoilt := d.config
			spoilt.Store.Postgres = &p
			stdout, stderr := d.serve(t, spoilt, c.status)
			requireOneLine(t, stderr, c.says...)
			if c.offline {
				_, stderr = runFailing(t, exitConfig, nil, "config", "check", "--config", writeConfig(t, spoilt))
				requireOneLine(t, stderr, c.says...)
			}
			require.NotContains(t, stdout+stderr, dsnPassword)
		})
	}
}

// The DSN may be in the environment, as the PIN may.
func TestDSNFromTheEnvironment(t *testing.T) {
	d := onPostgres(t, pgtest.Database(t))
	dsn, err := os.ReadFile(d.config.Store.Postgres.DSNFile)
	require.NoError(t, err)
	p := d.config.Store.Postgres
	p.DSNFile, p.DSNEnv = "/nonexistent", "BANK_DSN"
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "store.postgres.dsn_env", "BANK_DSN is not set")
	t.Setenv("BANK_DSN", string(bytes.TrimSpace(dsn)))
	d.startServing(t, "--new-database")
	require.NoError(t, d.terminate())
}

var wrongPassword = wire.VerificationRequest{Class: "card", Subject: testCard(9), Use: testUse, OTP: "000000"}

// A second process of the same name takes over, and the first ends with the status after which nobody starts it again.
func TestFencedNodeEnds(t *testing.T) {
	d := onPostgres(t, pgtest.Database(t))
	d.startServing(t, "--new-database")
	second := d.another(t, d.config.Node)
	second.startServing(t)
	_, err := second.as("core-banking").Verify(t.Context(), wrongPassword)
	require.NoError(t, err)
	_, err = d.as("core-banking").Verify(t.Context(), wrongPassword)
	require.Error(t, err)
	<-d.exited
	require.Equal(t, exitConfig, d.cmd.ProcessState.ExitCode())
	stderr, err := os.ReadFile(filepath.Join(d.dir, "err.log"))
	require.NoError(t, err)
	requireOneLine(t, string(stderr), "another process has been started under this node's name", "give each process a name of its own")
	require.NoError(t, second.terminate())
}

// While the server is away the node is not ready, and says why; it comes back by itself.
func TestReadinessNeedsTheDatabase(t *testing.T) {
	server := pgtest.Start(t)
	d := onPostgres(t, server.Database(t))
	d.startServing(t, "--new-database")
	ready := func(status int) func() bool {
		return func() bool {
			got, err := get(t.Context(), "http://"+d.ops+"/readyz")
			return err == nil && got == status
		}
	}
	require.NoError(t, server.Kill())
	require.Eventually(t, ready(http.StatusServiceUnavailable), startLimit, 10*time.Millisecond)
	require.NoError(t, server.Start())
	require.Eventually(t, ready(http.StatusOK), startLimit, 10*time.Millisecond)
	_, err := d.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err, "%s", d.output())
	require.NoError(t, d.terminate())
}

// A node whose COMMIT waits for a standby that does not come decides nothing: the balancer is to try another.
func TestReadinessNeedsTheStandby(t *testing.T) {
	server := pgtest.Start(t)
	d := onPostgres(t, server.Database(t))
	d.config.Store.Postgres.StatementTimeout = seconds(1)
	d.startServing(t, "--new-database")
	ready := func(status int) func() bool {
		return func() bool {
			got, err := get(t.Context(), "http://"+d.ops+"/readyz")
			return err == nil && got == status
		}
	}
	server.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'absent'", "SELECT pg_reload_conf()")
	bank, stuck := d.as("core-banking"), make(chan error, 1)
	go func() {
		for { // until the server has read its settings
			if _, err := bank.Verify(t.Context(), wrongPassword); err != nil {
				stuck <- err
				return
			}
		}
	}()
	require.Eventually(t, ready(http.StatusServiceUnavailable), startLimit, 10*time.Millisecond)
	server.Exec(t, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	require.Eventually(t, ready(http.StatusOK), startLimit, 10*time.Millisecond)
	require.NoError(t, d.terminate())
	require.Error(t, <-stuck)
}

func TestConfigNamesOneEngine(t *testing.T) {
	const client = "clients: [{name: a, certificates: [a], roles: [issuer]}]\n"
	for text, says := range map[string]string{
		"":                                  "",
		"store: {}\n":                       "store: name an engine: badger or postgres",
		"store:\n":                          "store: name an engine: badger or postgres",
		"store: {badger: }\n":               "store: name an engine: badger or postgres",
		"store: {badger: {}}\n":             "",
		"store: {postgres: {}}\n":           "",
		"store: {badger: {}, postgres: {}}": "store: name one engine, not both",
		"store: {postgres: {connections: 1001}}\n":          "store.postgres.connections: must be between 2 and 1000, not 1001",
		"store: {postgres: {connections: 1}}\n":             "store.postgres.connections: must be between 2 and 1000, not 1",
		"store: {postgres: {statement_timeout: 99ms}}\n":    "store.postgres.statement_timeout: must be between 100ms and 60s, not 99ms",
		"store: {postgres: {statement_timeout: 61s}}\n":     "store.postgres.statement_timeout: must be between 100ms and 60s, not 61s",
		"store: {postgres: {dsn_file: ''}}\n":               "store.postgres.dsn_file: give either",
		"store: {postgres: {dsn_file: '', dsn_env: DSN}}\n": "",
	} {
		c, err := parseConfig([]byte(text + "\n" + client))
		require.NoError(t, err)
		err = c.Validate()
		require.Equal(t, says == "", err == nil, "%s: %v", text, err)
		if says != "" {
			require.ErrorContains(t, err, says)
		}
	}
	c, err := parseConfig([]byte("store: {postgres: {connections: 4}}\n"))
	require.NoError(t, err)
	require.Equal(t, StoreConfig{Postgres: &PostgresConfig{DSNFile: "/etc/ramzban/postgres.dsn", Connections: 4, StatementTimeout: seconds(5)}}, c.Store)
	_, err = parseConfig([]byte("store:\n  postgres:\n    dsn: host=db password=" + dsnPassword + "\n"))
	require.ErrorContains(t, err, "line 3: unknown field")
	require.NotContains(t, fmt.Sprint(err), dsnPassword)
}

func TestNamesOfNodes(t *testing.T) {
	for name, good := range map[string]bool{"a": true, "tehran-1": true, "": false, "A": false, "a.b": false, "a b": false,
		string(bytes.Repeat([]byte{'a'}, 63)): true, string(bytes.Repeat([]byte{'a'}, 64)): false, "a\n": false} {
		require.Equal(t, good, Config{Node: name}.checkNode() == nil, "%q", name)
	}
}
