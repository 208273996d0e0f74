package pgstore

import (
	"maps"
	"slices"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/group"
)

// columns are rows as arrays for unnest.
type columns struct{ keys, values [][]byte }

func (c *columns) add(k store.Key, value []byte) {
	c.keys, c.values = append(c.keys, []byte(k)), append(c.values, value)
}

// rows returns what the accepted members leave: rows to insert and rows to update, in the order of keys, and rows to
// delete. A row that must not exist, and that no member makes, is inserted and deleted.
func (b batch) rows() (fresh, old columns, gone [][]byte) {
	fates := maps.Clone(b.Written)
	for _, m := range b.Accepted {
		for _, r := range m.Require {
			if _, written := fates[r.Key]; !written && r.Version == 0 {
				fates[r.Key] = group.Write{Key: r.Key, Deletes: true}
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(fates)) {
		w, exists := fates[k], b.versions[k] > 0
		if w.Deletes {
			w.Value = []byte{}
			gone = append(gone, []byte(k))
		}
		switch {
		case !exists:
			fresh.add(k, w.Value)
		case !w.Deletes:
			old.add(k, w.Value)
		}
	}
	return fresh, old, gone
}
