package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Nodes that start together take turns: goose's lock is a row with a lease, which ends with a node that dies.
const (
	migrationTurn  = time.Second
	migrationTurns = 60
)

// migrate brings the schema up to date. A schema that already is needs no right to change it.
func migrate(ctx context.Context, config *pgx.ConnConfig) error {
	db := stdlib.OpenDB(*config)
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableLockTimeout(migrationTurn, migrationTurns), lock.WithTableLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	m, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithLocker(locker))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return migrateWith(ctx, m)
}

func migrateWith(ctx context.Context, m *goose.Provider) error {
	has, wants, err := m.GetVersions(ctx)
	switch {
	case err != nil:
		return migrationFailed(err)
	case has == wants:
		return nil
	case has > wants:
		return fmt.Errorf("%w: it has version %d, this program knows %d: start a newer program", ErrSchema, has, wants)
	}
	if _, err := m.Up(ctx); err != nil {
		return migrationFailed(err)
	}
	return nil
}

func migrationFailed(err error) error {
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		err = partial.Err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, accessRuleClass) {
		mend := "another program's tables are in the way: name an empty database"
		if pg.Code == missingRight {
			mend = "let the role create tables in the database's schema"
		}
		return fmt.Errorf("%w: migrating it: %s: %s", ErrSchema, oneLine(err.Error()), mend)
	}
	return fmt.Errorf("pgstore: migrating the schema: %w", err)
}
