package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ramzban/keyservice/store"
)

// transferLimit bounds a statement of a copy: it may read or write a whole table.
const transferLimit = 10 * time.Minute

// ErrRights: the role may not do all that a copy does. The message says which rights to grant.
var ErrRights = errors.New("pgstore: the role lacks rights that a copy needs")

// transferNode stands in place of a node's name among the server's sessions.
const transferNode = "copy"

const (
	countRows  = `SELECT count(*) FROM rows`
	readLogs   = `SELECT node, next FROM logs`
	keepEpochs = `UPDATE fence SET epoch = greatest(epoch, (SELECT max(epoch) FROM logs))`
	clearRows  = `TRUNCATE rows`
	clearLogs  = `DELETE FROM logs`
	loadRows   = `INSERT INTO rows (key, value, version)
		SELECT k, v, ` + version + ` FROM unnest($1::bytea[], $2::bytea[]) AS new (k, v)`
	loadLogs = `INSERT INTO logs (node, epoch, next, version)
		SELECT n, fence.epoch + 1, i, ` + version + ` FROM fence, unnest($1::text[], $2::bigint[]) AS new (n, i)`
)

// Transfer is a database opened for a copy from or to it; it implements transfer.Database. One goroutine uses it, besides
// its snapshots. Nodes may run on the database: a fence that keeps nodes out ends them too.
type Transfer struct {
	name    string
	session *session
	reads   *readers
}

// OpenTransfer opens a database, whatever its fence says, and brings its schema up to date. Of the options it takes no Node
// and no Sequencer. With ExpectUsed it is for a copy from there, else for one from or to there. Its errors are those of Open
// but store.ErrMoved, and ErrRights.
func OpenTransfer(ctx context.Context, o Options) (*Transfer, error) {
	o.Node, o.transfer = transferNode, true
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	config, err := o.parse()
	if err != nil {
		return nil, err
	}
	t, err := openTransfer(ctx, o, config)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", refused(err))
	}
	return t, nil
}

func openTransfer(ctx context.Context, o Options, config *pgxpool.Config) (*Transfer, error) {
	if err := checkRights(ctx, o, config.ConnConfig); err != nil {
		return nil, err
	}
	if err := prepare(ctx, o, config.ConnConfig); err != nil {
		return nil, err
	}
	s, err := connect(ctx, o, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	s.limit = transferLimit
	reads, err := newReaders(o, config)
	if err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return &Transfer{name: nameOf(config.ConnConfig), session: s, reads: reads}, nil
}

// nameOf says where a database is, and nothing else that the DSN holds.
func nameOf(c *pgx.ConnConfig) string {
	hosts := []string{fmt.Sprintf("%s:%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if host := fmt.Sprintf("%s:%d", f.Host, f.Port); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return fmt.Sprintf("the PostgreSQL database %s on %s", c.Database, strings.Join(hosts, ","))
}

// Name implements transfer.Database.
func (t *Transfer) Name() string { return t.name }

// Fence implements transfer.Database.
func (t *Transfer) Fence(context.Context) (store.Fence, error) { return t.session.fence(readFence) }

// SetFence implements transfer.Database.
func (t *Transfer) SetFence(ctx context.Context, was, now store.Fence) error {
	value, err := now.Encode()
	if err != nil {
		return err
	}
	return t.session.under(ctx, was, func(exchange *pgx.Batch) {
		exchange.Queue(setFence, value, now.String())
		if now.State != store.Serving {
			exchange.Queue(fenceLogs)
		}
	})
}

// Count implements transfer.Database.
func (t *Transfer) Count(context.Context) (rows uint64, err error) {
	exchange := &pgx.Batch{}
	exchange.Queue(countRows).QueryRow(func(row pgx.Row) error { return row.Scan(&rows) })
	err = t.ask(exchange)
	return rows, err
}

// Logs implements transfer.Database.
func (t *Transfer) Logs(context.Context) (map[string]uint64, error) {
	logs := map[string]uint64{}
	exchange := &pgx.Batch{}
	exchange.Queue(readLogs).Query(func(rows pgx.Rows) error {
		var node string
		var next uint64
		_, err := pgx.ForEachRow(rows, []any{&node, &next}, func() error {
			logs[node] = next
			return nil
		})
		return err
	})
	return logs, t.ask(exchange)
}

func (t *Transfer) ask(exchange *pgx.Batch) error {
	if err := t.session.exchange(exchange); err != nil {
		return fmt.Errorf("pgstore: %w", err)
	}
	return nil
}

// Snapshot implements transfer.Database.
func (t *Transfer) Snapshot(ctx context.Context) (store.Snapshot, error) { return t.reads.take(ctx) }

// Clear implements transfer.Database.
func (t *Transfer) Clear(ctx context.Context, under store.Fence) error {
	return t.session.under(ctx, under, func(exchange *pgx.Batch) {
		exchange.Queue(keepEpochs)
		exchange.Queue(clearRows)
		exchange.Queue(clearLogs)
	})
}

// Load implements transfer.Database.
func (t *Transfer) Load(ctx context.Context, under store.Fence, rows []store.Put) error {
	var fresh columns
	for _, r := range rows {
		fresh.add(r.Key, append([]byte{}, r.Value...)) // no NULL
	}
	return t.session.under(ctx, under, func(exchange *pgx.Batch) {
		exchange.Queue(nextVersion)
		exchange.Queue(loadRows, fresh.keys, fresh.values)
	})
}

// SetLogs implements transfer.Database.
func (t *Transfer) SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error {
	var nodes []string
	var indexes []int64
	for node, index := range next {
		nodes, indexes = append(nodes, node), append(indexes, int64(index))
	}
	return t.session.under(ctx, under, func(exchange *pgx.Batch) {
		exchange.Queue(nextVersion)
		exchange.Queue(loadLogs, nodes, indexes)
	})
}

// Close ends the connections.
func (t *Transfer) Close() error {
	t.reads.close()
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err := t.session.Close(ctx); err != nil {
		return fmt.Errorf("pgstore: closing the connection: %w", err)
	}
	return nil
}
