package pgstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

const beginStatement = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`

// The locks of a batch. LockRows is above Sort, so rows are locked in order and returned as they are once locked.
const (
	lockForWriting = `SELECT key, version FROM rows WHERE key = ANY($1) ORDER BY key FOR UPDATE`
	lockForReading = `SELECT key, version FROM rows WHERE key = ANY($1) ORDER BY key FOR SHARE`
)

// timeQuery asks for the store's clock, not for when the transaction began.
const timeQuery = `SELECT clock_timestamp()`

// version is that of the batch under way: the timeline of the server, which each failover and each restore begins anew,
// and then the number from the sequence. A new primary's sequence may give numbers again that the old one gave to commits
// which were lost with it. They may have been seen there all the same, if their wait for the standby was cut short.
const version = `(SELECT (('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint << 40) + currval('row_versions'))`

// sequenceBits masks the sequence's part of a version.
const sequenceBits = `1099511627775`

// The writes of a batch. unnest keeps the order of its arrays.
const (
	nextVersion = `SELECT nextval('row_versions')`
	insertRows  = `INSERT INTO rows (key, value, version)
		SELECT k, v, ` + version + ` FROM unnest($1::bytea[], $2::bytea[]) AS new (k, v)`
	updateRows = `INSERT INTO rows (key, value, version)
		SELECT k, v, ` + version + ` FROM unnest($1::bytea[], $2::bytea[]) AS new (k, v)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version`
	deleteRows = `DELETE FROM rows WHERE key = ANY($1)`
	// Where there is no such log the division fails, and with it the transaction.
	moveLog = `WITH moved AS (UPDATE logs SET next = $3 + $4, version = ` + version + `
		WHERE node = $1 AND epoch = $2 AND next = $3 RETURNING 1) SELECT 1 / count(*) FROM moved`
	forgetCommits = `DELETE FROM commits WHERE node = $1 AND epoch = $2 AND number < $3`
	nameCommit    = `INSERT INTO commits (node, epoch, number, void) VALUES ($1, $2, $3, false)`
)

// batch is one transaction in the making.
type batch struct {
	group.Decision
	versions map[store.Key]store.Version // rows that exist, locked
	first    uint64                      // index of the first accepted member
	number   int64                       // of the transaction
}

// try writes a batch in one transaction. After an error that is not store.ErrUnknown nothing was written.
func (c *committer) try(members []*group.Member) (batch, error) {
	if err := c.stopped(); err != nil {
		return batch{}, err
	}
	s, err := c.connected(c.patience)
	if err != nil {
		return batch{}, err
	}
	b, entries, err := c.begin(s, members)
	if err != nil && s.IsClosed() && !errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", errBroken, err)
	}
	if err != nil || len(b.Accepted) == 0 {
		s.rollback()
		return b, err
	}
	c.unknowns.begin()
	defer c.unknowns.known()
	switch failed, err := c.put(s, b, entries); {
	case failed:
		s.rollback()
		return b, err
	case err != nil:
		if err := c.resolve(b.number, err); err != nil {
			return b, err
		}
	}
	c.next += uint64(len(b.Accepted))
	return b, nil
}

// begin locks the rows and decides which members are accepted. It returns the rows of their audit entries.
func (c *committer) begin(s *session, members []*group.Member) (b batch, entries []group.Write, err error) {
	b.first = c.next
	var now time.Time
	if b.versions, now, err = s.lock(members); err != nil {
		return b, nil, fmt.Errorf("pgstore: locking a batch's rows: %w", err)
	}
	b.Decision, err = group.Decide(members, now, func(k store.Key) (store.Version, error) { return b.versions[k], nil })
	if err != nil || len(b.Accepted) == 0 {
		return b, nil, err
	}
	if entries, err = b.Sequence(c.opts.Sequencer, b.first); err != nil {
		return b, nil, err
	}
	c.number++
	b.number = c.number
	return b, entries, nil
}

// lock begins the transaction, and locks all rows that members name, in the order of keys: one statement for each run of
// keys to be locked alike. It returns the versions of those that exist and, if a member can be too late, the time then.
func (s *session) lock(members []*group.Member) (versions map[store.Key]store.Version, now time.Time, err error) {
	writes := map[store.Key]bool{}
	for _, m := range members {
		for _, r := range m.Require {
			if _, named := writes[r.Key]; !named {
				writes[r.Key] = false
			}
		}
		for _, w := range m.Writes {
			writes[w.Key] = true
		}
	}
	versions = make(map[store.Key]store.Version, len(writes))
	exchange := &pgx.Batch{}
	exchange.Queue(beginStatement)
	for keys := slices.Sorted(maps.Keys(writes)); len(keys) > 0; {
		statement := lockForReading
		if writes[keys[0]] {
			statement = lockForWriting
		}
		var run [][]byte
		for alike := writes[keys[0]]; len(keys) > 0 && writes[keys[0]] == alike; keys = keys[1:] {
			run = append(run, []byte(keys[0]))
		}
		exchange.Queue(statement, run).Query(func(rows pgx.Rows) error { return scanVersions(rows, versions) })
	}
	if group.Timed(members) {
		exchange.Queue(timeQuery).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	}
	err = s.exchange(exchange)
	return versions, now, err
}

func scanVersions(rows pgx.Rows, versions map[store.Key]store.Version) error {
	var key []byte
	var version int64
	_, err := pgx.ForEachRow(rows, []any{&key, &version}, func() error {
		versions[store.Key(key)] = store.Version(version)
		return nil
	})
	return err
}

// put writes the rows of the accepted members and of the Sequencer, moves the log on and commits, all in one round trip:
// after a statement that fails the server carries out none that follows, so that nothing is committed then, and failed is
// true. Without it any error leaves unknown what happened.
func (c *committer) put(s *session, b batch, entries []group.Write) (failed bool, err error) {
	fresh, old, gone := b.rows()
	for _, w := range entries {
		old.add(w.Key, w.Value)
	}
	exchange := &pgx.Batch{}
	exchange.Queue(nextVersion)
	exchange.Queue(insertRows, fresh.keys, fresh.values)
	exchange.Queue(updateRows, old.keys, old.values)
	exchange.Queue(deleteRows, gone)
	exchange.Queue(forgetCommits, c.opts.Node, c.epoch, b.number)
	exchange.Queue(nameCommit, c.opts.Node, c.epoch, b.number)
	exchange.Queue(moveLog, c.opts.Node, c.epoch, int64(b.first), int64(len(b.Accepted)))
	failed, err = s.commitAfter(c.patience, exchange)
	var pg *pgconn.PgError
	switch {
	case !failed || !errors.As(err, &pg):
		return failed, err
	case pg.Code == divisionByZero:
		s.rollback()
		return true, c.fence(s)
	case pg.Code == uniqueViolation && pg.TableName == "rows":
		return true, fmt.Errorf("%w: %w", errRaced, err)
	}
	return true, fmt.Errorf("pgstore: writing a batch: %w", err)
}
