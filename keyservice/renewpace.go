package keyservice

import (
	"context"
	"time"
)

// Renewal says how fast stored data is brought to the active keys. Zero fields stand for the defaults.
type Renewal struct {
	PerSecond  int           // tokens a second, at most; 200
	SlowCommit time.Duration // a commit that takes longer makes the job rest; 50 ms
	Retry      time.Duration // after this, what could not be renewed is tried again; 10 minutes
}

func (r Renewal) withDefaults() Renewal {
	if r.PerSecond <= 0 {
		r.PerSecond = 200
	}
	if r.SlowCommit <= 0 {
		r.SlowCommit = 50 * time.Millisecond
	}
	if r.Retry <= 0 {
		r.Retry = 10 * time.Minute
	}
	return r
}

// chunk is how many are renewed before the job rests.
func (r *renewal) chunk() int { return min(max(r.limit.PerSecond/10, 1), renewChunk) }

func (r *renewal) measure(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took += took
	r.made++
}

// pause rests until as much time has passed as the chunk should take, and longer while commits are slow.
func (r *renewal) pause(ctx context.Context, renewed int, took time.Duration) error {
	wait := time.Duration(renewed)*time.Second/time.Duration(r.limit.PerSecond) - took
	wait = max(wait, r.resting())
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resting is how long to rest because of slow commits.
func (r *renewal) resting() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	each := r.took / time.Duration(max(r.made, 1))
	r.took, r.made = 0, 0
	if each <= r.limit.SlowCommit {
		r.rest = 0
	} else {
		r.rest = min(max(2*r.rest, each), maxRest)
	}
	return r.rest
}
