package pgstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgserver"
	"ramzban/keyservice/store/pgstore/pgtest"
)

func openError(t *testing.T, o Options) error {
	t.Helper()
	o.Node = "a"
	s, err := Open(context.Background(), o)
	if err == nil {
		s.Close()
	}
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	return err
}

// TestServerThatLosesThings: each setting that would break a promise is refused by name, with what to do.
func TestServerThatLosesThings(t *testing.T) {
	server := pgtest.Start(t)
	for _, test := range []struct{ name, value, says string }{
		{"fsync", "off", "set fsync = on"},
		{"full_page_writes", "off", "set full_page_writes = on"},
		{"synchronous_commit", "off", "set it to on (or remote_apply)"},
		{"synchronous_commit", "local", "set it to on (or remote_apply)"},
		{"synchronous_commit", "remote_write", "set it to on (or remote_apply)"}, // a standby's memory is no disk
	} {
		setServer(t, server, test.name, test.value)
		err := openError(t, Options{DSN: server.DSN("postgres")})
		require.ErrorIs(t, err, ErrUnsuitable)
		require.ErrorContains(t, err, test.says)
		server.Exec(t, "ALTER SYSTEM RESET "+test.name)
	}
	setServer(t, server, "synchronous_commit", "remote_apply")
	s := openTest(t, Options{DSN: server.DSN("postgres")})
	mustCommit(t, s, change("k", "v"))

	checked, err := connect(context.Background(), s.opts, s.commits.config)
	require.NoError(t, err)
	defer checked.Close(context.Background())
	setServer(t, server, "synchronous_commit", "off")
	var now string
	require.NoError(t, checked.QueryRow(context.Background(), "SHOW synchronous_commit").Scan(&now))
	require.Equal(t, "remote_apply", now, "a session that was checked keeps what it was checked for")
	server.Exec(t, "ALTER SYSTEM RESET synchronous_commit")

	setServer(t, server, "fsync", "off")
	server.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'ramzban%'")
	_, err = s.Commit(context.Background(), change("k", "w"))
	requireFailed(t, err)
	require.ErrorIs(t, err, ErrUnsuitable, "a new connection may be to another server: it is checked again")
}

// TestTheRolesSettingsCount: what matters is what our sessions get.
func TestTheRolesSettingsCount(t *testing.T) {
	dsn := pgtest.Database(t)
	operator := connectTo(t, dsn)
	runSQL(t, operator, fmt.Sprintf("ALTER DATABASE %s SET synchronous_commit = off", operator.Config().Database))
	require.ErrorIs(t, openError(t, Options{DSN: dsn}), ErrUnsuitable)
	runSQL(t, operator, fmt.Sprintf("ALTER DATABASE %s RESET synchronous_commit", operator.Config().Database))
	for _, harmless := range []string{
		"statement_timeout = '1ms'", "default_transaction_read_only = on", "default_transaction_isolation = serializable",
		"idle_in_transaction_session_timeout = '1ms'", "lock_timeout = '1ms'",
	} {
		runSQL(t, operator, fmt.Sprintf("ALTER DATABASE %s SET %s", operator.Config().Database, harmless))
	}
	s := openTest(t, Options{DSN: dsn})
	mustCommit(t, s, change("k", "v"))

	writing, err := connect(context.Background(), s.opts, s.commits.config)
	require.NoError(t, err)
	defer writing.Close(context.Background())
	var limit string
	require.NoError(t, writing.QueryRow(context.Background(), "SHOW statement_timeout").Scan(&limit))
	require.Equal(t, "0", limit, "it would cancel a COMMIT")
}

func TestStandbyIsRefused(t *testing.T) {
	server := pgtest.Start(t)
	require.NoError(t, server.Kill())
	require.NoError(t, os.WriteFile(filepath.Join(server.Data(), "standby.signal"), nil, 0o644))
	require.NoError(t, server.Start())
	err := openError(t, Options{DSN: server.DSN("postgres")})
	require.ErrorIs(t, err, ErrUnsuitable)
	require.ErrorIs(t, err, ErrStandby)
	require.ErrorContains(t, err, "connect to the primary")
}

func TestEncodingIsChecked(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec(t, "CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
	err := openError(t, Options{DSN: server.DSN("plain")})
	require.ErrorIs(t, err, ErrUnsuitable)
	require.ErrorContains(t, err, "ENCODING 'UTF8'")
}

func TestOldServerIsRefused(t *testing.T) {
	s := server{Version: 120022, Encoding: "UTF8", FSync: "on", FullPageWrites: "on", SynchronousCommit: "on"}
	require.Contains(t, s.wrong(), "12.22: upgrade")
	s.Version = oldest
	require.Empty(t, s.wrong())
}

// TestNoStandbyToWaitFor: a DSN of several servers is one of a set that fails over.
func TestNoStandbyToWaitFor(t *testing.T) {
	server := pgtest.Start(t)
	const says = "COMMIT waits for no standby"
	alone, several := server.DSN("postgres"), fmt.Sprintf("host=%s,/nowhere user=postgres dbname=postgres", server.Dir())
	for dsn, warns := range map[string]int{alone: 0, several: 1} {
		var log journal
		openTest(t, Options{DSN: dsn, Log: log.logger()})
		require.Equal(t, warns, lines(log.String(), says), dsn)
	}
	absentStandby(t, server)
	var log journal
	o := Options{DSN: several, Node: "a", Log: log.logger()}.withDefaults()
	config, err := o.parse()
	require.NoError(t, err)
	s, err := connect(context.Background(), o, config.ConnConfig)
	require.NoError(t, err)
	defer s.Close(context.Background())
	require.NoError(t, warnOfStandbys(context.Background(), s, o))
	require.Zero(t, lines(log.String(), says), "there is one to wait for")
}

// TestABadDSNIsNotRepeated: whatever is wrong with it, nothing that stands in it is said, as that may be the password.
func TestABadDSNIsNotRepeated(t *testing.T) {
	for dsn, says := range map[string]string{
		"host=/nowhere password = geheim port=x":  "invalid port",
		`host=/nowhere password=a\ geheim port=x`: "invalid port",
		"host=/nowhere port=1 password=a geheim":  "failed to parse as keyword/value",
		"geheim":                                  "failed to parse as keyword/value",
		"postgres://u:p%zzgeheim@/d":              "failed to parse as URL",
		"postgres://u:a/geheim@nowhere/d":         "invalid port",
		"host=db.test sslmode=verify-full sslrootcert=/nowhere/ca password = geheim": "unable to read CA file: open /nowhere/ca",
	} {
		err := openError(t, Options{DSN: dsn})
		require.ErrorIs(t, err, ErrOptions)
		require.ErrorContains(t, err, says, dsn)
		require.NotContains(t, err.Error(), "geheim")
	}
}

// TestSequenceBehind: after a copy that left the sequence out, versions would come back.
func TestSequenceBehind(t *testing.T) {
	dsn := pgtest.Database(t)
	s := openTest(t, Options{DSN: dsn})
	for range 3 {
		mustCommit(t, s, change("k", "v"))
	}
	last := get(t, s, "k").Version & (1<<40 - 1)
	require.NoError(t, s.Close())
	operator := connectTo(t, dsn)
	runSQL(t, operator, "SELECT setval('row_versions', $1)", int64(last-1))
	require.ErrorIs(t, openError(t, Options{DSN: dsn}), ErrUnsuitable)
	runSQL(t, operator, "SELECT setval('row_versions', $1)", int64(last))
	mustCommit(t, openTest(t, Options{DSN: dsn}), change("k", "v"))
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dsn := pgtest.Database(t)
	require.NoError(t, openTest(t, Options{DSN: dsn}).Close())
	runSQL(t, connectTo(t, dsn), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)")
	err := openError(t, Options{DSN: dsn})
	require.ErrorIs(t, err, ErrSchema)
	require.ErrorContains(t, err, "start a newer program")
}

// TestRoleWithoutRights cannot migrate, and is enough once that is done.
func TestRoleWithoutRights(t *testing.T) {
	dsn := pgtest.Database(t)
	operator := connectTo(t, dsn)
	runSQL(t, operator, "DROP ROLE IF EXISTS clerk")
	runSQL(t, operator, "CREATE ROLE clerk LOGIN")
	t.Cleanup(func() { runSQL(t, operator, "DROP OWNED BY clerk"); runSQL(t, operator, "DROP ROLE clerk") })
	clerk := dsn + " user=clerk"
	err := openError(t, Options{DSN: clerk})
	require.ErrorIs(t, err, ErrSchema)
	require.ErrorContains(t, err, "let the role create tables")
	require.NoError(t, openTest(t, Options{DSN: dsn}).Close())
	runSQL(t, operator, "GRANT SELECT, INSERT, UPDATE, DELETE ON rows, logs, commits, fence, goose_db_version TO clerk")
	err = openError(t, Options{DSN: clerk})
	require.ErrorIs(t, err, ErrSchema)
	require.ErrorContains(t, err, "permission denied for sequence row_versions")
	require.ErrorContains(t, err, "GRANT USAGE, SELECT ON SEQUENCE row_versions")
	runSQL(t, operator, "GRANT USAGE, SELECT ON SEQUENCE row_versions TO clerk")
	mustCommit(t, openTest(t, Options{DSN: clerk}), change("k", "v"))
}

func TestTablesOfAnotherProgram(t *testing.T) {
	dsn := pgtest.Database(t)
	runSQL(t, connectTo(t, dsn), "CREATE TABLE rows (id int)")
	err := openError(t, Options{DSN: dsn, Expect: ExpectNew})
	require.ErrorIs(t, err, ErrSchema)
	require.ErrorContains(t, err, "name an empty database")
	require.NotContains(t, err.Error(), "let the role")
}

// TestTheServerRefusesTheDSN: what only another DSN can mend is told from what passes. Each says once what to do.
func TestTheServerRefusesTheDSN(t *testing.T) {
	port, err := pgserver.FreePort()
	require.NoError(t, err)
	server := pgtest.StartWith(t, pgserver.Options{Parent: pgserver.Memory(), Port: port, Password: "geheim"})
	server.Exec(t, "CREATE DATABASE closed", "REVOKE CONNECT ON DATABASE closed FROM public", "CREATE ROLE clerk LOGIN")
	refusal := func(dsn, says string, want error) {
		t.Helper()
		err := openError(t, Options{DSN: dsn})
		if want != nil {
			require.ErrorIs(t, err, want)
		}
		require.Equal(t, 1, strings.Count(err.Error(), says), "%v", err)
		require.NotContains(t, err.Error(), "geheim")
		require.NotContains(t, err.Error(), "refused TLS")
	}
	refusal(server.DSN("nowhere"), "createdb --owner=postgres --encoding=UTF8 --template=template0 nowhere", ErrOptions)
	refusal(server.DSN("postgres")+" user=nobody", "correct the DSN's user", ErrOptions)
	refusal(server.DSN("closed")+" user=clerk", `GRANT CONNECT ON DATABASE "closed" TO "clerk"`, ErrSchema)
	loopback := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres password=", port)
	refusal(loopback+"geheim2", "password authentication failed", ErrOptions)
	refusal(loopback+"geheim2", "correct the DSN's password", ErrOptions)
	require.NoError(t, server.Kill())
	for dsn, says := range map[string]string{loopback + "geheim": "connection refused", server.DSN("postgres"): "start the server"} {
		refusal(dsn, says, nil)
		require.NotErrorIs(t, openError(t, Options{DSN: dsn}), ErrOptions)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no name":        {},
		"a bad name":     {Node: "Node 1"},
		"one connection": {Node: "a", MaxConns: 1},
		"no time":        {Node: "a", StatementTimeout: -1},
		"a bad DSN":      {Node: "a", DSN: "host=/nowhere password=geheim port=x"},
	} {
		_, err := Open(context.Background(), o)
		require.ErrorIs(t, err, ErrOptions, name)
		require.NotContains(t, err.Error(), "geheim", name)
	}
}
