package pgstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// privileges are names of tables and sequences, and what a role must be allowed to do with each.
type privileges struct{ objects, verbs []string }

func (p *privileges) add(object string, verbs ...string) {
	for _, v := range verbs {
		p.objects, p.verbs = append(p.objects, object), append(p.verbs, v)
	}
}

// transferRights are the rights for a copy from a database, and for one to it, with those of the nodes that serve from it
// afterwards: a copy must not end where no node can begin.
func transferRights(to bool) (p privileges) {
	p.add("goose_db_version", "SELECT")
	p.add("fence", "SELECT", "UPDATE")
	p.add("logs", "SELECT", "UPDATE")
	p.add("rows", "SELECT")
	if !to {
		return p
	}
	p.add("logs", "INSERT", "DELETE")
	p.add("rows", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
	p.add("commits", "SELECT", "INSERT", "UPDATE", "DELETE")
	p.add("row_versions", "SELECT", "USAGE")
	return p
}

// lackingQuery returns the GRANT for each object that is there and that the role may not use as it must.
const lackingQuery = `SELECT format('GRANT %s ON %s%s TO %I', string_agg(verb, ', ' ORDER BY verb),
		CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END, oid::regclass, current_user)
	FROM unnest($1::text[], $2::text[]) AS needed (object, verb) JOIN pg_class ON oid = to_regclass(object)
	WHERE NOT CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, verb) ELSE has_table_privilege(oid, verb) END
	GROUP BY oid, relkind ORDER BY oid`

// checkRights looks before anything is changed, so that no copy is begun that the role cannot finish. A schema that is not
// there yet will be the role's own.
func checkRights(ctx context.Context, o Options, config *pgx.ConnConfig) error {
	s, err := connect(ctx, o, config)
	if err != nil {
		return err
	}
	err = s.checkRights(ctx, transferRights(o.Expect != ExpectUsed))
	return errors.Join(err, s.Close(ctx))
}

func (s *session) checkRights(ctx context.Context, needed privileges) error {
	var there bool
	if err := s.QueryRow(ctx, schemaQuery).Scan(&there); err != nil {
		return fmt.Errorf("pgstore: looking for the schema: %w", err)
	}
	if !there {
		return nil
	}
	rows, err := s.Query(ctx, lackingQuery, needed.objects, needed.verbs)
	if err != nil {
		return fmt.Errorf("pgstore: looking for the role's rights: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("pgstore: looking for the role's rights: %w", err)
	}
	if len(grants) > 0 {
		return fmt.Errorf("%w: let the role own the tables, or have their owner run: %s", ErrRights, strings.Join(grants, "; "))
	}
	return nil
}
