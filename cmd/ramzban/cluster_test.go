package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// cluster is several nodes on one database, and what they were asked and said. It is disturbed while they are asked: see
// disturb.
type cluster struct {
	t      *testing.T
	server *pgtest.Server
	proxy  *pgtest.Proxy // between nodes and database
	dsn    string        // of the database itself
	nodes  []*deployment

	disturbed atomic.Bool // connections are cut at COMMIT
	began     time.Time

	mu       sync.Mutex
	accepted map[wire.Audit]string // by the entry that each acceptance named, the serial
	unknown  int                   // requests without a verdict
	kills    int
	cuts     int // of all connections at once
	locks    int // rows were locked for longer than statements may take
}

// clusterTimeout is the nodes' statement timeout; the database lets a statement wait for a lock for half of it.
const clusterTimeout = 600 * time.Millisecond

func startCluster(t *testing.T, nodes ...string) *cluster {
	c := &cluster{t: t, server: pgtest.Start(t), began: time.Now(), accepted: map[wire.Audit]string{}}
	c.dsn = c.server.Database(t)
	config, err := pgx.ParseConfig(c.dsn)
	require.NoError(t, err)
	c.proxy = c.server.StartProxy(t, func() pgtest.Cut {
		if !c.disturbed.Load() || rand.IntN(20) > 0 {
			return pgtest.Pass
		}
		return pgtest.Cut(1 + rand.IntN(3))
	})
	first := onPostgres(t, c.proxy.DSN(config.Database))
	first.config.Store.Postgres.StatementTimeout = Duration(clusterTimeout)
	for i, name := range nodes {
		n := first.another(t, name)
		n.config.Store.Postgres = first.config.Store.Postgres
		if i == 0 {
			n.startServing(t, "--new-database")
		} else {
			n.startServing(t)
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

// holder is a customer's phone and what was said of its passwords.
type holder struct {
	customer
	history []porcupine.Operation
}

// enrol makes customers, each through some node.
func (c *cluster) enrol(n int) []*holder {
	c.t.Helper()
	holders, errs := make([]*holder, n), make([]error, n)
	inParallel(n, func(i int) {
		var made customer
		made, errs[i] = c.nodes[i%len(c.nodes)].enrol(c.t.Context(), "counter-6", testCard(i))
		holders[i] = &holder{customer: made}
	})
	require.NoError(c.t, errors.Join(errs...))
	return holders
}

// inParallel calls fn for 0 to n-1, several at once.
func inParallel(n int, fn func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 24 {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				fn(i)
			}
		})
	}
	workers.Wait()
}

// retryPause is how long a caller waits when no node gave a verdict.
const retryPause = 20 * time.Millisecond

// spend sends the holder's next passwords, one after another, each to two or three nodes at once, and again until one of
// them gives a verdict.
func (c *cluster) spend(ctx context.Context, h *holder, passwords int) error {
	for factor := range uint64(passwords) {
		password := h.password(c.t)
		for decided := false; !decided; {
			var err error
			if decided, err = c.send(ctx, h, factor, password); err != nil {
				return err
			}
			if decided {
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(retryPause):
			}
		}
	}
	return nil
}

func (c *cluster) send(ctx context.Context, h *holder, factor uint64, password string) (decided bool, err error) {
	to := rand.Perm(len(c.nodes))[:2+rand.IntN(2)]
	operations, errs := make([]porcupine.Operation, len(to)), make([]error, len(to))
	var calls sync.WaitGroup
	for i, node := range to {
		calls.Go(func() { operations[i], errs[i] = c.ask(ctx, c.nodes[node], h, factor, password) })
	}
	calls.Wait()
	for i, op := range operations {
		if op.Output == nil {
			continue // it never left
		}
		op.ClientId = to[i]
		h.history = append(h.history, op)
		decided = decided || op.Output != noVerdict
	}
	return decided, errors.Join(errs...)
}

// noVerdict is the output of a request of which the caller cannot know whether it was decided.
const noVerdict = "none"

// ask sends one request. Its operation has no output if the node was not there.
func (c *cluster) ask(ctx context.Context, n *deployment, h *holder, factor uint64, password string) (porcupine.Operation, error) {
	op := porcupine.Operation{Input: factor, Call: time.Since(c.began).Nanoseconds()}
	a, err := n.verify(ctx, h.serial, password)
	op.Return = time.Since(c.began).Nanoseconds()
	var p *wire.Problem
	switch {
	case err == nil:
		op.Output = a.Result + a.Reason
		if a.Result == "accepted" {
			c.accept(a.Audit, h.serial)
		}
		return op, nil
	case errors.As(err, &p) && p.Status != 503:
		return op, err
	case errors.Is(err, syscall.ECONNREFUSED):
		return op, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unknown++
	op.Output, op.Return = noVerdict, math.MaxInt64 // it may still happen
	return op, nil
}

func (c *cluster) accept(entry wire.Audit, serial string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accepted[entry] = serial
}

// tokenModel is what one counter token says of its passwords: the state is the next counter. A request without a verdict
// was decided at some time, or at the very end, where it changes nothing for anyone.
var tokenModel = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		next, factor := state.(uint64), input.(uint64)
		verdict := "refusedmismatch"
		switch {
		case factor >= next && factor <= next+shippedProfiles()["counter-6"].LookAhead:
			verdict, next = "accepted", factor+1
		case factor+1 == next:
			verdict = "refusedalready_used"
		}
		return output == noVerdict || output == verdict, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v -> %v", in, out) },
}

// disturb does, until the load has ended, what can happen to a cluster: connections to the database break at any moment
// and at COMMIT, rows are locked for longer than a statement may take, and nodes are killed and started again.
func (c *cluster) disturb(ended <-chan struct{}) {
	c.disturbed.Store(true)
	var others sync.WaitGroup
	others.Go(func() {
		for pause(ended, 300, 900) {
			c.proxy.CutAll()
			c.cuts++
		}
	})
	others.Go(func() { c.lockRows(ended) })
	for pause(ended, 200, 1000) {
		n := c.nodes[rand.IntN(len(c.nodes))]
		n.kill()
		c.kills++
		c.restart(n)
	}
	others.Wait()
	c.disturbed.Store(false)
}

// pause waits for a time between two numbers of milliseconds; false when the load has ended.
func pause(ended <-chan struct{}, from, to int) bool {
	select {
	case <-ended:
		return false
	case <-time.After(time.Duration(from+rand.IntN(to-from)) * time.Millisecond):
		return true
	}
}

// restart starts a node as systemd would: again while it ends with the status of what may pass.
func (c *cluster) restart(n *deployment) {
	c.t.Helper()
	for {
		n.launch("serve", "--config", writeConfig(c.t, n.config))
		if n.becomesReady() {
			return
		}
		require.Equal(c.t, exitFailure, n.cmd.ProcessState.ExitCode(), "%s", n.output())
	}
}

// lockRows locks rows for half of the time, for longer than the database lets the nodes wait.
func (c *cluster) lockRows(ended <-chan struct{}) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, c.dsn)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	for pause(ended, 200, 600) {
		_, err := conn.Exec(ctx, "BEGIN; SELECT FROM rows TABLESAMPLE SYSTEM (5) FOR UPDATE; SELECT pg_sleep(0.4); ROLLBACK")
		if err != nil {
			c.t.Logf("locking rows: %v", err) // a deadlock: we were the victim
			_, _ = conn.Exec(ctx, "ROLLBACK")
		}
		c.locks++
	}
}

// check holds the nodes to what they said: every history is one of some order, no password was accepted twice, what was
// acknowledged is in the logs, and the logs and the database tell one story.
func (c *cluster) check(holders []*holder, passwords int) {
	c.t.Helper()
	errs := make([]error, len(holders))
	inParallel(len(holders), func(i int) { errs[i] = holders[i].check(passwords) })
	require.NoError(c.t, errors.Join(errs...))

	auditor := c.nodes[0].as("auditor")
	entries, logs, err := readEntries(c.t.Context(), auditor, entriesQuery{limit: math.MaxInt32})
	require.NoError(c.t, err)
	require.Equal(c.t, len(c.nodes), logs)
	inLogs, times := map[wire.Audit]string{}, map[string]int{}
	for _, e := range entries {
		if e.Action == "otp.verify" && e.Outcome == "accepted" {
			inLogs[wire.Audit{Node: e.Node, Index: e.Index}] = e.Serial
			times[fmt.Sprint(e.Serial, " ", e.Next)]++
		}
	}
	for entry, serial := range c.accepted {
		require.Equal(c.t, serial, inLogs[entry], "an acknowledged acceptance is not in the log of %s", entry.Node)
	}
	require.Len(c.t, times, len(holders)*passwords, "each password was accepted")
	for password, n := range times {
		require.Equal(c.t, 1, n, "%s was accepted twice", password)
	}
	compared, err := auditor.CompareAudit(c.t.Context())
	require.NoError(c.t, err)
	require.Empty(c.t, compared.Discrepancies)
}

func (h *holder) check(passwords int) error {
	accepted := map[uint64]int{}
	for _, op := range h.history {
		if op.Output == "accepted" {
			if accepted[op.Input.(uint64)]++; accepted[op.Input.(uint64)] > 1 {
				return fmt.Errorf("token %s: password %d was accepted twice", h.serial, op.Input)
			}
		}
	}
	if result := porcupine.CheckOperationsTimeout(tokenModel, h.history, time.Minute); result != porcupine.Ok {
		return fmt.Errorf("token %s: its history of %d requests is not linearisable: %s", h.serial, len(h.history), result)
	}
	return nil
}

// Three nodes, and every password sent to two or three of them at once, while connections are cut, statements time out
// and nodes are killed: 10,000 passwords, and 2,000 in the short form.
func TestThreeNodesAcceptEveryPasswordOnce(t *testing.T) {
	holders, passwords := 100, 20
	if longTests() {
		holders, passwords = 200, 50
	}
	c := startCluster(t, "a", "b", "c")
	customers := c.enrol(holders)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	errs, ended := make([]error, holders), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		inParallel(holders, func(i int) { errs[i] = c.spend(ctx, customers[i], passwords) })
	}()
	c.disturb(ended)
	require.NoError(t, errors.Join(errs...))
	took := time.Since(began)

	c.check(customers, passwords)
	requests := 0
	for _, h := range customers {
		requests += len(h.history)
	}
	t.Logf("%d passwords in %d requests and %.1f s, %d of them without a verdict; %d kills, all connections cut %d times, rows locked %d times",
		holders*passwords, requests, took.Seconds(), c.unknown, c.kills, c.cuts, c.locks)
	require.NotZero(t, c.unknown)
	require.Greater(t, c.kills, 2)
	for _, n := range c.nodes {
		require.NoError(t, n.terminate())
		out, err := os.ReadFile(n.dir + "/err.log")
		require.NoError(t, err)
		require.NotContains(t, string(out), "another process has been started", "a restarted node fences nobody that lives")
	}
}
