package keyservice

import (
	"context"
	"fmt"
	"time"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// GuessLimits bounds guessing: how soon misses make a customer wait, and how many guesses are looked at in a window
// (RFC 4226 section 7.3; NIST SP 800-63B allows at most 100 consecutive failures).
type GuessLimits struct {
	FreeMisses int           `cbor:"1,keyasint"` // misses in a row after which a delay begins
	BaseDelay  time.Duration `cbor:"2,keyasint"` // the first delay; doubles with each further miss
	MaxDelay   time.Duration `cbor:"3,keyasint"` // the longest delay
	WindowDays int           `cbor:"4,keyasint"` // length of the window in days of 24 hours, UTC
	MaxMisses  int           `cbor:"5,keyasint"` // misses within the window after which the subject and use are locked
}

// Validate says what is wrong with the limits.
func (l GuessLimits) Validate() error {
	switch {
	case l.FreeMisses < 1 || l.FreeMisses > 10:
		return fmt.Errorf("free_misses must be between 1 and 10, not %d", l.FreeMisses)
	case l.BaseDelay < time.Second:
		return fmt.Errorf("base_delay must be at least 1s, not %v", l.BaseDelay)
	case l.MaxDelay < l.BaseDelay || l.MaxDelay > 24*time.Hour:
		return fmt.Errorf("max_delay must be between base_delay (%gs) and 86400s, not %gs", l.BaseDelay.Seconds(), l.MaxDelay.Seconds())
	case l.WindowDays < 1 || l.WindowDays > maxWindow:
		return fmt.Errorf("window_days must be between 1 and %d, not %d", maxWindow, l.WindowDays)
	case l.MaxMisses < l.FreeMisses || l.MaxMisses > 100:
		return fmt.Errorf("max_misses must be between free_misses (%d) and 100 (NIST SP 800-63B), not %d", l.FreeMisses, l.MaxMisses)
	}
	return nil
}

// budget is the guess budget of one subject and use, over all of the subject's tokens. On disk it is CBOR with these
// integer keys under the state MAC. Successes end the run of misses but give no guess of the window back.
type budget struct {
	Schema   uint8          `cbor:"0,keyasint"`
	Sequence uint64         `cbor:"1,keyasint"` // grows with every change
	Run      int            `cbor:"2,keyasint"` // misses since the last success
	LastMiss int64          `cbor:"3,keyasint"` // Unix milliseconds
	Days     map[uint32]int `cbor:"4,keyasint"` // misses by day since 1970, UTC; only days of the longest window
}

const day = 24 * time.Hour

// resyncUse is the use under which a subject's tries to resynchronise are counted. No configured use has a slash.
const resyncUse = "/resync"

// gate says whether a guess may be looked at now; if not, why and for how long.
func (b budget) gate(l GuessLimits, now time.Time) (Reason, time.Duration) {
	if b.misses(l, now) >= l.MaxMisses {
		return ReasonLocked, b.unlocks(l, now)
	}
	delay := b.delay(l)
	wait := min(delay-now.Sub(time.UnixMilli(b.LastMiss)), delay) // never longer, though the clock was ahead then
	if wait > 0 {
		return ReasonThrottled, wait
	}
	return "", 0
}

// delay is how long after the last miss the next guess is looked at.
func (b budget) delay(l GuessLimits) time.Duration {
	over := b.Run - l.FreeMisses
	if over < 0 {
		return 0
	}
	delay := l.BaseDelay
	for range over {
		if delay = 2 * delay; delay >= l.MaxDelay {
			return l.MaxDelay
		}
	}
	return delay
}

// maxWindow is the longest window there may be. Misses are kept that long, whatever the limits of a token: another token of
// the subject may have others.
const maxWindow = 90

// miss counts one evaluated guess that matched nothing.
func (b budget) miss(now time.Time) budget {
	today := dayOf(now)
	days := map[uint32]int{today: 1}
	for d, n := range b.Days {
		if inWindow(d, GuessLimits{WindowDays: maxWindow}, today) {
			days[d] += n
		}
	}
	return budget{Sequence: b.Sequence + 1, Run: b.Run + 1, LastMiss: now.UnixMilli(), Days: days}
}

// success ends the run of misses.
func (b budget) success() budget {
	b.Sequence++
	b.Run = 0
	return b
}

// forgiven is the budget of a customer who proved possession, or whom an issuer unlocked.
func (b budget) forgiven() budget { return budget{Sequence: b.Sequence + 1} }

func (b budget) misses(l GuessLimits, now time.Time) int {
	total := 0
	for d, n := range b.Days {
		if inWindow(d, l, dayOf(now)) {
			total += n
		}
	}
	return total
}

// unlocks is how long until enough days have left the window.
func (b budget) unlocks(l GuessLimits, now time.Time) time.Duration {
	for ahead := 1; ahead <= l.WindowDays+1; ahead++ {
		then := now.Truncate(day).Add(time.Duration(ahead) * day)
		if b.misses(l, then) < l.MaxMisses {
			return then.Sub(now)
		}
	}
	return time.Duration(l.WindowDays+1) * day
}

func dayOf(t time.Time) uint32 { return uint32(t.Unix() / int64(day/time.Second)) }

// inWindow counts whole days, the oldest one too of which only a part lies in the window, so that no WindowDays times 24
// hours ever hold more. It also keeps days after today: a clock that was set back forgives nothing.
func inWindow(d uint32, l GuessLimits, today uint32) bool { return d+uint32(l.WindowDays) >= today }

// loadBudget reads the guess budget of a subject and use. A budget that must be there and is not was deleted: *tampered.
func (s *Service) loadBudget(ctx context.Context, subject seed.MACed, use string, must bool) (budget, store.Item, error) {
	items, err := s.get(ctx, budgetKey(subject, use))
	if err != nil {
		return budget{}, store.Item{}, storeError(err)
	}
	if items[0].Version == 0 && !must {
		return budget{}, items[0], nil
	}
	b, err := unmac[budget](s, items[0], "guess budget")
	return b, items[0], err
}

func (s *Service) budgetRow(subject seed.MACed, use string, b budget) (store.Put, error) {
	if err := s.ring.Load().writable(subject.Key); err != nil {
		return store.Put{}, err
	}
	b.Schema = schema
	return s.mac(budgetKey(subject, use), b)
}
