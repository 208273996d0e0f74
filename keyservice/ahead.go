package keyservice

import (
	"context"
	"slices"

	"ramzban/keyservice/store"
)

// What a decision about a password will probably need is read together: to a database server, each read is a journey. It is
// only a matter of speed: what was not foreseen is read when it is needed, and every row that a decision rests on is a
// precondition of its commit.

// aheadKey is where a context carries what was read ahead.
type aheadKey struct{}

// rememberedSubjects bounds the memory of whose a token is, about 200 bytes each.
const rememberedSubjects = 1 << 16

// readAhead reads rows for the calls of get under the context that it returns: one decision, taken once.
func (s *Service) readAhead(ctx context.Context, keys []store.Key) (context.Context, error) {
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return nil, storeError(err)
	}
	return context.WithValue(ctx, aheadKey{}, items), nil
}

// get reads rows, if they were not read ahead.
func (s *Service) get(ctx context.Context, keys ...store.Key) ([]store.Item, error) {
	ahead, _ := ctx.Value(aheadKey{}).([]store.Item)
	items := make([]store.Item, len(keys))
	for i, key := range keys {
		at := slices.IndexFunc(ahead, func(it store.Item) bool { return it.Key == key })
		if at < 0 {
			return s.Store.Get(ctx, keys...)
		}
		items[i] = ahead[at]
	}
	return items, nil
}

// foreseen are the rows that a verification will probably need. Whose a token is was seen before, or is found later.
func (s *Service) foreseen(r VerifyRequest, who owner) []store.Key {
	var keys []store.Key
	subject := who.subject
	if r.Serial == "" {
		keys = liveKeys(r.Class, subject)
	} else if seen, ok := s.subjects.Get(r.Serial); ok {
		subject = seen
	}
	if subject.Sum != nil {
		keys = append(keys, budgetKey(subject, r.Use))
	}
	for _, serial := range who.serials {
		keys = append(keys, recordKey(serial), stateRowKey(serial))
	}
	return keys
}
