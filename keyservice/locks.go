package keyservice

import (
	"context"
	"slices"
	"sync"
)

// serialLocks serialises decisions about one token. A lock exists only while somebody holds or awaits it. The zero
// value is ready. Locks save work; it is the commit's preconditions that keep decisions right.
type serialLocks struct {
	mu   sync.Mutex // held only to look at the map, never while waiting for a lock
	held map[string]*serialLock
}

type serialLock struct {
	turn  chan struct{} // full while held
	users int           // holder and waiters; guarded by serialLocks.mu
}

// lock waits for the locks of all these serials, at most until ctx ends, and returns what unlocks them. They are taken in
// order and once each, so that no two requests wait for each other.
func (l *serialLocks) lock(ctx context.Context, serials ...string) (unlock func(), err error) {
	held := make([]func(), 0, len(serials))
	unlock = func() {
		for _, release := range held {
			release()
		}
	}
	for _, serial := range slices.Compact(slices.Sorted(slices.Values(serials))) {
		release, err := l.lockOne(ctx, serial)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, release)
	}
	return unlock, nil
}

func (l *serialLocks) lockOne(ctx context.Context, serial string) (unlock func(), err error) {
	k := l.enter(serial)
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn; l.leave(serial, k) }, nil
	case <-ctx.Done():
		l.leave(serial, k)
		return nil, &Error{Code: CodeBusy, Detail: "too many requests for this token at once; try again", Err: ctx.Err()}
	}
}

func (l *serialLocks) enter(serial string) *serialLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*serialLock{}
	}
	k, ok := l.held[serial]
	if !ok {
		k = &serialLock{turn: make(chan struct{}, 1)}
		l.held[serial] = k
	}
	k.users++
	return k
}

func (l *serialLocks) leave(serial string, k *serialLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, serial)
	}
}
