package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgtest"
)

// The clock of a real database, and nodes whose clocks are wrong.
func TestClockSkewIsMeasured(t *testing.T) {
	c := Config{Node: "a", Store: StoreConfig{Postgres: new(defaultPostgres())}}
	c.Store.Postgres.DSNFile = writeFile(t, "dsn", pgtest.Database(t))
	db, err := openStore(t.Context(), c, engineOptions{create: true, log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for ahead, warned := range map[time.Duration]bool{0: false, 800 * time.Millisecond: false, 3 * time.Second: true, -3 * time.Second: true,
		30 * time.Second: true, -30 * time.Second: true} {
		s := &skew{now: func() time.Time { return time.Now().Add(ahead) }, store: db.Now}
		require.Contains(t, shown(t, s), "value:nan")
		require.InDelta(t, ahead.Seconds(), once(t, s, warned), 0.15)
	}
}

// once watches until the first result and returns it.
func once(t *testing.T, s *skew, warned bool) float64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ticks, ended := make(chan time.Time), make(chan struct{})
	var out bytes.Buffer
	go func() {
		defer close(ended)
		s.watch(ctx, ticks, slog.New(slog.NewTextHandler(&out, nil)))
	}()
	ticks <- time.Time{} // taken when the first is done; what is said in the second is the same
	ticks <- time.Time{}
	stop()
	<-ended
	require.Equal(t, warned, strings.Contains(out.String(), "time synchronisation"), out.String())
	return s.last.Load().Seconds()
}

func shown(t *testing.T, s *skew) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(s.metric())
	found, err := r.Gather()
	require.NoError(t, err)
	return found[0].GetMetric()[0].String()
}

// Half of the round trip is taken into account.
func TestClockSkewCountsHalfOfTheWay(t *testing.T) {
	s := &skew{now: time.Now, store: func(context.Context) (time.Time, error) {
		<-time.After(400 * time.Millisecond)
		return time.Now().Add(-200 * time.Millisecond), nil // read in the middle
	}}
	ahead, err := s.measure(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 0, ahead.Seconds(), 0.15)
}

// A store that does not answer is said, and the last result stays; one that is asked too late says nothing.
func TestClockSkewWithoutAnAnswer(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var out bytes.Buffer
	s := &skew{now: time.Now, store: func(ctx context.Context) (time.Time, error) {
		_, limited := ctx.Deadline()
		require.True(t, limited)
		return time.Time{}, errors.New("nobody\nthere")
	}}
	ticks, ended := make(chan time.Time), make(chan struct{})
	go func() { defer close(ended); s.watch(ctx, ticks, slog.New(slog.NewTextHandler(&out, nil))) }()
	ticks <- time.Time{}
	stop()
	<-ended
	require.Contains(t, out.String(), "nobody there")
	require.Contains(t, shown(t, s), "value:nan")
}
