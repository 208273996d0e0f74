package api

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stopped is a limiter with a clock that stands still until it is moved.
func stopped(t *testing.T, r Rate) (*limiter, func(time.Duration)) {
	t.Helper()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	l, err := newLimiter(r, func() time.Time { return now })
	require.NoError(t, err)
	return l, func(d time.Duration) { now = now.Add(d) }
}

func TestBucketFillsAtItsRate(t *testing.T) {
	l, pass := stopped(t, Rate{PerSecond: 4, Burst: 2})
	require.Zero(t, l.take("a"))
	require.Zero(t, l.take("a"))
	require.Equal(t, 250*time.Millisecond, l.take("a"))
	require.Zero(t, l.take("b"), "each name has its own")
	pass(249 * time.Millisecond)
	require.NotZero(t, l.take("a"))
	pass(time.Millisecond)
	require.Zero(t, l.wait("a"))
	require.Zero(t, l.wait("a"), "looking uses nothing up")
	require.Zero(t, l.take("a"))
	require.NotZero(t, l.take("a"))
	pass(time.Hour)
	require.Zero(t, l.take("a"))
	require.Zero(t, l.take("a"))
	require.NotZero(t, l.take("a"), "never more than the burst")
	pass(-time.Hour)
	require.Equal(t, 250*time.Millisecond, l.take("a"))
	pass(250 * time.Millisecond)
	require.Zero(t, l.take("a"), "a clock that is set back locks nobody out")
}

func TestDebtIsWaitedFor(t *testing.T) {
	l, pass := stopped(t, Rate{PerSecond: 1, Burst: 1})
	for range 10 {
		l.charge("a")
	}
	require.Equal(t, 10*time.Second, l.wait("a"))
	pass(10 * time.Second)
	require.Zero(t, l.take("a"))
	slow, _ := stopped(t, Rate{PerSecond: 1e-30, Burst: 1})
	slow.charge("a")
	require.Equal(t, maxWait, slow.wait("a"))
}

func TestBucketsAreBounded(t *testing.T) {
	l, _ := stopped(t, Rate{PerSecond: 1, Burst: 1})
	for i := range 3 * maxBuckets {
		l.take(strconv.Itoa(i))
	}
	require.Equal(t, maxBuckets, l.buckets.Len())
}

// TestNoTokenIsTakenTwice: of many at once exactly the burst gets through.
func TestNoTokenIsTakenTwice(t *testing.T) {
	l, _ := stopped(t, Rate{PerSecond: 1, Burst: 100})
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if l.take("a") == 0 {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, int64(100), taken.Load())
}
