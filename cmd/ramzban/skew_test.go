package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
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

// skewedNode runs a node in this process, whose clock is wrong, beside the deployment's own.
func (d *deployment) skewedNode(t *testing.T, ahead time.Duration) (beside *service, log *journal) {
	t.Helper()
	n := d.another(t, "skewed")
	log = &journal{}
	running := newNode(n.config, slog.New(slog.NewTextHandler(log, nil)))
	running.clock = func() time.Time { return time.Now().Add(ahead) }
	require.NoError(t, running.start(t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool { return running.skew.last.Load() != nil }, startLimit, 10*time.Millisecond)
	return n.service, log
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// A node whose clock is half a minute off says so, and decides as one whose clock is right: that is within what the profile
// forgives a phone. What is beyond stays refused, and what one node accepted no other accepts.
func TestNodesWithWrongClocksDecideAlike(t *testing.T) {
	right := onPostgres(t, pgtest.Database(t))
	// Half a minute is six steps of this profile, so that no verdict hangs on when in its step the test runs.
	right.config.Profiles["quick"] = ProfileConfig{Type: otp.TOTP, Hash: HashName(seed.SHA1), Digits: 6, Period: seconds(5),
		Validity: seconds(5), DriftSearch: seconds(60), DriftBound: seconds(180), AllowUnbound: true}
	right.startServing(t, "--new-database")
	card := 0
	for _, ahead := range []time.Duration{30 * time.Second, -30 * time.Second} {
		t.Run(ahead.String(), func(t *testing.T) {
			skewed, log := right.skewedNode(t, ahead)
			metric := regexp.MustCompile(`(?m)^ramzban_clock_skew_seconds (\S+)$`).FindStringSubmatch(scrape(t, skewed))
			require.Len(t, metric, 2)
			shown, err := strconv.ParseFloat(metric[1], 64)
			require.NoError(t, err)
			require.InDelta(t, ahead.Seconds(), shown, 0.5)
			require.Contains(t, log.String(), "look at the time synchronisation of both")
			for _, order := range [][]*service{{skewed, right.service}, {right.service, skewed}} {
				card++
				decideAlike(t, order, testCard(card))
			}
		})
	}
	require.NoError(t, right.terminate())
}

// decideAlike sends one customer's passwords to two nodes in turn, the first of them first.
func decideAlike(t *testing.T, nodes []*service, card string) {
	t.Helper()
	c, err := nodes[0].enrol(t.Context(), "quick", card)
	require.NoError(t, err)
	now := time.Now()
	verdict := func(node int, phone time.Duration) string {
		password, _, err := c.token.next(now.Add(phone), typed{})
		require.NoError(t, err)
		a, err := nodes[node].verify(t.Context(), c.serial, password.Reveal())
		require.NoError(t, err)
		return a.Result + a.Reason
	}
	for i, node := range []int{0, 1, 1, 0} { // each after what the other one has learnt of the phone
		later := time.Duration(i) * 5 * time.Second
		require.Equal(t, "accepted", verdict(node, later), "password %d", i)
		require.Equal(t, "refusedalready_used", verdict(1-node, later), "password %d", i)
	}
	require.Equal(t, "refusedmismatch", verdict(0, 10*time.Minute), "beyond what the profile forgives")
	require.Equal(t, "refusedmismatch", verdict(1, 10*time.Minute), "beyond what the profile forgives")
}
