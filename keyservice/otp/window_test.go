package otp_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/otp"
)

// With time steps a resynchronisation tries exactly the steps s, none used up, whose successor s+1 some phone clock within
// the bound shows: (s+1)·P ≤ phone time < (s+1)·P + V. The search and what was learnt play no part.
func TestResyncPlanIsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(0, 4_000_000_000_000).Draw(t, "now"))
		current := uint64(now.UnixMilli() / p.Period.Milliseconds())
		next := rapid.Uint64Range(max(current, 20)-20, current+20).Draw(t, "next")
		slow, fast := now.Add(-p.DriftBound), now.Add(p.DriftBound)
		var want []uint64
		for s := max(current, 200) - 200; s < current+200; s++ {
			begin := time.UnixMilli(int64(s+1) * p.Period.Milliseconds())
			if s >= next && !begin.After(fast) && slow.Before(begin.Add(p.Validity)) {
				want = append(want, s)
			}
		}
		got := p.ResyncPlan(now, next)
		require.ElementsMatch(t, want, got)
		p.DriftSearch = 0
		require.Equal(t, got, p.ResyncPlan(now, next))
	})
}

// Two consecutive passwords of any clock within the bound are found: the second, made now, and the one before it.
func TestResyncFindsEveryClockWithinTheBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(1_000_000_000_000, 2_000_000_000_000).Draw(t, "now"))
		bound := int64(p.DriftBound / time.Millisecond)
		off := time.Duration(rapid.Int64Range(-bound, bound).Draw(t, "off")) * time.Millisecond
		second := uint64(now.Add(off).UnixMilli() / p.Period.Milliseconds())
		require.Contains(t, p.ResyncPlan(now, 0), second-1)
	})
}

func TestResyncPlanOfCounters(t *testing.T) {
	for _, p := range []otp.Policy{counted(), signing()} {
		p.LookAhead, p.ResyncAhead = 1, 3
		require.Equal(t, []uint64{7, 8, 9, 10}, p.ResyncPlan(time.Now(), 7))
		require.Empty(t, p.ResyncPlan(time.Now(), math.MaxUint64), "the counter does not wrap round")
	}
}

// Where all time steps are used up, none is tried again.
func TestResyncPlanAfterTheLastStep(t *testing.T) {
	require.Empty(t, timed().ResyncPlan(time.Now(), math.MaxUint64))
	require.Empty(t, timed().ResyncPlan(time.Now(), math.MaxUint64-1))
}

// Whatever was accepted until now, or could be as one of a pair, is of a step below the fence; the fence's own step begins no
// earlier than the drift bound and a validity from now.
func TestNothingAcceptedUntilNowPassesTheFence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := totps(t)
		now := time.UnixMilli(rapid.Int64Range(1_000_000_000_000, 2_000_000_000_000).Draw(t, "now"))
		bound := int64(p.DriftBound / time.Millisecond)
		drift := time.Duration(rapid.Int64Range(-bound, bound).Draw(t, "drift")) * time.Millisecond
		fence := p.Fence(now)
		for _, step := range p.Plan(now, drift, 0) {
			require.Less(t, step, fence)
		}
		for _, first := range p.ResyncPlan(now, 0) {
			require.Less(t, first+1, fence)
		}
		begin := time.UnixMilli(int64(fence) * p.Period.Milliseconds())
		require.False(t, begin.Before(now.Add(p.DriftBound+p.Validity)))
		require.True(t, begin.Add(-p.Period).Before(now.Add(p.DriftBound+p.Validity)))
	})
}
