package group

import (
	"fmt"
	"math"
	"slices"
	"time"

	"ramzban/keyservice/store"
)

// Decision says what becomes of a batch's members, and which rows it leaves.
type Decision struct {
	Accepted []*Member // in index order
	Refused  []*Member // a precondition does not hold, or it is too late
	Written  map[store.Key]Write
}

// written is the version that a row of this batch has for the members after it: one that nobody can require, because
// nobody has seen it.
const written = store.Version(math.MaxUint64)

// Timed tells whether a member can be too late: then Decide needs the time.
func Timed(members []*Member) bool {
	return slices.ContainsFunc(members, func(m *Member) bool { return !m.Until.IsZero() })
}

// Decide takes the members in turn; each sees the writes of those before it, and otherwise the versions given. now is the
// store's time at which those versions were current.
func Decide(members []*Member, now time.Time, version func(store.Key) (store.Version, error)) (Decision, error) {
	d := Decision{Written: make(map[store.Key]Write, 2*len(members))}
	for _, m := range members {
		holds, err := d.holds(m.Require, version)
		if err != nil {
			return Decision{}, err
		}
		if !holds || m.late(now) {
			d.Refused = append(d.Refused, m)
			continue
		}
		for _, w := range m.Writes {
			d.Written[w.Key] = w
		}
		d.Accepted = append(d.Accepted, m)
	}
	return d, nil
}

func (m *Member) late(now time.Time) bool { return !m.Until.IsZero() && !now.Before(m.Until) }

func (d Decision) holds(require []store.Require, version func(store.Key) (store.Version, error)) (bool, error) {
	for _, r := range require {
		current, err := d.version(r.Key, version)
		if err != nil || current != r.Version || r.Version == written {
			return false, err
		}
	}
	return true, nil
}

func (d Decision) version(k store.Key, before func(store.Key) (store.Version, error)) (store.Version, error) {
	w, ok := d.Written[k]
	switch {
	case ok && w.Deletes:
		return 0, nil
	case ok:
		return written, nil
	default:
		return before(k)
	}
}

// Sequence returns the Sequencer's rows for the accepted members, checked. A nil Sequencer has none.
func (d Decision) Sequence(sequencer store.Sequencer, first uint64) ([]Write, error) {
	if sequencer == nil {
		return nil, nil
	}
	entries := make([][]byte, len(d.Accepted))
	for i, m := range d.Accepted {
		entries[i] = m.Entry
	}
	puts, err := sequencer(first, entries)
	if err != nil {
		return nil, fmt.Errorf("sequencing the audit entries from index %d: %w", first, err)
	}
	rows, seen := make([]Write, 0, len(puts)), make(map[store.Key]bool, len(puts))
	for _, p := range puts {
		if err := store.CheckPut(p); err != nil {
			return nil, fmt.Errorf("sequencing the audit entries from index %d: %w", first, err)
		}
		if _, taken := d.Written[p.Key]; taken || seen[p.Key] {
			return nil, fmt.Errorf("sequencing the audit entries from index %d: its row %q is written twice in the batch", first, p.Key)
		}
		seen[p.Key] = true
		rows = append(rows, Write{Key: p.Key, Value: append([]byte{}, p.Value...)})
	}
	return rows, nil
}
