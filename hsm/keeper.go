package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"ramzban/keyservice/seed"
)

// change says how a generation is replaced; a higher one includes the lower.
type change int

const (
	changeNone    change = iota
	changeHandles        // close our sessions, log in, find the keys again
	changeModule         // finalise and initialise the module before that
)

// failuresInARow of no clear cause are taken for a lost device.
const failuresInARow = 5

// tick is how often the keeper looks for hung calls.
const tick = time.Second

func newBreaker(cfg *Config) *gobreaker.CircuitBreaker[*generation] {
	return gobreaker.NewCircuitBreaker[*generation](gobreaker.Settings{
		Name: "hsm", Timeout: cfg.ReopenInterval,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures > 0 },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			cfg.Log.Info("HSM breaker", "from", from.String(), "to", to.String())
		},
	})
}

// react ends the generation if the outcome of an operation says so. The caller holds a lease on g.
func (h *HSM) react(g *generation, c class, cause error) {
	switch c {
	case classOK, classRefusal:
		g.unclear.Store(0)
		if g.worn() && h.withdraw(g, changeModule) {
			h.stats.recycled.Add(1)
		}
	case classLogin:
		h.lose(g, changeHandles, &h.stats.loginsLost, "the HSM login was lost", cause)
	case classHandle:
		h.lose(g, changeHandles, &h.stats.handlesLost, "HSM handles were lost", cause)
	case classDevice:
		h.lose(g, changeModule, &h.stats.devicesLost, "the HSM was lost", cause)
	case classPIN:
		h.latch(cause)
	case classOther:
		if g.unclear.Add(1) >= failuresInARow {
			h.lose(g, changeModule, &h.stats.devicesLost, "the HSM fails again and again", cause)
		}
	}
}

// withdraw makes g the generation to be replaced, or raises how; true if g was the current one. New operations wait.
func (h *HSM) withdraw(g *generation, how change) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.current == g
	if first {
		h.current, h.ended, h.change = nil, g, how
		g.end()
		h.wake <- struct{}{} // never blocks: there was a current generation, so the keeper is idle
	} else if h.ended == g {
		h.change = max(h.change, how)
	}
	return first
}

func (h *HSM) lose(g *generation, how change, count *atomic.Uint64, what string, cause error) {
	if h.withdraw(g, how) {
		count.Add(1)
		h.cfg.Log.Warn(what, "generation", g.number, "err", cause)
	}
}

// latch takes the HSM down until the process is restarted.
func (h *HSM) latch(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latched {
		return
	}
	h.latched, h.down = true, cause
	h.announce()
	h.cfg.Log.Error("the HSM is down until this is repaired and the process restarted", "err", cause)
}

// announce wakes those who wait for a generation. Called with mu held.
func (h *HSM) announce() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// keep is the keeper's goroutine: the only one that initialises, logs in and finalises after Open.
func (h *HSM) keep() {
	defer close(h.closed)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-h.wake:
			h.replace()
		case now := <-ticker.C:
			h.watch(now)
		case <-h.stop:
			h.shutDown()
			return
		}
	}
}

// watch ends a generation in which a call hangs, and lets pools shrunk by a busy module grow again.
func (h *HSM) watch(now time.Time) {
	h.mu.Lock()
	g := h.current
	h.mu.Unlock()
	if g == nil {
		return
	}
	g.workers.grow(now, 10*tick)
	g.signers.grow(now, 10*tick)
	if d := g.longest(now); d > h.cfg.CallTimeout {
		h.lose(g, changeModule, &h.stats.devicesLost, "a call into the HSM hangs", fmt.Errorf("for %v", d.Round(time.Second)))
	}
}

// drain waits until nobody uses g. After the deadline the module can neither be used nor finalised: Fatal.
func (h *HSM) drain(g *generation) error {
	t := time.NewTimer(h.cfg.DrainTimeout)
	defer t.Stop()
	select {
	case <-g.drained:
		return nil
	case <-t.C:
	}
	return h.hung(fmt.Errorf("%d calls into the HSM did not end within %v", g.leased(), h.cfg.DrainTimeout))
}

func (h *HSM) hung(cause error) error {
	err := fmt.Errorf("%w: %w: the process must be restarted", seed.ErrUnavailable, cause)
	h.latch(err)
	h.fatal.Do(func() { h.cfg.Fatal(err) })
	return err
}

// replace drains the ended generation and makes the next one, trying until it succeeds, is latched or closed. Between
// tries the breaker is open and operations fail at once.
func (h *HSM) replace() {
	h.mu.Lock()
	old := h.ended
	h.mu.Unlock()
	if h.drain(old) != nil {
		return
	}
	for {
		_, err := h.breaker.Execute(func() (*generation, error) { return h.next(old) })
		if err == nil {
			return
		}
		if classify(err, h.cfg.Profile) == classPIN {
			h.latch(err)
			return
		}
		h.fail(err)
		select {
		case <-time.After(h.cfg.ReopenInterval + time.Millisecond): // the breaker is half-open by then
		case <-h.stop:
			return
		}
	}
}

// fail lets operations fail at once until a generation can be had.
func (h *HSM) fail(err error) {
	h.stats.reopenBad.Add(1)
	h.cfg.Log.Error("the HSM cannot be used", "err", err, "again_in", h.cfg.ReopenInterval)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.latched {
		h.down = err
		h.announce()
	}
}

// errFlapping paces generation changes when a module initialised anew fails as soon as it is used.
var errFlapping = errors.New("the HSM fails as soon as it is used")

// changesInARow of the module within one ReopenInterval are made at once; the next one waits.
const changesInARow = 5

func (h *HSM) flapping(old *generation, how change) bool {
	if how != changeModule || old.worn() || time.Since(h.begun) >= h.cfg.ReopenInterval {
		h.quick = 0
		return false
	}
	h.quick++
	return h.quick > changesInARow
}

// next makes the generation after old and announces it. A failed attempt leaves the module to be finalised.
func (h *HSM) next(old *generation) (*generation, error) {
	h.mu.Lock()
	how := h.change
	h.change = changeModule // should this attempt fail, the next one starts from scratch
	h.mu.Unlock()
	if h.flapping(old, how) {
		return nil, errFlapping
	}
	defer time.AfterFunc(h.cfg.DrainTimeout, func() { _ = h.hung(errors.New("reopening the HSM did not end")) }).Stop()
	old.closeSessions()
	g, err := h.reopen(old, how)
	if err != nil {
		return nil, err
	}
	h.begun = time.Now()
	if err := h.begin(g); err != nil {
		g.closeSessions()
		return nil, err
	}
	h.cfg.Log.Info("HSM generation begins", "generation", g.number)
	return g, nil
}

// begin makes g the current generation.
func (h *HSM) begin(g *generation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latched {
		return h.down
	}
	if err := g.activate(h.using); err != nil {
		return err
	}
	h.current, h.ended, h.down = g, nil, nil
	h.announce()
	return nil
}

// reopen makes a generation on the module as it is, or, if that fails or is not enough, on the module initialised anew.
func (h *HSM) reopen(old *generation, how change) (*generation, error) {
	ctx := context.Background()
	if how == changeHandles {
		g, err := h.logIn(ctx, old.number+1, old.slot, true)
		if c := classify(err, h.cfg.Profile); c == classOK || c == classPIN {
			return g, err
		}
		h.cfg.Log.Warn("logging in was not enough; the HSM module is initialised anew", "err", err)
	}
	if err := h.module.finalise(); err != nil {
		h.cfg.Log.Warn("HSM module", "err", err) // initialise tries again
	}
	return h.openGeneration(ctx, old.number+1)
}

// openGeneration initialises the module, finds the token by its label and makes a generation of it.
func (h *HSM) openGeneration(ctx context.Context, number uint64) (*generation, error) {
	slot, err := h.module.initialise()
	if err != nil {
		return nil, err
	}
	return h.logIn(ctx, number, slot, false)
}

// logIn makes a generation on the initialised module: login if crypto11 has not just done it, keys, self-check.
func (h *HSM) logIn(ctx context.Context, number uint64, slot uint, login bool) (*generation, error) {
	g, err := newGeneration(number, h.cfg, h.stats, h.module.p, slot)
	if err != nil {
		return nil, err
	}
	g.answers = h.knownAnswers()
	err = g.workers.withSession(ctx, func(s *session) error {
		if login {
			if err := h.module.login(s); err != nil {
				return err
			}
		}
		return g.learnKeys(s)
	})
	if err == nil {
		err = g.selfCheck(ctx)
	}
	if err != nil {
		g.closeSessions()
		return nil, err
	}
	return g, nil
}

// shutDown ends the last generation and finalises the module, unless calls hang in it.
func (h *HSM) shutDown() {
	h.mu.Lock()
	g := h.current
	if g == nil {
		g = h.ended
	}
	h.current, h.ended, h.latched, h.down = nil, g, true, errClosed
	h.announce()
	h.mu.Unlock()
	defer h.module.unload()
	g.end()
	if h.closing = h.drain(g); h.closing == nil {
		g.closeSessions()
		h.closing = h.module.finalise()
	}
}
