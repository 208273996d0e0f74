package otp

import (
	"math"
	"slices"
	"time"
)

// Plan lists the moving factors a password may come from at server time now, most likely first, none below next (the
// lowest one not yet used up). drift is what was learnt of the phone's clock; it plays no part with counters.
//
// Time steps (RFC 6238): step s is acceptable if some phone clock within DriftSearch of the learnt drift, of none, or
// between the two, and within DriftBound of the server's, has s·P ≤ phone time < s·P + V. A phone whose clock was put
// right is so found at once. Counters: the next one and LookAhead more (RFC 4226 section 7.4).
func (p Policy) Plan(now time.Time, drift time.Duration, next uint64) []uint64 {
	if p.Counted() {
		return span(next, next+p.LookAhead)
	}
	slowest := max(min(drift, 0)-p.DriftSearch, -p.DriftBound)
	fastest := min(max(drift, 0)+p.DriftSearch, p.DriftBound)
	first := p.step(now.Add(slowest-p.Validity)) + 1
	last := p.step(now.Add(fastest))
	if last < 0 || uint64(last) < next {
		return nil
	}
	steps := span(max(uint64(max(first, 0)), next), uint64(last))
	expected := p.step(now.Add(drift))
	slices.SortStableFunc(steps, func(a, b uint64) int { return distance(a, expected) - distance(b, expected) })
	return steps
}

// ResyncPlan lists the moving factors the first of two consecutive passwords may come from at server time now, none below
// next. It is wider than Plan: with time steps the second password may come from any clock within DriftBound, whatever
// was learnt; with counters it reaches ResyncAhead (RFC 4226 section 7.4).
func (p Policy) ResyncPlan(now time.Time, next uint64) []uint64 {
	if p.Counted() {
		return span(next, next+p.ResyncAhead)
	}
	if next == math.MaxUint64 {
		return nil // no second password can follow
	}
	wide := p
	wide.DriftSearch = p.DriftBound
	seconds := wide.Plan(now, 0, next+1)
	for i := range seconds {
		seconds[i]-- // the step before
	}
	return seconds
}

// LearnDrift returns what is known of the phone's clock after step s was accepted at server time now, never beyond
// DriftBound, in whole milliseconds. A password that came early proves a clock that is ahead. One that came late proves
// nothing, for it may have been typed late: it only takes back what was learnt of a clock ahead. Else a few customers
// who type slowly would teach the server to search for their phones where they are not.
func (p Policy) LearnDrift(now time.Time, drift time.Duration, s uint64) time.Duration {
	if p.Counted() {
		return 0
	}
	lowest, highest := p.explained(now, s)
	switch {
	case drift < lowest:
		drift = lowest
	case drift > highest:
		drift = max(highest, min(drift, 0))
	}
	return min(max(drift, -p.DriftBound), p.DriftBound)
}

// ResyncDrift returns what two consecutive passwords prove, the second of which, of step s, was made just now: the learnt
// drift if it explains that, else the nearest one that does, never beyond DriftBound. Whole milliseconds.
func (p Policy) ResyncDrift(now time.Time, drift time.Duration, s uint64) time.Duration {
	if p.Counted() {
		return 0
	}
	lowest, highest := p.explained(now, s)
	drift = min(max(drift, lowest), highest)
	return min(max(drift, -p.DriftBound), p.DriftBound)
}

// explained is the least and the greatest drift of a phone that shows the password of step s at server time now.
func (p Policy) explained(now time.Time, s uint64) (lowest, highest time.Duration) {
	begin := time.UnixMilli(int64(s) * p.Period.Milliseconds())
	lowest = begin.Sub(now.Truncate(time.Millisecond))
	return lowest, lowest + p.Validity - time.Millisecond
}

// step is the time step of t (RFC 6238 section 4.2, T0 = 0), also before 1970.
func (p Policy) step(t time.Time) int64 {
	ms, period := t.UnixMilli(), p.Period.Milliseconds()
	q := ms / period
	if ms%period < 0 {
		q--
	}
	return q
}

func span(first, last uint64) []uint64 {
	if last < first {
		return nil
	}
	factors := make([]uint64, 0, last-first+1)
	for f := first; f <= last; f++ {
		factors = append(factors, f)
		if f == last { // also ends at the largest uint64
			break
		}
	}
	return factors
}

func distance(s uint64, expected int64) int {
	d := int64(s) - expected
	return int(max(d, -d))
}

// Fence is the lowest time step of which no password can have been accepted until server time now, whatever was learnt of
// the phone's clock: none begins before now, the most that a phone's clock may be ahead, and a password's validity.
// Resynchronising reaches no further: there too the later password must come from a clock within DriftBound.
func (p Policy) Fence(now time.Time) uint64 {
	return uint64(max(p.step(now.Add(p.DriftBound+p.Validity-time.Millisecond))+1, 0))
}
