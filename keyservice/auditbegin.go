package keyservice

import (
	"context"
	"errors"
	"strings"

	"ramzban/keyservice/store"
)

// Old entries of a log can be removed from the database once they are in an archive; see auditprune.go. A row says where the
// log begins from then on, so that what was removed on purpose is not taken for what an attacker removed. Tiles and
// checkpoints stay: entries that are still there, and those in the archive, are proven as before.

const beginningRows store.Key = "f/" // begins the keys of all of them; the node follows

func beginningKey(node string) store.Key { return beginningRows + store.Key(node) }

const beginningRow = "beginning of a log" // as errors name it

// beginning is where a log begins in the database. On disk it is CBOR with these integer keys under the state MAC.
type beginning struct {
	Schema uint8  `cbor:"0,keyasint"`
	First  uint64 `cbor:"1,keyasint"`           // the first entry that was not removed
	Until  int64  `cbor:"2,keyasint"`           // the latest time of those that were, Unix milliseconds
	Kept   []byte `cbor:"3,keyasint,omitempty"` // what the prunings of this log add to the sum of all kept rows; see keptSum
}

// beginnings reads where the logs begin, by node. Those of which nothing was removed are not among them.
func (s *Service) beginnings(ctx context.Context, snap store.Snapshot) (map[string]beginning, error) {
	all := map[string]beginning{}
	err := snap.Scan(ctx, beginningRows, beginningRows, func(it store.Item) error {
		b, err := s.openBeginning(it)
		all[strings.TrimPrefix(string(it.Key), string(beginningRows))] = b
		return err
	})
	var tam *tampered
	if err != nil && !errors.As(err, &tam) {
		err = storeError(err)
	}
	return all, err
}

func (s *Service) openBeginning(it store.Item) (beginning, error) {
	b, err := unmac[beginning](s, it, beginningRow)
	if err == nil && b.Schema != schema {
		err = &tampered{what: beginningRow, err: errors.New("not a row of this version")}
	}
	return b, err
}

// beginningOf reads where one log begins, and makes the decision depend on it.
func (s *Service) beginningOf(ctx context.Context, node string) (beginning, store.Require, error) {
	items, err := s.Store.Get(ctx, beginningKey(node))
	if err != nil {
		return beginning{}, store.Require{}, storeError(err)
	}
	require := requireItems(items)[0]
	if require.Version == 0 {
		return beginning{Schema: schema}, require, nil
	}
	b, err := s.openBeginning(items[0])
	return b, require, err
}
