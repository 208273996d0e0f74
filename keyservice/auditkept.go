package keyservice

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// Entries that are removed leave behind what they said last of each token, and of each row of dual control: so an older row
// of what was not written since is found as if they were still there.

const keptRows store.Key = "e/" // begins the keys of all of them; the token's serial follows, or the key of a row of dual control, which has a slash

func keptKey(serial string) store.Key { return keptRows + store.Key(serial) }

const keptRow = "what removed entries said" // as errors name it

const keptBack = "what removed entries said was put back" // not the rows that the prunings wrote: one is older, or missing

// kept is the row. On disk it is CBOR with these integer keys under the state MAC.
type kept struct {
	Schema uint8      `cbor:"0,keyasint"`
	Said   audit.Kept `cbor:"1,keyasint"`
}

func (s *Service) openKept(it store.Item) (audit.Kept, error) {
	k, err := unmac[kept](s, it, keptRow)
	if err == nil && k.Schema != schema {
		err = &tampered{what: keptRow, err: errors.New("not a row of this version")}
	}
	return k.Said, err
}

// keep adds to a change what entries said that it removes, and to the beginning of their log what that adds to the sum.
func (s *Service) keep(ctx context.Context, said map[string]audit.Kept, c *store.Change, b *beginning) error {
	var keys []store.Key
	serials := slices.Sorted(maps.Keys(said))
	for _, serial := range serials {
		keys = append(keys, keptKey(serial))
	}
	if keys == nil {
		return nil
	}
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return storeError(err)
	}
	for i, it := range items {
		k := said[serials[i]]
		if it.Version != 0 {
			before, err := s.openKept(it)
			if err != nil {
				return err
			}
			was, err := sumOfKept(it.Key, before)
			if err != nil {
				return err
			}
			b.Kept = keptSum(b.Kept).minus(was)
			k = before.And(k)
		}
		row, err := s.mac(it.Key, kept{schema, k})
		if err != nil {
			return err
		}
		is, err := sumOfKept(it.Key, k)
		if err != nil {
			return err
		}
		b.Kept = keptSum(b.Kept).plus(is)
		c.Put = append(c.Put, row)
	}
	c.Require = append(c.Require, requireItems(items)...)
	return nil
}

// readKept is what all removed entries said, and the rows of which nobody can say what it was.
func (s *Service) readKept(ctx context.Context, snap store.Snapshot) (audit.Tokens, controlled, []Discrepancy, error) {
	tokens, control, found := audit.Tokens{}, controlled{}, []Discrepancy{}
	var all keptSum
	err := snap.Scan(ctx, keptRows, keptRows, func(it store.Item) error {
		serial := strings.TrimPrefix(string(it.Key), string(keptRows))
		k, err := s.openKept(it)
		var tam *tampered
		if errors.As(err, &tam) {
			if checkSerial(serial) != nil {
				serial = ""
			}
			found = append(found, Discrepancy{Serial: serial, What: keptRow, Logged: 1})
			return nil
		}
		if err != nil {
			return err
		}
		is, err := sumOfKept(it.Key, k)
		if err != nil {
			return err
		}
		all = all.plus(is)
		switch {
		case strings.Contains(serial, "/"):
			control.keep(store.Key(serial), k)
		default:
			tokens.Keep(serial, k)
		}
		return nil
	})
	if err != nil {
		return nil, nil, nil, storeError(err)
	}
	back, err := s.compareKept(ctx, snap, all)
	return tokens, control, append(found, back...), err
}
