package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

func TestAnErrorOfTheCallerIsReturnedAsItIs(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	mine := errors.New("mine")
	require.Equal(t, mine, h.UseSeed(t.Context(), k.wrapped, k.hash, func(seed.MAC) error { return mine }))
	require.Equal(t, seed.ErrUnavailable,
		h.UseSeed(t.Context(), k.wrapped, k.hash, func(seed.MAC) error { return seed.ErrUnavailable }))
	require.EqualValues(t, 1, h.Stats().Generation)
}

func TestAMACIsLentForOneCall(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	var kept seed.MAC
	require.NoError(t, h.UseSeed(t.Context(), k.wrapped, k.hash, func(m seed.MAC) error { kept = m; return nil }))
	_, err := kept([]byte("message"))
	require.Error(t, err)
}

func TestUseSeedRefusesWhatIsNoSeed(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	use := func(hash seed.Hash, change func(*seed.Wrapped)) error {
		w := k.wrapped
		w.Blob = bytes.Clone(w.Blob)
		change(&w)
		return h.UseSeed(t.Context(), w, hash, func(seed.MAC) error { return errors.New("was lent") })
	}
	for i := range k.wrapped.Blob {
		require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Blob[i] ^= 4 }), seed.ErrBadBlob)
	}
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Blob = nil }), seed.ErrBadBlob)
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Blob = w.Blob[:7] }), seed.ErrBadBlob)
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Blob = w.Blob[8:] }), seed.ErrBadBlob)
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Mech = 0x2109 }), seed.ErrBadBlob)
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Key.Label = "data" }), seed.ErrBadBlob)
	require.ErrorIs(t, use(seed.SHA1, func(w *seed.Wrapped) { w.Key.Version = 3 }), seed.ErrKeyNotFound)
	require.Error(t, use(0, func(*seed.Wrapped) {}))
	s := h.Stats()
	require.EqualValues(t, 1, s.Generation, "a bad blob is no fault of the HSM")
	require.Zero(t, s.CachedSeeds)
}

// A lease and a reference that a panic leaves behind would keep the HSM from ever being closed.
func TestAPanicOfTheCallerLeavesNothingBehind(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.SeedCache = 1 })
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.Panics(t, func() {
		_ = h.UseSeed(t.Context(), k.wrapped, k.hash, func(seed.MAC) error { panic("bug") })
	})
	require.Zero(t, h.Stats().Leases)
	other := wrapKnown(t, h, seed.SHA1, rfcSecret(19))
	_, err := other.mac(t.Context(), h, nil)
	require.NoError(t, err)
	require.Equal(t, 1, h.Stats().CachedSeeds)
}

func TestOneUnwrapServesAll(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA256, rfcSecret(32))
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() { _, errs[i] = k.mac(t.Context(), h, []byte("message")) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, 1, h.Stats().Unwraps)
}

func TestTheSeedCacheIsBounded(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.SeedCache = 4 })
	for i := range 40 {
		k := wrapKnown(t, h, seed.SHA1, fmt.Appendf(nil, "the seed number %4d", i))
		sum, err := k.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, k.software([]byte("message")), sum)
	}
	require.Equal(t, 4, h.Stats().CachedSeeds)
	eventually(t, "evicted seeds to be destroyed", func() bool { // by those who unwrap, after they let their caller go on
		n, err := h.LiveObjects(t.Context())
		return err == nil && n == 4
	})
}

// A seed that is evicted while a caller has it pinned stays until it is given back.
func TestAPinnedSeedOutlivesItsEviction(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.SeedCache = 2 })
	pinned := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	evicted, done := make(chan struct{}), make(chan error)
	started := make(chan struct{})
	start := sync.OnceFunc(func() { close(started) })
	go func() {
		done <- h.UseSeed(t.Context(), pinned.wrapped, pinned.hash, func(mac seed.MAC) error {
			start()
			<-evicted
			sum, err := mac([]byte("message"))
			if err == nil && !bytes.Equal(sum, pinned.software([]byte("message"))) {
				err = errors.New("wrong MAC")
			}
			return err
		})
	}()
	<-started
	for i := range 10 {
		_, err := wrapKnown(t, h, seed.SHA1, []byte{byte(i), 1}).mac(t.Context(), h, nil)
		require.NoError(t, err)
	}
	require.Equal(t, 3, h.Stats().CachedSeeds)
	close(evicted)
	require.NoError(t, <-done)
	require.Equal(t, 2, h.Stats().CachedSeeds)
}

func TestCancelledWaitersAreNotServed(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.mac(ctx, h, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, seed.ErrUnavailable)
}
