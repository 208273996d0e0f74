package main

import (
	"time"

	"ramzban/keyservice/store/pgstore"
)

func defaultBadger() BadgerConfig {
	return BadgerConfig{Dir: "/var/lib/ramzban/badger", Reserve: 512 << 20}
}

func defaultPostgres() PostgresConfig {
	return PostgresConfig{DSNFile: "/etc/ramzban/postgres.dsn", Connections: pgstore.DefaultMaxConns,
		StatementTimeout: Duration(pgstore.DefaultStatementTimeout)}
}

// UnmarshalYAML reads the engines that the file names, in place of the default one.
func (s *StoreConfig) UnmarshalYAML(decode func(any) error) error {
	type plain StoreConfig
	var named plain
	err := decode(&named)
	*s = StoreConfig(named)
	return err
}

// UnmarshalYAML reads what the file says over the engine's defaults.
func (b *BadgerConfig) UnmarshalYAML(decode func(any) error) error {
	type plain BadgerConfig
	said := plain(defaultBadger())
	err := decode(&said)
	*b = BadgerConfig(said)
	return err
}

// UnmarshalYAML reads what the file says over the engine's defaults.
func (p *PostgresConfig) UnmarshalYAML(decode func(any) error) error {
	type plain PostgresConfig
	said := plain(defaultPostgres())
	err := decode(&said)
	*p = PostgresConfig(said)
	return err
}

func (s StoreConfig) validate() error {
	switch {
	case s.Badger == nil && s.Postgres == nil:
		return wrong("store", "name an engine: badger or postgres")
	case s.Badger != nil && s.Postgres != nil:
		return wrong("store", "name one engine, not both: badger or postgres")
	case s.Postgres != nil:
		return s.Postgres.validate()
	case s.Badger.Dir == "":
		return wrong("store.badger.dir", "must not be empty")
	}
	return nil
}

// Bounds of PostgresConfig. Shorter timeouts would cut off what merely waits for another node's batch; with longer ones
// a server that hangs is noticed too late for those who wait.
const (
	minConnections, maxConnections           = 2, 1000
	minStatementTimeout, maxStatementTimeout = Duration(100 * time.Millisecond), Duration(time.Minute)
)

func (p PostgresConfig) validate() error {
	switch {
	case p.DSNFile == "" && p.DSNEnv == "":
		return wrong("store.postgres.dsn_file", "give either store.postgres.dsn_file or store.postgres.dsn_env")
	case p.Connections < minConnections || p.Connections > maxConnections:
		return wrong("store.postgres.connections", "must be between %d and %d, not %d", minConnections, maxConnections, p.Connections)
	case p.StatementTimeout < minStatementTimeout || p.StatementTimeout > maxStatementTimeout:
		return wrong("store.postgres.statement_timeout", "must be between %v and %v, not %v", minStatementTimeout, maxStatementTimeout, p.StatementTimeout)
	}
	return nil
}
