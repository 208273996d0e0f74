package keyservice

import (
	"cmp"
	"slices"
)

// What can be wrong with the sequence numbers that the logs give the writes of one row.
const (
	loggedTwice   = "logged twice"        // two entries claim the same write: an older row was put back before the second
	notLogged     = "not logged"          // a write that no entry tells of
	watermarkBack = "watermark went back" // a later write has a lower watermark than an earlier one
)

// sequences are the writes of one row that the logs tell of: every write counts on by one, whichever node makes it, so
// that the logs of all nodes together name each number once. They are kept as unbroken runs: one, if nothing is wrong, in
// whatever order the entries come.
type sequences []run

// run is an unbroken series of writes, and the watermarks after its first and last one.
type run struct{ first, last, low, high uint64 }

func oneWrite(number, watermark uint64) run { return run{number, number, watermark, watermark} }

// add takes note of one write, or of an unbroken run of them; it returns what is wrong with it, "" if nothing is.
func (s *sequences) add(r run) string {
	i, _ := slices.BinarySearchFunc(*s, r.first, func(r run, n uint64) int { return cmp.Compare(r.last, n) })
	if i < len(*s) && (*s)[i].first <= r.last {
		return loggedTwice
	}
	*s = slices.Insert(*s, i, r)
	back := s.joinNext(i)
	if i > 0 {
		back = s.joinNext(i-1) || back
	}
	if back {
		return watermarkBack
	}
	return ""
}

// joinNext makes a run and the one after it one, if nothing is missing between them, and tells whether the watermark is
// lower in the second.
func (s *sequences) joinNext(i int) (back bool) {
	all := *s
	if i+1 == len(all) || all[i].last+1 != all[i+1].first {
		return false
	}
	back = all[i+1].low < all[i].high
	all[i].last, all[i].high = all[i+1].last, all[i+1].high
	*s = slices.Delete(all, i+1, i+2)
	return back
}

// last is the highest number, 0 if there is none.
func (s sequences) last() run {
	if len(s) == 0 {
		return run{}
	}
	return s[len(s)-1]
}

// gaps calls fn for each series of numbers from 1 to end that nothing was logged of, with the numbers on both sides.
func (s sequences) gaps(end uint64, fn func(before, after uint64)) {
	before := uint64(0)
	for _, r := range s {
		if r.first > before+1 {
			fn(before, r.first)
		}
		before = r.last
	}
	if end > before {
		fn(before, end+1)
	}
}
