package audit

import "time"

// Kept is what entries said of a token last that were removed from the database on purpose. It stands for them: of later
// writes everything is found as before, and no row may be older than it.
type Kept struct {
	Revision uint64            `cbor:"1,keyasint,omitempty"` // the highest one, of the record
	State    uint64            `cbor:"2,keyasint,omitempty"` // … of the state
	Next     uint64            `cbor:"3,keyasint,omitempty"` // its watermark
	Budgets  map[string]uint64 `cbor:"4,keyasint,omitempty"` // the highest sequence number of guess budgets, by use
	Until    int64             `cbor:"5,keyasint"`           // when the latest of the entries was logged, Unix milliseconds
	Gone     bool              `cbor:"6,keyasint,omitempty"` // a restore said then that there is no such token any more
}

// clocksApart is how far the clocks of two nodes may be apart when their entries' times are compared.
const clocksApart = time.Minute

// Said is what one entry says of tokens, by serial.
func Said(e Entry) map[string]Kept {
	said := map[string]Kept{}
	if e.Action == RestoredGone {
		for _, p := range e.Also {
			said[p.Serial] = Kept{Until: e.Time, Gone: true}
		}
		return said
	}
	for _, a := range writesIn(e) {
		k := Kept{Revision: a.Revision, State: a.State, Until: a.Time}
		if a.State > 0 {
			k.Next = a.Next
		}
		if a.Budget > 0 {
			k.Budgets = map[string]uint64{a.Use: a.Budget}
		}
		said[a.Serial] = said[a.Serial].And(k)
	}
	return said
}

// And is what both say, of one token.
func (k Kept) And(other Kept) Kept {
	if other.Gone {
		k, other = other, k
	}
	if k.Gone {
		if other.Until > k.Until {
			return other
		}
		return k
	}
	both := Kept{
		Revision: max(k.Revision, other.Revision), State: max(k.State, other.State), Next: max(k.Next, other.Next), Until: max(k.Until, other.Until),
	}
	for _, budgets := range []map[string]uint64{k.Budgets, other.Budgets} {
		for use, number := range budgets {
			if both.Budgets == nil {
				both.Budgets = map[string]uint64{}
			}
			both.Budgets[use] = max(both.Budgets[use], number)
		}
	}
	return both
}

// Hides tells whether an entry of this time may have been among, or between, those that were removed: of several logs one may
// be left.
func (k Kept) Hides(at int64) bool { return at <= k.Until+clocksApart.Milliseconds() }

// Keep begins with what removed entries said of a token.
func (t Tokens) Keep(serial string, k Kept) {
	w := &Writes{Budgets: map[string]*Sequences{}, kept: k}
	all := func(number, watermark uint64) Sequences {
		if number == 0 {
			return nil
		}
		return Sequences{{First: 1, Last: number, High: watermark, Begun: k.Until, Time: k.Until}}
	}
	w.Revisions, w.States = all(k.Revision, 0), all(k.State, k.Next)
	for use, number := range k.Budgets { // the numbers before may be those of the subject's other token
		w.Budgets[use] = &Sequences{OneWrite(number, 0, k.Until)}
	}
	t[serial] = w
}
