package keyservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
)

// A version that the key ring says is destroyed is not used by any node from then on. Each node destroys it in its HSM as
// well, as often as it takes: at once, after eraseSoon, then after twice as long each time, up to eraseLate. Nothing else
// waits for it. While it is still there, Keys says so and why, and the log has said it once.

const (
	eraseSoon = 10 * time.Second
	eraseLate = 10 * time.Minute
)

// errNotErased: the HSM still has a destroyed key, and it is tried again later.
var errNotErased = errors.New("the HSM still has a destroyed key: it is tried again")

// erasures are what became of destroyed keys in this node's HSM, since the process began.
type erasures struct {
	mu   sync.Mutex
	gone map[seed.KeyRef]bool
	left map[seed.KeyRef]erasure
}

// erasure is one that failed.
type erasure struct {
	why   string
	tries int
	next  time.Time
}

// pending says why the HSM still has a destroyed key; "" if it has not, as far as is known.
func (e *erasures) pending(ref seed.KeyRef) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.left[ref].why
}

// due says whether there is something to do for a key now, and whether it is gone.
func (e *erasures) due(ref seed.KeyRef, now time.Time) (due, gone bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.gone[ref] && !now.Before(e.left[ref].next), e.gone[ref]
}

func (e *erasures) succeeded(ref seed.KeyRef) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone == nil {
		e.gone = map[seed.KeyRef]bool{}
	}
	e.gone[ref] = true
	delete(e.left, ref)
}

// failed says whether it failed for another reason than last time.
func (e *erasures) failed(ref seed.KeyRef, why string, now time.Time) (news bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left == nil {
		e.left = map[seed.KeyRef]erasure{}
	}
	was := e.left[ref]
	wait := min(eraseSoon<<min(was.tries, 10), eraseLate)
	e.left[ref] = erasure{why: why, tries: was.tries + 1, next: now.Add(wait)}
	return was.why != why
}

// erase destroys a key in this node's HSM, and says whether it was there. errNotErased: not this time.
func (s *Service) erase(ctx context.Context, ref seed.KeyRef) (was bool, err error) {
	due, gone := s.erasures.due(ref, s.Clock())
	if gone {
		return false, nil
	}
	if !due {
		return false, errNotErased
	}
	was, err = s.eraseNow(ctx, ref)
	if err == nil {
		s.erasures.succeeded(ref)
		return was, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if s.erasures.failed(ref, err.Error(), s.Clock()) {
		s.Log.ErrorContext(ctx, "this node's HSM does not destroy a key that two officers had destroyed: nothing uses it any more, and it is tried again", "key", ref.String(), "error", err)
	}
	return false, errNotErased
}

// eraseNow destroys a key. One that is there and that the HSM left out, for want of its known answer, is looked for again
// first.
func (s *Service) eraseNow(ctx context.Context, ref seed.KeyRef) (was bool, err error) {
	all, err := s.HSM.Keys(ctx)
	if err != nil {
		return false, err
	}
	was = slices.ContainsFunc(all, func(m seed.MasterKey) bool { return m.Key == ref })
	err = s.HSM.DestroyKey(ctx, ref)
	if err == nil || errors.Is(err, seed.ErrKeyNotFound) {
		return was, nil
	}
	if errors.Is(err, seed.ErrUnavailable) {
		return false, err
	}
	if err := s.findKeys(ctx); err != nil {
		return false, err
	}
	if err = s.HSM.DestroyKey(ctx, ref); errors.Is(err, seed.ErrKeyNotFound) {
		err = nil
	}
	return true, err
}

// dropDestroyed destroys, in this node's HSM, what was destroyed by another node in its own, or by this one before it was
// ended.
func (s *Service) dropDestroyed(ctx context.Context) error {
	for _, v := range s.ring.Load().Versions {
		if v.Status != KeyDestroyed {
			continue
		}
		was, err := s.erase(ctx, v.Key)
		if err != nil && !errors.Is(err, errNotErased) {
			return err
		}
		if !was || err != nil {
			continue
		}
		e := audit.Entry{Outcome: audit.Done, Detail: fmt.Sprintf("%s is destroyed in the HSM of %s", v.Key, s.Node)}
		if _, err := s.commit(ctx, itself, ActionDestroy, decision{entry: e}); err != nil {
			return err
		}
	}
	return nil
}
