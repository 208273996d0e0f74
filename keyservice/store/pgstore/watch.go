package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"ramzban/keyservice/store"
)

// watchEvery is how often a process that may have nothing to write looks whether it still may, and whether the server
// still keeps what it acknowledges.
const watchEvery = 2 * time.Second

const watchQuery = `SELECT logs.epoch, fence.value FROM logs, fence WHERE node = $1`

// watch looks until ctx ends or the process is fenced.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTicker(s.opts.watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.commits.failed:
			return
		case <-tick.C:
			s.look(ctx)
		}
	}
}

// look ends this process's reading and writing if another one, or a copy of the database, has taken its place. If the
// server was changed so that it cannot be used, the connections are made again, which is refused as long as it is so. What
// cannot be found out now is left for the next time.
func (s *Store) look(ctx context.Context) {
	var epoch int64
	var value []byte
	err := s.reads.twice(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := checkServer(ctx, conn); err != nil {
			return err
		}
		return broken(conn, conn.QueryRow(ctx, watchQuery, s.opts.Node).Scan(&epoch, &value))
	})
	if errors.Is(err, ErrUnsuitable) {
		s.opts.Log.Error("the connections are given up", "error", oneLine(err.Error()))
		s.commits.doubted.Store(true)
		s.reads.pool.Reset()
	}
	if err != nil {
		s.opts.Log.Debug("the database cannot be looked at", "error", oneLine(err.Error()))
		return
	}
	fence, err := store.DecodeFence(value)
	if err == nil {
		err = fence.Check()
	}
	if epoch > s.commits.epoch || errors.Is(err, store.ErrMoved) {
		_ = s.commits.fail(err)
	}
}
