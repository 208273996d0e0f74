package pgstore

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ramzban/keyservice/store"
)

// The pauses between attempts to reach a server that can say what happened.
const (
	resolveFirst = 20 * time.Millisecond
	resolveLast  = time.Second
)

// voidCommit makes a transaction impossible that has not been committed: it takes the key under which the transaction
// names itself. If the transaction is still running, this waits for it. It writes in any case, so that its own COMMIT
// waits for the disks and the standbys: what is there before it is there as safely.
const voidCommit = `INSERT INTO commits (node, epoch, number, void) VALUES ($1, $2, $3, true)
	ON CONFLICT (node, epoch, number) DO UPDATE SET void = commits.void RETURNING void`

// resolve finds out what became of a transaction whose COMMIT did not answer cleanly. It returns nil when it is committed
// for certain, errBroken when it is not and never will be, and ErrUnknown only if the store is closed before that is known.
func (c *committer) resolve(number int64, cause error) error {
	log := c.opts.Log.With("node", c.opts.Node, "epoch", c.epoch, "number", number)
	log.Warn("it is not known whether a transaction was committed: finding out", "error", oneLine(cause.Error()))
	began := time.Now()
	for pause := resolveFirst; ; pause = min(2*pause, resolveLast) {
		void, err := c.void(number)
		if err == nil {
			took := time.Since(began)
			c.unknowns.found(void, took)
			log.Info("found out whether a transaction was committed", "committed", !void, "took_ms", took.Milliseconds())
			if void {
				return fmt.Errorf("%w: %w", errBroken, cause)
			}
			return nil
		}
		log.Warn("it is still not known whether a transaction was committed", "error", oneLine(err.Error()))
		select {
		case <-c.patience.Done():
			return fmt.Errorf("%w: %w", store.ErrUnknown, cause)
		case <-time.After(pause):
		}
	}
}

// void asks once, in a transaction of its own. If that one's end is not known it is asked again: the answer is the same.
func (c *committer) void(number int64) (void bool, err error) {
	s, err := c.connected(c.patience)
	if err != nil {
		return false, err
	}
	exchange := &pgx.Batch{}
	exchange.Queue(beginStatement)
	exchange.Queue(voidCommit, c.opts.Node, c.epoch, number).QueryRow(func(row pgx.Row) error { return row.Scan(&void) })
	if err := s.exchange(exchange); err != nil {
		s.rollback()
		return false, err
	}
	return void, s.commit(c.patience)
}
