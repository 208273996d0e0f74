package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
)

// engine is an open database of either kind.
type engine interface {
	store.Store
	// Failed is closed when it can neither write nor, with some engines, read any more; Err then says why.
	Failed() <-chan struct{}
	Err() error
	Close() error
}

// engineOptions are what a database is opened with besides what the configuration says of it.
type engineOptions struct {
	create    bool             // it is to be made now, and must not be there; else it must be
	sequencer store.Sequencer  // nil: no rows join the commits
	clock     func() time.Time // of an engine without a server, which has its own; nil: time.Now
	log       *slog.Logger
}

// openStore opens the database that the configuration names, as that of its node.
func openStore(ctx context.Context, c Config, o engineOptions) (engine, error) {
	if err := c.Store.check(o.create); err != nil {
		return nil, err
	}
	if c.Store.Postgres != nil {
		return c.Store.Postgres.open(ctx, c.Node, o)
	}
	s, err := badgerstore.Open(badgerstore.Options{
		Dir: c.Store.Badger.Dir, Node: c.Node, Clock: o.clock, Reserve: uint64(c.Store.Badger.Reserve), Sequencer: o.sequencer, Log: o.log,
	})
	if err != nil {
		return nil, moved(err)
	}
	return s, nil
}

// moved tells a database that was moved from one that may be opened again.
func moved(err error) error {
	if errors.Is(err, store.ErrMoved) {
		return fmt.Errorf("%w: %w", errConfiguration, err)
	}
	return err
}

// check finds what can be found wrong without opening the database. After a mistyped folder or DSN, or a disk that is
// not mounted, the service would begin anew, with every customer forgotten: so a database is made only when that is
// asked for. To ask for a new one where there is one is refused too, so that the permission stays in no unit file.
func (s StoreConfig) check(create bool) error {
	if s.Postgres != nil {
		_, err := s.Postgres.dsn() // the rest only the server can say
		return err
	}
	return s.Badger.check(create)
}

func (b BadgerConfig) check(create bool) error {
	const key = "store.badger.dir"
	if err := requirePrivate(key, b.Dir); err != nil {
		return err
	}
	found, err := badgerstore.Exists(b.Dir)
	switch {
	case err != nil:
		return wrong(key, "%v: let the service's user look at it", err)
	case !found && !create:
		return wrong(key, "%s holds no database: mount its disk, or start once with --new-database", b.Dir)
	case found && create:
		return wrong(key, "%s holds a database already: start without --new-database", b.Dir)
	}
	return nil
}

// openLimit bounds the opening of a database server's database, the migration of its schema included.
const openLimit = 2 * time.Minute

func (p PostgresConfig) open(ctx context.Context, node string, o engineOptions) (engine, error) {
	dsn, err := p.dsn()
	if err != nil {
		return nil, err
	}
	expect := pgstore.ExpectUsed
	if o.create {
		expect = pgstore.ExpectNew
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	s, err := pgstore.Open(ctx, pgstore.Options{
		DSN: dsn, Node: node, Expect: expect, Sequencer: o.sequencer, MaxConns: p.Connections,
		StatementTimeout: time.Duration(p.StatementTimeout), Log: o.log,
	})
	if err != nil {
		return nil, p.explain(err)
	}
	return s, nil
}

// explain tells errors that only another DSN, another server or another program can mend from those that pass.
func (p PostgresConfig) explain(err error) error {
	switch {
	case errors.Is(err, pgstore.ErrAbsent):
		return wrong(p.dsnKey(), "its database is no node's yet: correct the DSN, or start the very first node once with --new-database")
	case errors.Is(err, pgstore.ErrPresent):
		return wrong(p.dsnKey(), "its database is in use already: start without --new-database")
	case errors.Is(err, pgstore.ErrStandby):
		return err
	case errors.Is(err, pgstore.ErrOptions), errors.Is(err, pgstore.ErrUnsuitable), errors.Is(err, pgstore.ErrSchema):
		return fmt.Errorf("%w: %s: %w", errConfiguration, p.dsnKey(), err)
	}
	return moved(err)
}

func (p PostgresConfig) dsnKey() string {
	if p.DSNEnv != "" {
		return "store.postgres.dsn_env"
	}
	return "store.postgres.dsn_file"
}

// dsn reads the DSN, with its password, from where it is kept. Its errors never show what was found there.
func (p PostgresConfig) dsn() (string, error) {
	if p.DSNEnv != "" {
		if v := os.Getenv(p.DSNEnv); v != "" {
			return v, nil
		}
		return "", wrong(p.dsnKey(), "the environment variable %s is not set: put the database's DSN there", p.DSNEnv)
	}
	if err := requirePrivate(p.dsnKey(), p.DSNFile); err != nil {
		return "", err
	}
	b, err := os.ReadFile(p.DSNFile)
	if err != nil {
		return "", wrong(p.dsnKey(), "%v: put the database's DSN there, mode 0600, for the service's user", err)
	}
	v := strings.TrimSpace(string(b))
	if v == "" || strings.ContainsAny(v, "\r\n") {
		return "", wrong(p.dsnKey(), "%s must hold the database's DSN on one line", p.DSNFile)
	}
	return v, nil
}

// stuck says why a database that can be read is not written to: a COMMIT that waits for a standby, or whose connection has
// broken, has been unknown for longer than a statement may take. Nothing is decided behind it, on this node; others may do
// better, if it is because this one speaks to a primary that is cut off.
func (s StoreConfig) stuck(db engine) error {
	p, shared := db.(*pgstore.Store)
	if !shared {
		return nil
	}
	if unknown := p.Stats().Unknown; unknown > time.Duration(s.Postgres.StatementTimeout) {
		return fmt.Errorf("the database has not said for %v what became of a commit: look at its synchronous standbys", unknown.Round(time.Second))
	}
	return nil
}

// failed says why a database that was open cannot be used any more, and what to do.
func (s StoreConfig) failed(err error) error {
	if errors.Is(err, store.ErrMoved) {
		return moved(err)
	}
	if s.Postgres != nil { // only a fenced process comes here; a server that is away is waited for
		return fmt.Errorf("%w: node: %w", errConfiguration, err)
	}
	return fmt.Errorf("the database failed: %w: look at its disk, then start the service again", err)
}
