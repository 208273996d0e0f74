package pgstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"ramzban/keyservice/store"
)

// Reads that come while others are under way share the next statement: to the server, one statement for many keys is a
// fraction of the work of many statements.
const (
	gatherers  = 4   // statements under way at once
	gatherKeys = 512 // in one statement, or the keys of one read
	gathered   = 4096
)

// wanted is the keys of one Get.
type wanted struct {
	keys  []store.Key
	found chan found // takes one answer without a reader: the caller may have gone
}

type found struct {
	items map[store.Key]store.Item
	err   error
}

// gather answers reads until there are no more to come.
func (r *readers) gather() {
	for first := range r.wanted {
		together, n := []wanted{first}, len(first.keys)
	more:
		for n < gatherKeys {
			select {
			case w, ok := <-r.wanted:
				if !ok {
					break more
				}
				together, n = append(together, w), n+len(w.keys)
			default:
				break more
			}
		}
		r.answer(together)
	}
}

// answer reads the keys of all in one statement, and lets each have all: what a caller did not ask for it does not look at.
func (r *readers) answer(together []wanted) {
	var keys []store.Key
	for _, w := range together {
		keys = append(keys, w.keys...)
	}
	items := make(map[store.Key]store.Item, len(keys))
	err := r.twice(context.Background(), func(ctx context.Context, conn *pgx.Conn) error {
		clear(items)
		return query(ctx, conn, func(i store.Item) error {
			items[i.Key] = i
			return nil
		}, `SELECT key, value, version FROM rows WHERE key = ANY($1)`, bytesOf(keys))
	})
	if err != nil {
		items, err = nil, fmt.Errorf("pgstore: reading rows: %w", err)
	}
	for _, w := range together {
		w.found <- found{items, err}
	}
}

// get waits for its turn and for the answer, at most until ctx ends.
func (r *readers) get(ctx context.Context, keys []store.Key) (map[store.Key]store.Item, error) {
	if err := r.enter(); err != nil {
		return nil, err
	}
	defer r.inside.Done()
	w := wanted{keys: slices.Clone(keys), found: make(chan found, 1)}
	select {
	case r.wanted <- w:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case f := <-w.found:
		return f.items, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
