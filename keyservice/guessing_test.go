package keyservice

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store/storetest"
)

const month = 30 * day

// perGuess is how likely one evaluated guess is right: three time steps may be acceptable (a minute of drift either side)
// and three challenges may wait, each with a password of six digits.
const perGuess = 6.0 / 1_000_000

// chance is how likely one of n evaluated guesses is right.
func chance(n int) float64 { return 1 - math.Pow(1-perGuess, float64(n)) }

// attack is what came of a month in which a stranger guesses without a pause, and a customer pays once a day.
type attack struct {
	evaluated int           // guesses that were looked at
	longest   time.Duration // that the customer had to wait for one payment
	locked    int           // days on which the customer found the use locked
	unlocks   bool          // a locked customer proves possession; else waits for the window
}

// run lets the stranger guess every interval. The customer waits as long as the service says and is then first.
func (a attack) run(interval time.Duration) attack {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	end, next, asked := now.Add(month), now.Add(12*time.Hour), time.Time{}
	var b budget
	for ; now.Before(end); now = now.Add(interval) {
		if !next.After(now) {
			b, next, asked = a.pay(b, next, asked)
		}
		if why, _ := b.gate(limits, now); why == "" {
			a.evaluated++
			b = b.miss(now)
		}
	}
	return a
}

// pay is the customer's payment at the time at; asked is when it was first tried, if it was. It returns the next time.
func (a *attack) pay(b budget, at, asked time.Time) (budget, time.Time, time.Time) {
	if asked.IsZero() {
		asked = at
	}
	why, wait := b.gate(limits, at)
	switch {
	case why == ReasonLocked && a.unlocks:
		a.locked++
		b, wait = b.forgiven(), 2*time.Minute // two passwords of a minute each
		a.longest = max(a.longest, at.Add(wait).Sub(asked))
	case why == ReasonLocked:
		a.locked++
	case why == ReasonThrottled:
		return b, at.Add(wait), asked
	default:
		a.longest = max(a.longest, at.Sub(asked))
		b = b.success()
	}
	return b, asked.Add(day), time.Time{}
}

// The numbers of the README: a million guesses in a month, at the pure policy. A customer who waits costs the stranger
// all but 100 guesses; one who proves possession each time the use is locked pays every day, and gives 100 more each time.
func TestAMillionGuessesInAMonth(t *testing.T) {
	t.Parallel()
	const interval = month / 1_000_000
	waits := attack{}.run(interval)
	require.Equal(t, 100, waits.evaluated)
	require.InDelta(t, 0.0006, chance(waits.evaluated), 0.000001)
	require.Equal(t, 27, waits.locked)
	require.Equal(t, 12*time.Minute, waits.longest.Round(time.Minute))

	unlocks := attack{unlocks: true}.run(interval)
	require.Equal(t, 7, unlocks.locked)
	require.LessOrEqual(t, unlocks.evaluated, 100*(1+unlocks.locked))
	require.InDelta(t, 0.0047, chance(unlocks.evaluated), 0.00005)
	require.Equal(t, 12*time.Minute, unlocks.longest.Round(time.Minute))
}

// 5,000 guesses for real, 20,000 in the long form, by every route at once, over a month of simulated time: what the pure policy says holds, none is
// right, and the customer pays every day within an hour and a few minutes.
func TestAMonthOfGuessesByEveryRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.optedIn(card(1), "second-pin")
	guesses := storetest.Scaled(5_000, 20_000)
	routes := []func(typed seed.Password) Reason{
		func(typed seed.Password) Reason { return w.try(p, typed).Reason },
		func(typed seed.Password) Reason { return w.verify(bySubject(card(1), typed)).Reason },
		func(typed seed.Password) Reason {
			_, err := w.challenged(coreBanking, card(1), nil)
			require.Contains(t, []Code{"", CodeChallengesPending}, codeOrNone(err))
			return w.verify(bySubject(card(1), typed)).Reason
		},
		func(typed seed.Password) Reason { return w.resync(p, typed, typed).Reason },
	}
	evaluated := make([]int, len(routes))
	next, longest, unlocks := w.clock.Now().Add(12*time.Hour), time.Duration(0), 0
	for i := range guesses {
		if !next.After(w.clock.Now()) {
			took, unlocked := w.pays(p)
			longest, unlocks, next = max(longest, took), unlocks+unlocked, next.Add(day)
		}
		route := i % len(routes)
		switch why := routes[route](p.wrong()); why {
		case ReasonMismatch:
			evaluated[route]++
		default:
			require.Contains(t, []Reason{ReasonThrottled, ReasonLocked}, why, "guess %d", i)
		}
		w.clock.add(month / time.Duration(guesses))
	}
	require.LessOrEqual(t, evaluated[0]+evaluated[1]+evaluated[2], limits.MaxMisses*(1+unlocks))
	require.LessOrEqual(t, evaluated[3], limits.MaxMisses*(1+unlocks))
	require.LessOrEqual(t, unlocks, 10)
	require.LessOrEqual(t, longest, limits.MaxDelay+5*time.Minute)
}

func codeOrNone(err error) Code {
	if err == nil {
		return ""
	}
	return CodeOf(err)
}

// pays is one payment of the customer, who waits as long as the service says, and when locked out proves possession, or
// goes to the branch if strangers locked that too. It returns how long that took, and how often the use was unlocked.
func (w *world) pays(p *phone) (took time.Duration, unlocks int) {
	began := w.clock.Now()
	for {
		v := w.verify(bySubject(card(1), p.at(p.factor())))
		switch v.Reason {
		case ReasonThrottled:
			w.clock.add(v.RetryAfter)
		case ReasonLocked:
			w.unlock(p)
			unlocks++
		default:
			require.True(w.t, v.Accepted, "%+v", v)
			return w.clock.Now().Sub(began), unlocks
		}
	}
}

func (w *world) unlock(p *phone) {
	first := p.at(p.factor())
	w.clock.add(time.Minute)
	if !w.resync(p, first, p.at(p.factor())).Accepted {
		_, err := w.Unlock(context.Background(), branch, p.serial)
		require.NoError(w.t, err)
	}
	w.clock.add(time.Minute)
}
