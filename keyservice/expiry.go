package keyservice

import (
	"context"
	"errors"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// The service itself, as it stands in the entries of what nobody asked for. No role grants the action.
var itself = authz.Caller{Name: "ramzban"}

const expireRows authz.Action = "idempotency.expire"

// expiryChunk is how many rows one commit deletes. It shares its batch with the requests of that moment, which must not
// wait long for it.
const expiryChunk = 500

var errChunkFull = errors.New("the chunk is full")

const expiryJob = "expiry"

// Expire deletes the idempotency rows into which no repeat looks any more, and returns how many. These are the buckets
// before the day before yesterday, so that each row stays for 48 to 72 hours: a clock that is a day ahead deletes
// nothing that was decided within 24 hours. It may be ended at any moment, and run beside requests: what is left is
// deleted the next time. On several nodes, the one that holds the lease does it. Each commit has its entry in the log.
func (s *Service) Expire(ctx context.Context) (int, error) {
	var l lease
	deleted := 0
	for from := store.Key(""); ; {
		chunk, err := s.expired(ctx, from)
		if err != nil || len(chunk) == 0 {
			return deleted, err
		}
		d := decision{change: store.Change{Delete: chunk}, entry: audit.Entry{Outcome: audit.Done}}
		if err = s.commitUnder(ctx, l, expireRows, d); errors.Is(err, errLeaseLost) {
			if l, err = s.lease(ctx, expiryJob); err == nil {
				continue
			}
		}
		switch {
		case errors.Is(err, errLeaseHeld):
			return deleted, nil // it goes on there
		case err != nil:
			return deleted, s.failed(ctx, itself, expireRows, "", err)
		}
		deleted += len(chunk)
		from = chunk[len(chunk)-1]
	}
}

// expired finds the next rows to delete, in the order of their days. The earlier of the node's clock and the store's counts:
// a node whose clock is far ahead deletes nothing of the others.
func (s *Service) expired(ctx context.Context, from store.Key) ([]store.Key, error) {
	now, err := s.earliest(ctx)
	if err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	kept := bucketOf(oldestDay(now))
	var chunk []store.Key
	err = snap.Scan(ctx, idempotencyRows, from, func(it store.Item) error {
		if it.Key >= kept || len(chunk) == expiryChunk {
			return errChunkFull
		}
		chunk = append(chunk, it.Key)
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return nil, storeError(err)
	}
	return chunk, nil
}
