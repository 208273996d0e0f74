package pgstore

import (
	"sync/atomic"
	"time"
)

// Stats are figures of an open store, for metrics.
type Stats struct {
	MaxConns  int // connections for reading allowed
	Conns     int // open
	ConnsUsed int // at work
	// Waits is how often a read had to wait for a connection, Waited for how long in all.
	Waits  int64
	Waited time.Duration

	Committed int64         // transactions of which it was first not known, and then found out, that they were committed
	Voided    int64         // the same, that they were not and never will be
	Resolving time.Duration // what finding that out took in all
	Unknown   time.Duration // for how long it has not been known what became of the present transaction, since its COMMIT was sent; 0: it is known
}

// unknowns counts how transactions ended of which that was not known at first.
type unknowns struct {
	committed, voided, nanoseconds atomic.Int64
	since                          atomic.Pointer[time.Time] // COMMIT of the present one was sent; nil: none
}

// begin takes note that COMMIT is sent: from then on it is not known.
func (u *unknowns) begin() {
	began := time.Now()
	u.since.Store(&began)
}

// known takes note that COMMIT has answered, or that nobody waits any more.
func (u *unknowns) known() { u.since.Store(nil) }

// found takes note of what was found out.
func (u *unknowns) found(void bool, took time.Duration) {
	u.nanoseconds.Add(took.Nanoseconds())
	if void {
		u.voided.Add(1)
	} else {
		u.committed.Add(1)
	}
}

// Stats may be called at any time, also after Close.
func (s *Store) Stats() Stats {
	pool, u := s.reads.pool.Stat(), &s.commits.unknowns
	stats := Stats{
		MaxConns: int(pool.MaxConns()), Conns: int(pool.TotalConns()), ConnsUsed: int(pool.AcquiredConns()),
		Waits: pool.EmptyAcquireCount(), Waited: pool.EmptyAcquireWaitTime(),
		Committed: u.committed.Load(), Voided: u.voided.Load(), Resolving: time.Duration(u.nanoseconds.Load()),
	}
	if since := u.since.Load(); since != nil {
		stats.Unknown = time.Since(*since)
	}
	return stats
}
