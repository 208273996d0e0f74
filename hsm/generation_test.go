package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

// load is many callers with a known seed each, over few cache slots: every MAC is compared with software.
type load struct {
	calls atomic.Uint64
	stop  chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	errs  []error
}

func startLoad(t *testing.T, h *hsm.HSM, callers int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	hashes := []seed.Hash{seed.SHA1, seed.SHA256, seed.SHA512}
	for i := range callers {
		k := wrapKnown(t, h, hashes[i%3], fmt.Appendf(nil, "the seed of caller number %4d", i))
		l.wg.Go(func() { l.run(t.Context(), h, k) })
	}
	return l
}

func (l *load) run(ctx context.Context, h *hsm.HSM, k known) {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		message := fmt.Appendf(nil, "message %d", n)
		sum, err := k.mac(ctx, h, message)
		if err == nil && !bytes.Equal(sum, k.software(message)) {
			err = errors.New("a MAC was made with another seed")
		}
		if err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
			return
		}
		l.calls.Add(1)
		runtime.Gosched() // a server's caller comes from the network and lets others run; a bare loop would not
	}
}

func (l *load) finish(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	require.NoError(t, errors.Join(l.errs...))
}

// SoftHSM hands out the same session and object numbers after each initialisation: a stale one would sign with the seed
// of another caller.
func TestNoCallerEverGetsAnothersSeed(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.SeedCache = 8 })
	l := startLoad(t, h, 64)
	for i := range uint64(20) {
		before := l.calls.Load()
		eventually(t, "calls between changes", func() bool { return l.calls.Load() > before+200 })
		h.Change(i%2 == 0)
		eventually(t, "the next generation", func() bool { s := h.Stats(); return s.Ready && s.Generation == i+2 })
	}
	l.finish(t)
	s := h.Stats()
	require.Zero(t, s.Failures)
	require.LessOrEqual(t, s.CachedSeeds, 8)
}

// With every destroyed seed SoftHSM leaks; generations that change by count give it back.
func TestGenerationsChangeByCount(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.SeedCache, c.Profile.RecycleAfter = 2, 300 })
	l := startLoad(t, h, 8)
	eventually(t, "ten changes", func() bool { return h.Stats().Recycled >= 10 })
	l.finish(t)
	eventually(t, "a generation for each change", func() bool { s := h.Stats(); return s.Ready && s.Generation == s.Recycled+1 })
	require.Less(t, h.Stats().DestroyedObjects, uint64(300+8+64))
	require.Zero(t, h.Stats().Failures)
}

// UseSeed runs its function again when the generation it ran on is gone before a MAC was made.
func TestAGenerationChangeWaitsForPinnedSeeds(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	err := h.UseSeed(t.Context(), k.wrapped, k.hash, func(mac seed.MAC) error {
		h.Change(true)
		require.False(t, h.Stats().Ready)
		sum, err := mac([]byte("message"))
		require.Equal(t, k.software([]byte("message")), sum)
		require.EqualValues(t, 1, h.Stats().Generation)
		return err
	})
	require.NoError(t, err)
	eventually(t, "the next generation", func() bool { return h.Stats().Generation == 2 })
}

// The module cannot be finalised while a call hangs in it, nor used: the process has to go.
func TestAHungCallIsFatal(t *testing.T) {
	fatal := make(chan error, 2)
	h := open(t, func(c *hsm.Config) {
		c.DrainTimeout = 50 * time.Millisecond
		c.Fatal = func(err error) { fatal <- err }
	})
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	hang, done, started := make(chan struct{}), make(chan error), make(chan struct{})
	go func() {
		done <- h.UseSeed(t.Context(), k.wrapped, k.hash, func(seed.MAC) error { close(started); <-hang; return nil })
	}()
	<-started
	h.Change(true)
	require.ErrorIs(t, <-fatal, seed.ErrUnavailable)
	_, err := h.Random(t.Context(), 1)
	require.ErrorIs(t, err, seed.ErrUnavailable)
	require.ErrorContains(t, err, "restarted")
	s := h.Stats()
	require.True(t, s.Latched)
	require.False(t, s.Ready)
	require.Error(t, h.Ready(t.Context()))
	close(hang)
	require.NoError(t, <-done)
	require.Empty(t, fatal, "said once")
}

func TestNothingWorksAfterClose(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.NoError(t, h.Ready(t.Context()))
	require.NoError(t, h.Close())
	require.NoError(t, h.Close())
	_, err := k.mac(t.Context(), h, nil)
	require.ErrorIs(t, err, seed.ErrUnavailable)
	require.ErrorIs(t, h.Ready(t.Context()), seed.ErrUnavailable)
	require.False(t, h.Stats().Ready)
}

func TestCloseWaitsForCallsInProgress(t *testing.T) {
	h := open(t)
	l := startLoad(t, h, 16)
	eventually(t, "load", func() bool { return l.calls.Load() > 100 })
	require.NoError(t, h.Close())
	l.wg.Wait()
	for _, err := range l.errs {
		require.ErrorIs(t, err, seed.ErrUnavailable)
	}
	require.Len(t, l.errs, 16)
}
