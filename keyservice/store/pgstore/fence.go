package pgstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"ramzban/keyservice/store"
)

// The fence is read as it is, or so that it cannot change before the transaction ends. It is locked before anything else,
// by nodes that open in share mode: a node of whatever name either sees the fence, or is seen and fenced.
const (
	readFence  = `SELECT value FROM fence`
	shareFence = readFence + ` FOR SHARE`
	lockFence  = readFence + ` FOR UPDATE`
)

const (
	setFence  = `UPDATE fence SET value = $1, note = $2`
	fenceLogs = `UPDATE logs SET epoch = epoch + 1`
)

// queueFence adds a reading of the fence.
func queueFence(exchange *pgx.Batch, statement string, into *store.Fence) {
	exchange.Queue(statement).QueryRow(func(row pgx.Row) (err error) {
		var value []byte
		if err := row.Scan(&value); err != nil {
			return fmt.Errorf("pgstore: reading the fence: %w", err)
		}
		*into, err = store.DecodeFence(value)
		return err
	})
}

func (s *session) fence(statement string) (fence store.Fence, err error) {
	exchange := &pgx.Batch{}
	queueFence(exchange, statement, &fence)
	err = s.exchange(exchange)
	return fence, err
}

// under does something in a transaction if the fence is still as given, and that stays so until it ends.
func (s *session) under(ctx context.Context, was store.Fence, do func(*pgx.Batch)) error {
	err := s.begin(was)
	if err == nil {
		exchange := &pgx.Batch{}
		do(exchange)
		err = s.exchange(exchange)
	}
	if err != nil {
		s.rollback()
		return fmt.Errorf("pgstore: %w", err)
	}
	if err := s.commit(ctx); err != nil {
		return fmt.Errorf("pgstore: it is not known whether this was written: %w", err)
	}
	return nil
}

func (s *session) begin(was store.Fence) error {
	var fence store.Fence
	exchange := &pgx.Batch{}
	exchange.Queue(beginStatement)
	queueFence(exchange, lockFence, &fence)
	if err := s.exchange(exchange); err != nil {
		return err
	}
	if fence != was {
		return store.ErrConflict
	}
	return nil
}
