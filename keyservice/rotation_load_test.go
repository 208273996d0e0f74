package keyservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

// nodeHSM is the HSM as one node of several sees it: which versions are active is the node's own. The nodes of a test share
// one module, so each call that makes something new waits for the others'.
type nodeHSM struct {
	HSM
	module *sync.Mutex
	active []seed.KeyRef
}

func (n *nodeHSM) Use(refs []seed.KeyRef) error {
	n.module.Lock()
	defer n.module.Unlock()
	n.active = refs
	return n.HSM.Use(refs)
}

func (n *nodeHSM) Seal(ctx context.Context, purpose string, data []byte) (seed.MACed, error) {
	n.module.Lock()
	defer n.module.Unlock()
	if err := n.HSM.Use(n.active); err != nil {
		return seed.MACed{}, err
	}
	return n.HSM.Seal(ctx, purpose, data)
}

func (n *nodeHSM) Encrypt(ctx context.Context, aad, plaintext []byte) (seed.Encrypted, error) {
	n.module.Lock()
	defer n.module.Unlock()
	if err := n.HSM.Use(n.active); err != nil {
		return seed.Encrypted{}, err
	}
	return n.HSM.Encrypt(ctx, aad, plaintext)
}

// apart gives each node an HSM object of its own.
func apart(nodes []*world) {
	module := &sync.Mutex{}
	for _, w := range nodes {
		w.hsm.HSM = &nodeHSM{HSM: theHSM, module: module}
		w.restart()
	}
}

// A node that has slept through a whole rotation and the destruction of the old version writes nothing under it, whatever
// it had begun; and everybody's passwords are good there at once.
func TestDestructionWhileANodeHasTheOldRing(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	a, b, ctx := nodes[0], nodes[1], context.Background()
	apart(nodes)
	a.rotatedTo(dataLabel, 5)
	require.NoError(t, b.Renew(ctx))
	f := a.enrolled()
	old := b.ring.Load()
	require.Equal(t, key(dataLabel, 5), old.activeOf(dataLabel))
	begun, err := b.newToken(ctx, b.issueRequest(card(20), "offline-60"), seed.MACed{Key: key(lookupLabel, 1), Sum: make([]byte, 32)})
	require.NoError(t, err)
	require.Equal(t, key(dataLabel, 5), begun.LastFour.Key, "made under the old version")
	late, err := b.firstRows(ctx, begun, liveKey(ClassCard, KindOffline, begun.Subject))
	require.NoError(t, err)
	late.ring = old

	a.rotatedTo(dataLabel, 6)
	require.Same(t, old, b.ring.Load(), "nobody told it")
	a.retires(dataLabel, 5)
	a.destroys(dataLabel, 5)
	_, err = b.commit(ctx, branch, "test", late)
	require.ErrorIs(t, err, store.ErrConflict)
	require.False(t, a.has(recordKey(begun.Serial)))
	_, err = b.firstRows(ctx, begun, liveKey(ClassCard, KindOffline, begun.Subject))
	require.Equal(t, CodeKeyRetired, CodeOf(err), "nor does it write it with the new ring")
	f.untouched(t)
	f.goOn(t, b)
	require.Empty(t, a.dependents(key(dataLabel, 5)))
	b.requireNothingFound()
}

// crowd is many customers whose tokens' seeds are the service's own: SMS tokens, which cost one call each.
func (w *world) crowd(t *testing.T, n int) {
	t.Helper()
	var all sync.WaitGroup
	next := atomic.Int64{}
	for range 16 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				r := w.issueRequest(card(1000+int(i)), "sms-120")
				r.Channel, r.Mobile = ChannelSMS, seed.NewMobile(mobile)
				if _, err := w.Issue(context.Background(), branch, r); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// verifies lets a customer verify until stopped: each password must be accepted, and none twice. It returns the slowest.
func (w *world) verifies(p *phone, stop <-chan struct{}) (accepted int, slowest time.Duration, err error) {
	for {
		select {
		case <-stop:
			return accepted, slowest, nil
		default:
		}
		typed, begun := p.password(), time.Now()
		v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
		slowest = max(slowest, time.Since(begun))
		if err == nil && !v.Accepted {
			err = errors.New(string(v.Reason))
		}
		if err == nil {
			accepted++
			v, err = w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
		}
		if err == nil && v.Reason != ReasonAlreadyUsed {
			err = fmt.Errorf("a used password: accepted %t, %s", v.Accepted, v.Reason)
		}
		if err != nil {
			return accepted, slowest, err
		}
	}
}

// 50,000 tokens, and 300 in the short form, are rotated on each engine while customers verify on every node: no
// verification fails or is paused, no password is accepted twice, no counter changes, and nothing names the old version
// afterwards.
func TestARotationUnderLoad(t *testing.T) {
	tokens, limit := 300, 5*time.Second
	if os.Getenv(storetest.LongVariable) == "1" {
		tokens = 50_000
	}
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w := nodes[0]
		w.crowd(t, tokens)
		for _, w := range nodes {
			w.Renewal = Renewal{PerSecond: 2000, SlowCommit: time.Second}
		}
		phones, before := []*phone{}, w.states()
		for i := range 4 {
			phones = append(phones, w.enrol(card(i), "counter-6"))
		}
		w.reveal(key(wrapLabel, 2))
		id := w.begins(wrapLabel, 1, 2)
		var load sync.WaitGroup
		stop := make(chan struct{})
		for i, p := range phones {
			load.Go(func() {
				accepted, slowest, err := nodes[i%len(nodes)].verifies(p, stop)
				if err != nil || accepted < 5 || slowest > limit {
					t.Errorf("customer %d: %d accepted, the slowest took %v: %v", i, accepted, slowest, err)
				}
			})
		}
		v := w.renewsAll(id)
		close(stop)
		load.Wait()
		require.Equal(t, RotationDone, v.State, "%+v", v)
		require.Equal(t, tokens+len(phones), v.Tokens)
		require.Empty(t, w.dependents(key(wrapLabel, 1)))
		after := w.states()
		for serial, was := range before {
			is := after[serial]
			require.Equal(t, was.Sequence+1, is.Sequence, "renewed once")
			is.Sequence, is.Revision = was.Sequence, was.Revision
			require.Equal(t, was, is)
		}
		for i, p := range phones {
			require.Equal(t, p.counter, after[p.serial].Next, "customer %d", i)
		}
		w.requireNothingFound()
	})
}
