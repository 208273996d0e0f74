package hsm

import (
	"sync/atomic"
	"time"
)

// counters only go up, over all generations.
type counters struct {
	macs, unwraps, enrolments        atomic.Uint64
	signatures                       atomic.Uint64
	seedHits, seedMisses             atomic.Uint64
	sessionsOpened, sessionsDropped  atomic.Uint64
	busyWaits, failures              atomic.Uint64
	destroyFailures                  atomic.Uint64
	loginsLost, handlesLost          atomic.Uint64
	devicesLost, recycled, reopenBad atomic.Uint64
}

// Stats is a picture of the HSM's work for metrics. Counters only go up and survive generation changes.
type Stats struct {
	Ready      bool   // there is a generation to work with
	Down       string // why not; empty while ready or changing
	Latched    bool   // down until the process is restarted: a refused PIN, or a hung module
	Generation uint64 // number of the current, or last, generation; the first is 1
	Breaker    string // "closed", "open" or "half-open": whether reopening is being tried
	Leases     int    // operations in progress

	CachedSeeds   int // seeds unwrapped in the HSM, pinned ones included
	SeedCacheSize int // most seeds kept

	PoolSessions, PoolInUse   int // allowed now (less than configured while the HSM is busy), and working
	OwnerSessions, OwnerInUse int
	LongestCall               time.Duration // how long the longest call in progress has been running
	DestroyedObjects          uint64        // session objects destroyed in this generation

	MACs, Unwraps, Enrolments       uint64 // calls, failed ones included
	Signatures                      uint64
	SeedHits, SeedMisses            uint64
	SessionsOpened, SessionsDropped uint64
	BusyWaits                       uint64 // pauses because the HSM was busy
	Failures                        uint64 // operations that failed, bad blobs included
	DestroyFailures                 uint64
	LoginsLost, HandlesLost         uint64 // generation changes by cause
	DevicesLost, Recycled           uint64
	ReopenFailures                  uint64 // failed attempts to make a generation
}

// Stats returns the present figures. It never calls the module.
func (h *HSM) Stats() Stats {
	h.mu.Lock()
	g, last, down, latched := h.current, h.ended, h.down, h.latched
	h.mu.Unlock()
	s := h.stats.snapshot()
	s.Ready, s.Latched, s.Breaker = g != nil && down == nil, latched, h.breaker.State().String()
	s.SeedCacheSize = h.cfg.SeedCache
	if down != nil {
		s.Down = down.Error()
	}
	if g == nil {
		g = last
	}
	if g != nil {
		g.fill(&s)
	}
	return s
}

func (g *generation) fill(s *Stats) {
	s.Generation, s.Leases, s.CachedSeeds = g.number, g.leased(), g.seeds.len()
	s.PoolSessions, s.PoolInUse = g.workers.size()
	s.OwnerSessions, s.OwnerInUse = g.owners.size()
	s.LongestCall, s.DestroyedObjects = g.longest(time.Now()), g.handles.destroyed.Load()
}

func (c *counters) snapshot() Stats {
	return Stats{
		MACs: c.macs.Load(), Unwraps: c.unwraps.Load(), Enrolments: c.enrolments.Load(),
		Signatures: c.signatures.Load(),
		SeedHits:   c.seedHits.Load(), SeedMisses: c.seedMisses.Load(),
		SessionsOpened: c.sessionsOpened.Load(), SessionsDropped: c.sessionsDropped.Load(),
		BusyWaits: c.busyWaits.Load(), Failures: c.failures.Load(), DestroyFailures: c.destroyFailures.Load(),
		LoginsLost: c.loginsLost.Load(), HandlesLost: c.handlesLost.Load(), DevicesLost: c.devicesLost.Load(),
		Recycled: c.recycled.Load(), ReopenFailures: c.reopenBad.Load(),
	}
}
