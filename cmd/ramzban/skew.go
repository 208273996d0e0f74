package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// skewEvery is how often the node's clock is compared with the store's.
const skewEvery = time.Minute

// skewAllowed is how far they may be apart before that is said. Clocks that are kept right are milliseconds apart, so one
// second means that nobody keeps one of them right. It is far less than what a password's time step and validity leave
// to a phone's clock, so that nothing was decided otherwise yet.
const skewAllowed = time.Second

// skewLimit is how long the store may take to answer: an answer that took longer says nothing of a second.
const skewLimit = 2 * skewAllowed

// skew is how far the node's clock is ahead of the store's, which all nodes that share the store have in common.
type skew struct {
	now   func() time.Time                             // the node's
	store func(ctx context.Context) (time.Time, error) // the store's
	last  atomic.Pointer[time.Duration]                // nil: not yet known
}

// measure compares the clocks. The store's time is taken to be of the middle of the round trip, so that the result is
// wrong by at most half of it.
func (s *skew) measure(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, skewLimit)
	defer cancel()
	began, asked := time.Now(), s.now()
	stores, err := s.store(ctx)
	if err != nil {
		return 0, err
	}
	ahead := asked.Add(time.Since(began) / 2).Sub(stores)
	s.last.Store(&ahead)
	return ahead, nil
}

// watch measures at once and at each tick, until ctx ends, and warns of every result beyond skewAllowed.
func (s *skew) watch(ctx context.Context, ticks <-chan time.Time, log *slog.Logger) {
	for {
		ahead, err := s.measure(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Warn("this node's clock cannot be compared with the database's", "error", oneLine(err))
		case ahead.Abs() > skewAllowed:
			log.Warn("this node's clock and the database's are apart: look at the time synchronisation of both",
				"node_ahead", fmt.Sprintf("%.3fs", ahead.Seconds()))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// metric is the last result; not a number before the first.
func (s *skew) metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ramzban_clock_skew_seconds",
		Help: "How far this node's clock is ahead of the database's, measured every minute; NaN before the first time."}, func() float64 {
		if last := s.last.Load(); last != nil {
			return last.Seconds()
		}
		return math.NaN()
	})
}
