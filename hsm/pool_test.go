package hsm_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

func TestWaitingForASessionCanBeCancelled(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.PoolSessions = 2 })
	require.NoError(t, h.WithAllSessions(func() {
		require.Equal(t, 2, h.Stats().PoolInUse)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		_, err := h.Random(ctx, 8)
		require.ErrorIs(t, err, seed.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}))
	require.Zero(t, h.Stats().PoolInUse)
	_, err := h.Random(t.Context(), 8)
	require.NoError(t, err)
}

// Callers that give up at any moment lose no session, no lease and no seed.
func TestCallersThatGiveUpLeaveNothingBehind(t *testing.T) {
	h := open(t, func(c *hsm.Config) { c.PoolSessions, c.OwnerSessions, c.SeedCache = 2, 1, 4 })
	seeds := make([]known, 16)
	for i := range seeds {
		seeds[i] = wrapKnown(t, h, seed.SHA1, []byte{byte(i), 7})
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(300*time.Microsecond))
				k := seeds[rand.N(len(seeds))]
				sum, err := k.mac(ctx, h, []byte("message"))
				cancel()
				if err != nil {
					assert.ErrorIs(t, err, seed.ErrUnavailable)
				} else {
					assert.Equal(t, k.software([]byte("message")), sum)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "unwraps that outlived their callers", func() bool { return h.Stats().Leases == 0 })
	s := h.Stats()
	require.Zero(t, s.PoolInUse)
	require.Zero(t, s.OwnerInUse)
	require.LessOrEqual(t, s.CachedSeeds, 4)
	n, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.CachedSeeds, n)
	require.EqualValues(t, 1, s.Generation)
}
