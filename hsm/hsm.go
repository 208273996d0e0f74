// Package hsm is the HSM in domain words: seeds are born, wrapped and used for MACs in it; records are sealed, codes and
// pseudonyms made, small secrets encrypted. It is the only importer of miekg/pkcs11 and crypto11. It satisfies the key
// service's HSM interface in terms of package seed's types.
//
// It must not know what a token, a password or a policy is, nor any store or transport.
//
// crypto11 initialises the module, logs in and finalises it; everything else goes through sessions of our own. Everything
// learnt from the module belongs to a generation (generation.go); the keeper (keeper.go) replaces the generation when
// the module, the login or the handles are lost, and every operation holds a lease on the one it uses.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"ramzban/keyservice/seed"
)

// HSM is an opened HSM. Its methods are safe for concurrent use. Each may fail with seed.ErrUnavailable; an operation
// that met a lost session, login or device has been tried again by then.
type HSM struct {
	cfg     *Config
	module  *module
	stats   *counters
	breaker *gobreaker.CircuitBreaker[*generation]

	wake   chan struct{} // tells the keeper that a generation has ended; capacity 1
	stop   chan struct{} // closed by Close
	closed chan struct{} // closed by the keeper when the module is finalised
	once   sync.Once
	fatal  sync.Once

	changing chan struct{} // held by the one caller that changes the keys of a generation; capacity 1

	// The keeper's own.
	begun   time.Time // when the current generation began, if it is not the first
	quick   int       // changes that followed each other within ReopenInterval
	closing error     // what Close returns; set before closed

	mu      sync.Mutex // guards what follows; never held during a call into the module
	current *generation
	ended   *generation            // withdrawn, still to be replaced by the keeper
	change  change                 // how
	down    error                  // why no generation can be had now; nil while one is, or is being made
	latched bool                   // down for good
	changed chan struct{}          // closed and replaced whenever current or down changes
	using   map[string]seed.KeyRef // what Use said, by label
	answers []KnownAnswer          // of all keys in use; never changed in place
}

// errClosed is what operations get after Close.
var errClosed = errors.New("the HSM is closed")

// Open loads the module, logs in to the labelled token, finds and checks the master keys and runs the self-check. Its
// errors are one line and say what to do; ErrPIN is in that of a refused PIN. Close must be called before the same module is opened again.
//
// A call into a module cannot be cancelled: when ctx ends while one hangs, Open returns seed.ErrUnavailable and leaves
// the call behind. The process should exit then: until the call returns, if ever, the module cannot be opened again.
func Open(ctx context.Context, config Config) (*HSM, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, waitError(ctx, "the HSM to be opened")
	}
	type result struct {
		h   *HSM
		err error
	}
	opened, abandoned := make(chan result), make(chan struct{})
	go func() {
		h, err := open(ctx, cfg)
		select {
		case opened <- result{h, err}:
		case <-abandoned:
			if h != nil {
				_ = h.Close() // nobody is left to be told
			}
		}
	}()
	select {
	case r := <-opened:
		return r.h, r.err
	case <-ctx.Done():
		close(abandoned)
		return nil, waitError(ctx, "the HSM to be opened: a call into its module has not returned")
	}
}

func open(ctx context.Context, cfg Config) (*HSM, error) {
	m, err := loadModule(&cfg)
	if err != nil {
		return nil, err
	}
	h := &HSM{cfg: &cfg, module: m, stats: &counters{}, changed: make(chan struct{}), changing: make(chan struct{}, 1), answers: cfg.KnownAnswers,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), closed: make(chan struct{})}
	h.breaker = newBreaker(&cfg)
	h.current, err = h.openGeneration(ctx, 1)
	if err != nil {
		err = also(err, m.finalise())
		m.unload()
		return nil, err
	}
	go h.keep()
	return h, nil
}

// Close ends the current generation, waits for calls in progress and finalises the module. When calls hang it gives up
// and says so; the module is then not finalised.
func (h *HSM) Close() error {
	h.once.Do(func() { close(h.stop) })
	t := time.NewTimer(2*h.cfg.DrainTimeout + h.cfg.CallTimeout)
	defer t.Stop()
	select {
	case <-h.closed:
		return h.closing
	case <-t.C:
		return errors.New("close the HSM: calls into the module hang")
	}
}

// Ready says whether the HSM can be used now: it makes one MAC. The error says why not.
func (h *HSM) Ready(ctx context.Context) error {
	_, err := h.mac(ctx, labelSeal, purposeReady)
	return err
}

// lease returns the current generation with a lease on it. During a change it waits for the next; while the HSM is
// known to be lost it fails at once.
func (h *HSM) lease(ctx context.Context) (*generation, error) {
	for {
		h.mu.Lock()
		g, down, changed := h.current, h.down, h.changed
		h.mu.Unlock()
		if down != nil { // as text: a key not found while reopening says nothing of the key that this call wants
			return nil, fmt.Errorf("%w: %v", seed.ErrUnavailable, down)
		}
		if g != nil && g.acquire() {
			return g, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, waitError(ctx, "the HSM to come back")
		}
	}
}

// run runs op on the current generation, and once more on the next one for each thing that may be lost: the login, the
// handles, the device. op must be idempotent. The error is in terms of package seed.
func (h *HSM) run(ctx context.Context, op func(*generation) error) error {
	tried := map[class]bool{}
	for {
		g, err := h.lease(ctx)
		if err != nil {
			return err
		}
		c, err := h.attempt(ctx, g, op)
		if retry := c == classLogin || c == classHandle || c == classDevice; !retry || tried[c] {
			return h.finish(c, err)
		}
		tried[c] = true
	}
}

// attempt runs op on a leased generation, gives the lease back and says what became of it.
func (h *HSM) attempt(ctx context.Context, g *generation, op func(*generation) error) (class, error) {
	defer g.release()
	err := op(g)
	if err == nil {
		err = g.handles.settle(ctx)
	}
	c := classify(err, h.cfg.Profile)
	h.react(g, c, err)
	return c, err
}

func (h *HSM) finish(c class, err error) error {
	if c == classOK {
		return nil
	}
	h.stats.failures.Add(1)
	return outage(err)
}
