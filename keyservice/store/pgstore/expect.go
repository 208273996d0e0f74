package pgstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	schemaQuery = `SELECT to_regclass('logs') IS NOT NULL AND to_regclass('fence') IS NOT NULL AND to_regclass('row_versions') IS NOT NULL`
	usedQuery   = `SELECT EXISTS (SELECT FROM logs) OR EXISTS (SELECT FROM rows)`
	// Nodes that all expect a new database take turns, and the second one finds what the first has made.
	oneAtATime = `LOCK TABLE logs IN SHARE ROW EXCLUSIVE MODE`
)

// look looks before the schema is made or changed: what belongs to another program is left as it is.
func (o Options) look(ctx context.Context, s *session) error {
	var there bool
	if err := s.QueryRow(ctx, schemaQuery).Scan(&there); err != nil {
		return fmt.Errorf("pgstore: looking for the schema: %w", err)
	}
	if there && !o.transfer {
		fence, err := s.fence(readFence)
		if err == nil {
			err = fence.Check()
		}
		if err != nil {
			return err
		}
	}
	return o.Expect.check(ctx, s, there)
}

func (e Expectation) check(ctx context.Context, s *session, used bool) error {
	if used {
		if err := s.QueryRow(ctx, usedQuery).Scan(&used); err != nil {
			return fmt.Errorf("pgstore: looking for nodes: %w", err)
		}
	}
	return e.met(used)
}

func (e Expectation) met(used bool) error {
	switch {
	case e == ExpectUsed && !used:
		return ErrAbsent
	case e == ExpectNew && used:
		return ErrPresent
	}
	return nil
}

// queue adds to the transaction that takes a log over what it needs to look again.
func (e Expectation) queue(exchange *pgx.Batch, used *bool) {
	if e == ExpectNew {
		exchange.Queue(oneAtATime)
	}
	exchange.Queue(usedQuery).QueryRow(func(row pgx.Row) error { return row.Scan(used) })
}
