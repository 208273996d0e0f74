package hsm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// generation is everything that was learnt from the module since the last login: sessions, key handles, seed handles.
// Whoever uses any of it holds a lease. Nothing of it outlives it: after C_Finalize and C_Initialize SoftHSM hands out
// the same numbers again, and a stale pair then signs, with CKR_OK, with another customer's seed.
type generation struct {
	number uint64
	cfg    *Config
	stats  *counters
	p      *pkcs11.Ctx
	slot   uint
	keys   atomic.Pointer[keyring] // written before the generation serves anything, then with HSM.mu held

	answers []KnownAnswer // of the keys it must have

	workers *pool // everything but unwrapping seeds and signing
	signers *pool // signs checkpoints
	writers *pool // changes what the HSM keeps for good
	owners  *pool // unwraps seeds, and keeps them alive
	seeds   *seedCache

	handles *handles
	unclear atomic.Int32 // failures in a row without a clear cause

	mu      sync.Mutex // guards what follows; never held during a call into the module
	leases  int
	ending  bool          // no new leases but by holders of one
	drained chan struct{} // closed at zero leases once ending
}

func newGeneration(number uint64, cfg *Config, st *counters, p *pkcs11.Ctx, slot uint) (*generation, error) {
	g := &generation{number: number, cfg: cfg, stats: st, p: p, slot: slot,
		handles: newHandles(), drained: make(chan struct{})}
	g.workers = newPool(g, "an HSM session", cfg.PoolSessions, false)
	g.signers = newPool(g, "an HSM session that signs", cfg.SignSessions, false)
	g.writers = newPool(g, "an HSM session that writes", 1, false)
	g.writers.flags |= pkcs11.CKF_RW_SESSION
	g.keys.Store(new(newKeyring()))
	g.owners = newPool(g, "an HSM session that unwraps", cfg.OwnerSessions, true)
	var err error
	if g.seeds, err = newSeedCache(g, cfg.SeedCache); err != nil {
		return nil, fmt.Errorf("seed cache: %w", err)
	}
	return g, nil
}

// ring is the master keys as of now. A caller that needs several of them takes it once.
func (g *generation) ring() *keyring { return g.keys.Load() }

// pools are all the generation's sessions.
func (g *generation) pools() []*pool { return []*pool{g.owners, g.signers, g.writers, g.workers} }

// acquire takes a lease; false if the generation is ending.
func (g *generation) acquire() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending {
		return false
	}
	g.leases++
	return true
}

// retain takes one more lease for the holder of one.
func (g *generation) retain() {
	g.mu.Lock()
	g.leases++
	g.mu.Unlock()
}

func (g *generation) release() {
	g.mu.Lock()
	g.leases--
	if g.ending && g.leases == 0 {
		close(g.drained)
	}
	g.mu.Unlock()
}

// end stops new leases; drained is closed when the last one is given back.
func (g *generation) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending {
		return
	}
	g.ending = true
	if g.leases == 0 {
		close(g.drained)
	}
}

func (g *generation) leased() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leases
}

// hmac makes one MAC on any free session.
func (g *generation) hmac(ctx context.Context, key pkcs11.ObjectHandle, h seed.Hash, message []byte) ([]byte, error) {
	var sum []byte
	err := g.workers.withSession(ctx, func(s *session) (err error) {
		sum, err = s.hmac(key, h, message)
		return err
	})
	g.stats.macs.Add(1)
	return sum, err
}

// unwrapSeed unwraps a seed for verification in an owner session.
func (g *generation) unwrapSeed(ctx context.Context, w seed.Wrapped, hash seed.Hash) (pkcs11.ObjectHandle, error) {
	key, err := g.ring().get(w.Key)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CallTimeout)
	defer cancel()
	var handle pkcs11.ObjectHandle
	err = g.owners.withSession(ctx, func(s *session) (err error) {
		handle, err = s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, verifyTemplate(hash, len(w.Blob)-8, g.cfg.Profile))
		return err
	})
	g.stats.unwraps.Add(1)
	return handle, blobError(err, g.cfg.Profile)
}

// destroySeed destroys a seed nobody holds. When it fails the object stays, unreachable, until the generation ends.
func (g *generation) destroySeed(handle pkcs11.ObjectHandle) {
	if g.handles.incoherent() {
		return // the number may be another seed's now
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.CallTimeout)
	defer cancel()
	err := g.workers.withSession(ctx, func(s *session) error { return s.destroy(handle, "an unwrapped seed") })
	if err != nil {
		g.stats.destroyFailures.Add(1)
		g.cfg.Log.Warn("an unwrapped seed could not be destroyed; it goes with its session", "err", err)
	}
}

// worn says that the module leaked enough for C_Finalize to be due.
func (g *generation) worn() bool {
	limit := g.cfg.Profile.RecycleAfter
	return limit > 0 && g.handles.destroyed.Load() >= limit
}

// longest is how long the longest running use of a session has been going on.
func (g *generation) longest(now time.Time) time.Duration {
	var most time.Duration
	for _, p := range g.pools() {
		for _, s := range p.sessions() {
			most = max(most, s.running(now))
		}
	}
	return most
}

// closeSessions closes all sessions, and with them every seed. Only without leases.
func (g *generation) closeSessions() {
	for _, p := range g.pools() {
		p.closeAll()
	}
}
