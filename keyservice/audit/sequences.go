package audit

import (
	"cmp"
	"slices"
)

// What can be wrong with the sequence numbers that the logs give the writes of one row.
const (
	LoggedTwice   = "logged twice"        // two entries claim the same write: an older row was put back before the second
	NotLogged     = "not logged"          // a write that no entry tells of
	WatermarkBack = "watermark went back" // a later write has a lower watermark than an earlier one
)

// Sequences are the writes of one row that the logs tell of: every write counts on by one, whichever node makes it, so
// that the logs of all nodes together name each number once. They are kept as unbroken runs: one, if nothing is wrong, in
// whatever order the entries come.
type Sequences []Run

// Run is an unbroken series of writes, the watermarks after its first and last one, and when these were logged.
type Run struct {
	First, Last, Low, High uint64
	Begun, Time            int64 // Unix milliseconds
}

// OneWrite is a run of a single write.
func OneWrite(number, watermark uint64, at int64) Run {
	return Run{number, number, watermark, watermark, at, at}
}

// Add takes note of one write, or of an unbroken run of them; it returns what is wrong with it, "" if nothing is.
func (s *Sequences) Add(r Run) string {
	i, _ := slices.BinarySearchFunc(*s, r.First, func(r Run, n uint64) int { return cmp.Compare(r.Last, n) })
	if i < len(*s) && (*s)[i].First <= r.Last {
		return LoggedTwice
	}
	*s = slices.Insert(*s, i, r)
	back := s.joinNext(i)
	if i > 0 {
		back = s.joinNext(i-1) || back
	}
	if back {
		return WatermarkBack
	}
	return ""
}

// joinNext makes a run and the one after it one, if nothing is missing between them, and tells whether the watermark is
// lower in the second.
func (s *Sequences) joinNext(i int) (back bool) {
	all := *s
	if i+1 == len(all) || all[i].Last+1 != all[i+1].First {
		return false
	}
	next := all[i+1]
	back = next.Low < all[i].High
	all[i].Last, all[i].High, all[i].Time = next.Last, next.High, next.Time
	*s = slices.Delete(all, i+1, i+2)
	return back
}

// declare closes all gaps before a number: a restore has said that the entries which told of those writes are lost.
func (s *Sequences) declare(number uint64) {
	if number < 2 || s.End().Last >= number-1 && len(*s) == 1 && (*s)[0].First == 1 {
		return
	}
	end := s.End()
	*s = Sequences{{First: 1, Last: max(end.Last, number-1), High: end.High, Begun: end.Begun, Time: end.Time}}
}

// End is the last run; the zero run if there is none.
func (s Sequences) End() Run {
	if len(s) == 0 {
		return Run{}
	}
	return s[len(s)-1]
}

// Gap is a series of writes, First to Last, that nothing was logged of.
type Gap struct {
	First, Last  uint64
	Since, Until int64 // when the writes before and after it were logged, Unix milliseconds; 0 if there is none
}

// Gaps returns the gaps among the writes from 1 to end.
func (s Sequences) Gaps(end uint64) (gaps []Gap) {
	before := Run{}
	for _, r := range s {
		if r.First > before.Last+1 {
			gaps = append(gaps, Gap{before.Last + 1, r.First - 1, before.Time, r.Begun})
		}
		before = r
	}
	if end > before.Last {
		gaps = append(gaps, Gap{before.Last + 1, end, before.Time, 0})
	}
	return gaps
}

// Writes is what the logs say of the writes of one token's rows.
type Writes struct {
	Revisions, States Sequences
	Budgets           map[string]*Sequences // by use; of the subject, whose other token has the numbers between

	kept Kept // of entries that were removed; the zero value if none was
}

// Add takes note of one decision; it returns what contradicts an earlier one, "" if nothing does.
func (w *Writes) Add(e Entry) (wrong string) {
	if w.kept.Gone && w.kept.Hides(e.Time) {
		return ""
	}
	note := func(s *Sequences, number, watermark, kept uint64) {
		if number == 0 || number <= kept && w.kept.Hides(e.Time) {
			return // the row was not written, or what was said of it is known no more
		}
		found := LoggedTwice
		if number > kept {
			found = s.Add(OneWrite(number, watermark, e.Time))
		}
		if wrong == "" {
			wrong = found
		}
	}
	note(&w.Revisions, e.Revision, 0, w.kept.Revision)
	note(&w.States, e.State, e.Next, w.kept.State)
	if e.Budget > 0 && w.Budgets[e.Use] == nil {
		w.Budgets[e.Use] = &Sequences{}
	}
	note(w.Budgets[e.Use], e.Budget, 0, w.kept.Budgets[e.Use])
	return wrong
}

// Silent returns the writes that the logs do not tell of, up to these numbers of record and state.
func (w *Writes) Silent(revision, state uint64) []Gap {
	gaps := w.States.Gaps(state)
	if gaps == nil { // every revision of the record is a write of the state too
		gaps = w.Revisions.Gaps(revision)
	}
	return gaps
}

// Tokens is what the logs say of the writes of all tokens, by serial. It takes about 500 bytes for each.
type Tokens map[string]*Writes

// Contradiction is a token of which an entry says what another one rules out.
type Contradiction struct{ Serial, What string }

// What the entries of a restore say of tokens.
const (
	RestoredTokens = "restore.tokens"    // action: what tokens have become
	RestoredGone   = "restore.gone"      // action: tokens that are not there any more, though the log tells of them
	EntriesLost    = "entries were lost" // reason: not all of what was written before is known
)

// Remember takes note of what an entry says about tokens, and returns what is wrong with that.
func (t Tokens) Remember(e Entry) (found []Contradiction) {
	if e.Action == RestoredGone {
		for _, p := range e.Also {
			delete(t, p.Serial)
		}
		return nil
	}
	for _, a := range writesIn(e) {
		w, known := t[a.Serial]
		if !known {
			w = &Writes{Budgets: map[string]*Sequences{}}
			t[a.Serial] = w
		}
		if e.Action == RestoredTokens && e.Reason == EntriesLost {
			w.Revisions.declare(a.Revision)
			w.States.declare(a.State)
		}
		if what := w.Add(a); what != "" {
			found = append(found, Contradiction{a.Serial, what})
		}
	}
	return found
}

// writesIn takes an entry apart: one for each token of whose rows it tells a write.
func writesIn(e Entry) (about []Entry) {
	all := []Entry{e}
	for _, p := range e.Also {
		all = append(all, Entry{Serial: p.Serial, Revision: p.Revision, Next: p.Next, State: p.State, Time: e.Time})
	}
	for _, a := range all {
		if a.Serial != "" && a.Revision+a.State+a.Budget > 0 {
			about = append(about, a)
		}
	}
	return about
}
