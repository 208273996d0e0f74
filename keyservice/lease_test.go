package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// another is a node that shares the world's store.
func (w *world) another(node string) *Service {
	c := w.Config
	c.Node = node
	s, err := New(context.Background(), c)
	require.NoError(w.t, err)
	return s
}

func TestALeaseIsHeldByOneNodeUntilItEnds(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	other := w.another("node-2")
	first, err := w.lease(ctx, "job")
	require.NoError(t, err)
	_, err = other.lease(ctx, "job")
	require.ErrorIs(t, err, errLeaseHeld)
	_, err = other.lease(ctx, "another job")
	require.NoError(t, err)
	again, err := w.lease(ctx, "job")
	require.NoError(t, err, "its holder renews it")
	require.NotEqual(t, first.token, again.token)

	w.clock.add(leaseTerm)
	_, err = other.lease(ctx, "job")
	require.NoError(t, err, "it has ended")
	_, err = w.lease(ctx, "job")
	require.ErrorIs(t, err, errLeaseHeld)
}

// A node that was held up writes nothing once its lease has ended, been renewed or been taken, however late it wakes up;
// one that holds it does.
func TestWhoLostTheLeaseWritesNothing(t *testing.T) {
	lost := map[string]func(w *world, other *Service){
		"ended":   func(w *world, _ *Service) { w.clock.add(leaseTerm) },
		"renewed": func(w *world, _ *Service) { w.holdsLease(w.Service) },
		"taken": func(w *world, other *Service) {
			w.clock.add(leaseTerm)
			w.holdsLease(other)
			w.clock.add(-leaseTerm) // were it the same time again, the other's lease would still be the only one
		},
		"put back": func(w *world, other *Service) {
			row := w.row(leaseKey("job"))
			w.clock.add(leaseTerm)
			w.holdsLease(other)
			w.attack([]store.Put{row})
		},
	}
	for name, lose := range lost {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			other := w.another("node-2")
			l := w.holdsLease(w.Service)
			work := decision{change: store.Change{Put: []store.Put{{Key: "work", Value: []byte{1}}}}, entry: audit.Entry{Outcome: audit.Done}}
			require.NoError(t, w.commitUnder(context.Background(), l, expireRows, work))
			before := w.stored()
			lose(w, other)
			work.change.Put[0].Value = []byte{2}
			require.ErrorIs(t, w.commitUnder(context.Background(), l, expireRows, work), errLeaseLost)
			require.Equal(t, before["work"], w.stored()["work"])
		})
	}
	w := newWorld(t)
	require.ErrorIs(t, w.commitUnder(context.Background(), lease{}, expireRows, decision{}), errLeaseLost, "no lease at all")
}

func (w *world) holdsLease(s *Service) lease {
	l, err := s.lease(context.Background(), "job")
	require.NoError(w.t, err)
	return l
}

// Two nodes that find the lease free at once do not both get it.
func TestALeaseIsTakenOnce(t *testing.T) {
	w := newWorld(t)
	other := w.another("node-2")
	w.store.before = func(c store.Change) error {
		w.store.before = nil
		w.holdsLease(other)
		return nil
	}
	_, err := w.lease(context.Background(), "job")
	require.ErrorIs(t, err, errLeaseHeld)
}

// Expiry leaves a job to the node that holds its lease, and goes on when that one's lease has ended, also in the middle.
func TestExpiryRunsUnderItsLease(t *testing.T) {
	w := newWorld(t)
	old := dayOf(w.clock.Now()) - 3
	w.fill(old, 3*expiryChunk)
	other := w.another("node-2")
	_, err := other.lease(context.Background(), expiryJob)
	require.NoError(t, err)
	deleted, err := w.Expire(context.Background())
	require.NoError(t, err)
	require.Zero(t, deleted)

	w.clock.add(leaseTerm)
	w.store.before = func(c store.Change) error {
		if len(c.Delete) > 0 {
			w.store.before = nil
			w.clock.add(2 * leaseTerm) // held up before its first commit
			_, err := other.lease(context.Background(), expiryJob)
			require.NoError(t, err)
		}
		return nil
	}
	deleted, err = w.Expire(context.Background())
	require.NoError(t, err)
	require.Zero(t, deleted)
	require.Equal(t, 3*expiryChunk, w.inBucket(old))

	w.clock.add(leaseTerm)
	w.store.before = func(c store.Change) error {
		w.clock.add(leaseTerm * time.Duration(count(len(c.Delete) > 0)) / 2)
		return nil
	}
	deleted, err = w.Expire(context.Background())
	require.NoError(t, err)
	require.Equal(t, 3*expiryChunk, deleted, "it takes the lease again as often as it must")
}

// A lease row that was tampered with is alarmed, and no job runs on it.
func TestATamperedLeaseIsNone(t *testing.T) {
	w := newWorld(t)
	w.holdsLease(w.Service)
	row := w.row(leaseKey("job"))
	row.Value[len(row.Value)-1] ^= 1
	w.attack([]store.Put{row})
	_, err := w.lease(context.Background(), "job")
	var tam *tampered
	require.ErrorAs(t, err, &tam)

	w.fill(dayOf(w.clock.Now())-3, 1)
	row.Key = leaseKey(expiryJob)
	w.attack([]store.Put{row})
	_, err = w.Expire(context.Background())
	require.Equal(t, CodeTampered, CodeOf(err))
	log := w.entries()
	require.Equal(t, leaseRow, log[len(log)-2].Reason)
}

// A node whose clock is far ahead deletes nothing that others still look into.
func TestExpiryGoesByTheEarlierClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"the node is ahead": 30 * day, "the node is behind": -30 * day} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.skew = skew
			earlier := w.clock.Now().Add(min(skew, 0))
			w.fill(dayOf(earlier)-2, 1)
			w.fill(dayOf(earlier)-3, 1)
			deleted, err := w.Expire(context.Background())
			require.NoError(t, err)
			require.Equal(t, 1, deleted)
		})
	}
}
