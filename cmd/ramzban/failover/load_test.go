package failover

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice"
	"ramzban/keyservice/audit"
)

const (
	customers = 12
	pace      = 40 * time.Millisecond // between two passwords of a customer
	deadline  = 5 * time.Second       // of a request, as the API sets one
)

// acceptance is one answer "accepted".
type acceptance struct {
	request
	at           audit.Position
	began, ended time.Time
}

// load sends every password to two nodes at once, and remembers what it was told.
type load struct {
	t         *testing.T
	dsn       string
	nodes     []*node
	customers []*customer
	began     time.Time

	mu       sync.Mutex
	history  []porcupine.Operation
	accepted []acceptance
	last     map[string]string // by customer and node: what was answered last
	unknown  int               // answers that nothing is known
	none     int               // answers that nothing was decided

	stop   context.CancelFunc
	worker sync.WaitGroup
}

// startLoad enrols the customers on a fresh database and lets them verify on two nodes until it is ended.
func startLoad(t *testing.T) *load {
	t.Helper()
	roles(t)
	dsn := theSet.Database(t)
	l := &load{t: t, dsn: dsn, nodes: []*node{openNode(t, dsn, "a"), openNode(t, dsn, "b"), openNode(t, dsn, "c")}, began: time.Now(), last: map[string]string{}}
	for i := range customers {
		l.customers = append(l.customers, enrol(t, l.nodes[i%2], i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	for _, c := range l.customers {
		l.worker.Go(func() { l.work(ctx, c) })
	}
	t.Cleanup(func() {
		l.end()
		l.explain()
	})
	l.waitForMore()
	return l
}

// explain shows what everyone said last if the test failed.
func (l *load) explain() {
	if !l.t.Failed() {
		return
	}
	for at, said := range l.last {
		l.t.Logf("%s: %s", at, said)
	}
	for _, n := range l.nodes {
		l.t.Logf("node %s: %s", n.name, n.log.end())
	}
	for _, m := range theSet.Machines {
		l.t.Logf("%s: Patroni and PostgreSQL: %s", m.Name, m.Log("patroni"))
	}
}

// end ends the load; what was sent is waited for.
func (l *load) end() {
	l.stop()
	l.worker.Wait()
}

func (l *load) work(ctx context.Context, c *customer) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.sendToAll(c, l.nodes[:2]); err != nil {
			l.t.Errorf("customer %s: %v", c.serial, err)
			return
		}
	}
}

// sendToAll sends a customer's next password to nodes at once. Once it is known to be used up the customer goes on to the
// next one, otherwise the same one is sent again.
func (l *load) sendToAll(c *customer, nodes []*node) error {
	var group sync.WaitGroup
	errs, used := make([]error, len(nodes)), make([]bool, len(nodes))
	for i, n := range nodes {
		group.Go(func() { used[i], errs[i] = l.send(n, c, c.next) })
	}
	group.Wait()
	for i := range nodes {
		if errs[i] != nil {
			return fmt.Errorf("node %s: %w", nodes[i].name, errs[i])
		}
	}
	for _, known := range used {
		if known {
			c.next++
			break
		}
	}
	return nil
}

// waitUntilUsed sends a customer's next password until it is known to be used up.
func (l *load) waitUntilUsed(c *customer) {
	l.t.Helper()
	for counter, began := c.next, time.Now(); c.next == counter; {
		require.NoError(l.t, l.sendToAll(c, l.nodes))
		require.Less(l.t, time.Since(began), patience)
	}
}

// send sends one password to one node and notes the answer. used tells whether the password is now used up for certain.
func (l *load) send(n *node, c *customer, counter uint64) (used bool, err error) {
	password, err := c.password(counter)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	r, began := request{c.serial, counter}, time.Now()
	v, err := n.Verify(ctx, bank, keyservice.VerifyRequest{Serial: c.serial, Use: use, OTP: password})
	ended := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[c.serial+" at "+n.name] = fmt.Sprintf("counter %d: accepted %v, reason %q, error %v", counter, v.Accepted, v.Reason, err)
	switch code := keyservice.CodeOf(err); {
	case err == nil:
		l.note(r, began, ended, answer{accepted: v.Accepted, reason: v.Reason})
		if v.Accepted {
			l.accepted = append(l.accepted, acceptance{r, v.Audit, began, ended})
		} else if v.Reason != keyservice.ReasonAlreadyUsed {
			return false, fmt.Errorf("the password of counter %d is refused as %s", counter, v.Reason)
		}
		return true, nil
	case code == keyservice.CodeOutcomeUnknown:
		l.note(r, began, ended, answer{unknown: true})
		l.unknown++
		return false, nil
	case code == keyservice.CodeStorageUnavailable || code == keyservice.CodeBusy: // nothing was decided
		l.none++
		return false, nil
	}
	return false, err
}

// note adds to the history. What is not known may still happen. mu is held.
func (l *load) note(r request, began, ended time.Time, got answer) {
	end := ended.Sub(l.began).Nanoseconds()
	if got.unknown {
		end = math.MaxInt64
	}
	l.history = append(l.history, porcupine.Operation{Input: r, Call: began.Sub(l.began).Nanoseconds(), Output: got, Return: end})
}

// firstAfter returns the acceptance that was answered first of those that were asked for after a moment.
func (l *load) firstAfter(moment time.Time) (first acceptance, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accepted {
		if a.began.After(moment) && (!found || a.ended.Before(first.ended)) {
			first, found = a, true
		}
	}
	return first, found
}

// recovered waits until passwords are accepted again, and returns how long after the fault that was.
func (l *load) recovered(fault time.Time) time.Duration {
	l.t.Helper()
	var first acceptance
	require.Eventually(l.t, func() (found bool) {
		first, found = l.firstAfter(fault)
		return found
	}, patience, 10*time.Millisecond, "no password is accepted any more")
	return first.ended.Sub(fault)
}

// waitForMore waits until every customer had another three passwords accepted.
func (l *load) waitForMore() {
	l.t.Helper()
	begin := time.Now()
	require.Eventually(l.t, func() bool {
		since := map[string]int{}
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, a := range l.accepted {
			if a.began.After(begin) {
				since[a.serial]++
			}
		}
		for _, c := range l.customers {
			if since[c.serial] < 3 {
				return false
			}
		}
		return true
	}, patience, 50*time.Millisecond, "not every customer's passwords are accepted")
}
