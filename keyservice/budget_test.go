package keyservice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var limits = GuessLimits{FreeMisses: 3, BaseDelay: 30 * time.Second, MaxDelay: time.Hour, WindowDays: 30, MaxMisses: 100}

func TestThreeMissesAreFreeThenDelaysDouble(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b budget
	for _, want := range []time.Duration{0, 0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute} {
		b = b.miss(now)
		why, wait := b.gate(limits, now)
		require.Equal(t, want, wait, "after %d misses", b.Run)
		require.Equal(t, want > 0, why == ReasonThrottled)
		now = now.Add(wait)
		why, _ = b.gate(limits, now)
		require.Empty(t, why, "the delay is over")
	}
	for range 60 {
		b = b.miss(now)
	}
	_, wait := b.gate(limits, now)
	require.Equal(t, limits.MaxDelay, wait, "delays stop growing")
}

func TestSuccessEndsTheDelayButGivesNoGuessBack(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b budget
	for range 5 {
		b = b.miss(now)
	}
	b = b.success()
	why, _ := b.gate(limits, now)
	require.Empty(t, why)
	require.Equal(t, 5, b.misses(limits, now))
}

func TestTheWindowLocksAndMovesOn(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b budget
	for range 100 {
		b = b.miss(now).success()
	}
	why, wait := b.gate(limits, now)
	require.Equal(t, ReasonLocked, why)
	require.Equal(t, 31*day-12*time.Hour, wait, "until the day of the misses leaves the window")
	why, _ = b.gate(limits, now.Add(wait-time.Second))
	require.Equal(t, ReasonLocked, why)
	why, _ = b.gate(limits, now.Add(wait))
	require.Empty(t, why)
}

func TestAClockSetBackForgivesNothing(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b budget
	for range 100 {
		b = b.miss(now).success()
	}
	why, _ := b.gate(limits, now.Add(-20*day))
	require.Equal(t, ReasonLocked, why)
}

// However guesses, successes and time are interleaved, no window of the given length ever holds more evaluated misses
// than the limit, the sequence never falls, and a run of misses beyond the free ones is never without a delay.
func TestNoWindowHoldsMoreMissesThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		var b budget
		var evaluated []time.Time
		for range rapid.IntRange(1, 400).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 8*3600).Draw(t, "seconds")) * time.Second)
			before := b
			if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
				b = b.success()
			} else if why, _ := b.gate(limits, now); why == "" {
				b = b.miss(now)
				evaluated = append(evaluated, now)
			}
			require.GreaterOrEqual(t, b.Sequence, before.Sequence)
			if b.Run >= limits.FreeMisses && b.Run > before.Run {
				why, wait := b.gate(limits, now)
				require.NotEmpty(t, why)
				require.Positive(t, wait)
			}
		}
		for i, first := range evaluated {
			n := 0
			for _, at := range evaluated[i:] {
				if at.Sub(first) < time.Duration(limits.WindowDays)*day {
					n++
				}
			}
			require.LessOrEqual(t, n, limits.MaxMisses)
		}
	})
}

func TestGuessLimitsValidate(t *testing.T) {
	require.NoError(t, limits.Validate())
	bad := map[string]func(*GuessLimits){
		"no free miss":       func(l *GuessLimits) { l.FreeMisses = 0 },
		"no delay":           func(l *GuessLimits) { l.BaseDelay = 0 },
		"longest below base": func(l *GuessLimits) { l.MaxDelay = time.Second },
		"no window":          func(l *GuessLimits) { l.WindowDays = 0 },
		"more than NIST":     func(l *GuessLimits) { l.MaxMisses = 101 },
		"fewer than free":    func(l *GuessLimits) { l.MaxMisses = 2 },
	}
	for name, spoil := range bad {
		l := limits
		spoil(&l)
		require.Error(t, l.Validate(), name)
	}
}

// A miss while the clock was ahead delays no longer than any other once the clock is right.
func TestAClockThatWasAheadDelaysNoLonger(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b budget
	b = b.miss(now.Add(365 * day))
	why, _ := b.gate(limits, now)
	require.Empty(t, why, "one miss causes no delay")
	for range 3 {
		b = b.miss(now.Add(365 * day))
	}
	why, wait := b.gate(limits, now)
	require.Equal(t, ReasonThrottled, why)
	require.Equal(t, time.Minute, wait)
}
