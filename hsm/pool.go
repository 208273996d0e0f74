package hsm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// Backing off from a busy module: the first wait, doubled each time, with jitter.
const (
	busyTries     = 6
	busyFirstWait = 2 * time.Millisecond
)

// pool lends sessions of one generation. The pool, not the borrower, decides from the returned CKR what becomes of a
// session. Sessions are opened when first wanted and not probed.
type pool struct {
	g     *generation
	what  string // for errors
	flags uint
	owner bool // its sessions own seeds: they are never closed but with the generation

	slots chan *session // a nil is the right to open one

	mu       sync.Mutex // guards what follows; never held during a call into the module
	all      map[*session]struct{}
	withheld int       // slots taken away because the module was busy
	shrunk   time.Time // when the last one was
}

func newPool(g *generation, what string, size int, owner bool) *pool {
	p := &pool{g: g, what: what, owner: owner, slots: make(chan *session, size), all: map[*session]struct{}{}}
	p.flags = pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION
	if g.cfg.Profile.ReadOnlySessions {
		p.flags = pkcs11.CKF_SERIAL_SESSION
	}
	for range size {
		p.slots <- nil
	}
	return p
}

// withSession runs fn on a session, waiting for a free one as long as ctx allows; a call that runs cannot be cancelled.
// After a dead session fn is run once more on a fresh one; after "busy", again after a pause and on a smaller pool. So
// fn must be idempotent. The sessions of an owner pool are not replaced: their seeds died with them.
func (p *pool) withSession(ctx context.Context, fn func(*session) error) error {
	fresh, busy := false, 0
	for {
		err := p.once(ctx, fresh, fn)
		switch classify(err, p.g.cfg.Profile) {
		case classSession:
			if p.owner {
				return fmt.Errorf("%w: %w", errOwnerLost, err)
			}
			if fresh {
				return err
			}
			fresh = true
		case classBusy:
			if busy++; busy == busyTries {
				return err
			}
			p.g.stats.busyWaits.Add(1)
			if err := pause(ctx, busyFirstWait<<busy); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// once borrows a session, runs fn and gives the session back, or drops it.
func (p *pool) once(ctx context.Context, fresh bool, fn func(*session) error) error {
	s, err := p.borrow(ctx, fresh)
	if err != nil {
		return err
	}
	s.since.Store(time.Now().UnixNano())
	err = fn(s)
	s.since.Store(0)
	p.giveBack(s, err)
	return err
}

func (p *pool) borrow(ctx context.Context, fresh bool) (*session, error) {
	if ctx.Err() != nil {
		return nil, waitError(ctx, p.what)
	}
	var s *session
	select {
	case s = <-p.slots:
	case <-ctx.Done():
		return nil, waitError(ctx, p.what)
	}
	if s != nil && !fresh {
		return s, nil
	}
	if s != nil {
		p.close(s, true)
	}
	s, err := p.open()
	if err != nil {
		p.release(nil, classify(err, p.g.cfg.Profile))
		return nil, err
	}
	return s, nil
}

// giveBack keeps a session after success or a clean refusal, and closes it after anything else: an operation may still
// be active in it. A session that owns seeds is kept in any case; if it is dead, its generation ends.
func (p *pool) giveBack(s *session, err error) {
	c := classify(err, p.g.cfg.Profile)
	if keep := c == classOK || c == classRefusal; !keep && !p.owner {
		code, _ := ckr(err)
		p.close(s, code != pkcs11.CKR_SESSION_HANDLE_INVALID && code != pkcs11.CKR_SESSION_CLOSED)
		s = nil
	}
	p.release(s, c)
}

// release gives a slot back, or withholds it from a busy module as long as another one is left. Owner pools keep their
// size: they are small, and what their sessions own stays open anyway.
func (p *pool) release(s *session, c class) {
	p.mu.Lock()
	if c == classBusy && !p.owner && s == nil && p.withheld < cap(p.slots)-1 {
		p.withheld++
		p.shrunk = time.Now()
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.slots <- s
}

// grow gives one withheld slot back when the module has not been busy for a while.
func (p *pool) grow(now time.Time, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.withheld == 0 || now.Sub(p.shrunk) < after {
		return
	}
	p.withheld--
	p.shrunk = now
	p.slots <- nil
}

func (p *pool) open() (*session, error) {
	handle, err := p.g.handles.newSession(func() (pkcs11.SessionHandle, error) {
		return p.g.p.OpenSession(p.g.slot, p.flags)
	})
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	p.g.stats.sessionsOpened.Add(1)
	s := &session{p: p.g.p, handle: handle, handles: p.g.handles}
	p.mu.Lock()
	p.all[s] = struct{}{}
	p.mu.Unlock()
	return s, nil
}

// close forgets a session, and closes it if it may be alive. A dead one is left alone: its number may be another's now.
func (p *pool) close(s *session, alive bool) {
	p.mu.Lock()
	delete(p.all, s)
	p.mu.Unlock()
	p.g.handles.forgetSession(s.handle) // before the number can come again
	p.g.stats.sessionsDropped.Add(1)
	if alive {
		_ = p.g.p.CloseSession(s.handle) // whether it succeeds or not, nothing is left to do with it
	}
}

// closeAll closes every session. Only for a generation without leases.
func (p *pool) closeAll() {
	for _, s := range p.sessions() {
		p.close(s, true)
	}
}

func (p *pool) sessions() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*session, 0, len(p.all))
	for s := range p.all {
		all = append(all, s)
	}
	return all
}

// size is how many sessions the pool may have now; used is how many of them work.
func (p *pool) size() (size, used int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	size = cap(p.slots) - p.withheld
	return size, max(0, size-len(p.slots))
}

// pause waits for about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return waitError(ctx, "a busy HSM")
	}
}
