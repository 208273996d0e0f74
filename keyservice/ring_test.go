package keyservice

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// setStatus changes the ring as an approved proposal would.
func (w *world) setStatus(key seed.KeyRef, status KeyStatus) {
	w.t.Helper()
	seen := w.ring.Load()
	d, err := w.changedRing(context.Background(), seen, func(r *ring) error {
		r.find(key).Status = status
		return nil
	})
	require.NoError(w.t, err)
	_, err = w.commit(context.Background(), itself, "keys.test", d)
	require.NoError(w.t, err)
	_, err = w.refreshRing(context.Background(), seen)
	require.NoError(w.t, err)
}

func TestTheRingIsMadeOnceAndKept(t *testing.T) {
	w := newWorld(t)
	made := w.ring.Load()
	require.Len(t, made.Installation, 16)
	require.Equal(t, string(beginRing), w.entries()[0].Action, "it is the log's first entry")
	for _, v := range made.Versions {
		require.Equal(t, KeyActive, v.Status, v.Key)
		require.NotEmpty(t, v.KCV, v.Key)
	}
	w.restart()
	require.Equal(t, made.ring, w.ring.Load().ring)
}

// openingFails says that the service cannot be started again on what is stored, and why.
func (w *world) openingFails(why string) {
	w.t.Helper()
	_, err := New(context.Background(), w.Config)
	var tam *tampered
	require.ErrorAs(w.t, err, &tam)
	require.ErrorContains(w.t, err, why)
}

func TestAChangedRingIsNotOpened(t *testing.T) {
	w := newWorld(t)
	whole := w.row(ringKey)
	for i := range whole.Value {
		changed := append([]byte{}, whole.Value...)
		changed[i] ^= 1
		w.attack([]store.Put{{Key: ringKey, Value: changed}})
		_, err := New(context.Background(), w.Config)
		require.Error(t, err, "byte %d", i)
	}
	w.attack(nil, ringKey)
	w.openingFails("the row is missing, and the database is not new")
}

// An older ring, put back while no process runs, is not opened once a checkpoint was signed under a newer one, by any node;
// nor where the checkpoint is kept elsewhere. The comparison finds it also where none was signed since.
func TestAnOlderRingPutBackIsFoundAtTheNextStart(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		ctx, w, other := context.Background(), nodes[0], nodes[len(nodes)-1]
		older := w.row(ringKey)
		w.setStatus(seed.KeyRef{Label: digestLabel, Version: 1}, KeyActive)
		newer := w.row(ringKey)
		require.Empty(t, w.compared())
		w.attack([]store.Put{older})
		w.restart()
		require.Contains(t, w.compared(), Discrepancy{What: ringRow, Logged: 2, Stored: 1})
		w.setStatus(seed.KeyRef{Label: digestLabel, Version: 1}, KeyActive)
		require.True(t, slices.ContainsFunc(w.compared(), func(d Discrepancy) bool { return d.What == audit.LoggedTwice }), "it was changed again")
		w.attack([]store.Put{newer})
		w.restart()

		other.decideSome(1)
		require.NoError(t, NewCheckpointer(other.Service).Advance(ctx))
		note := other.row(audit.CheckpointKey(other.node)).Value
		require.NoError(t, w.CheckAnchor(ctx, note))
		w.restart()
		w.attack([]store.Put{older})
		w.openingFails("an older key ring was put back")

		now := *w.ring.Load()
		now.Revision = 1
		w.ring.Store(&now)
		require.ErrorIs(t, w.CheckAnchor(ctx, note), ErrRollback)
	})
}

// Two nodes; one changes the ring. The other, which has not seen it, writes nothing before it has, and notices nothing.
func TestANodeWithAnOldRingWritesNothingBeforeItHasTheNewOne(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	a, b := nodes[0], nodes[1]
	p := a.enrol(card(1), "counter-6")
	old := b.ring.Load()
	a.setStatus(seed.KeyRef{Label: deriveLabel, Version: 1}, KeyActive) // the same statuses, another revision
	require.Same(t, old, b.ring.Load(), "nobody told it")
	v, err := b.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()})
	require.NoError(t, err)
	require.True(t, v.Accepted)
	require.Equal(t, a.ring.Load().ring, b.ring.Load().ring)

	a.setStatus(seed.KeyRef{Label: deriveLabel, Version: 1}, KeyActive)
	_, err = b.Token(context.Background(), authz.Caller{Name: "nobody"}, p.serial)
	require.Equal(t, CodeDenied, CodeOf(err), "a commit without rows learns of it too")
	require.Equal(t, a.ring.Load().ring, b.ring.Load().ring)
}

func TestRowsUnderNoRingAreNotWritten(t *testing.T) {
	w := newWorld(t)
	row, err := w.mac("x/1", pointer{Schema: schema})
	require.NoError(t, err)
	_, err = w.commit(context.Background(), itself, "test", decision{
		change: store.Change{Put: []store.Put{row}}, entry: audit.Entry{Outcome: audit.Done},
	})
	require.Error(t, err)
	require.False(t, w.has("x/1"))
}

// What is under a retired version can be read, so that customers notice nothing; but nothing under it is written again.
func TestNothingUnderARetiredVersionIsWritten(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	for _, label := range []string{wrapLabel, dataLabel, lookupLabel} {
		w.setStatus(seed.KeyRef{Label: label, Version: 1}, KeyRetired)
		require.True(t, w.try(p, p.password()).Accepted, "a verification writes nothing under %s", label)
		_, err := w.Suspend(context.Background(), branch, p.serial)
		require.Equal(t, CodeKeyRetired, CodeOf(err), label)
		w.setStatus(seed.KeyRef{Label: label, Version: 1}, KeyActive)
	}
	_, err := w.Suspend(context.Background(), branch, p.serial)
	require.NoError(t, err)
}

// What a destroyed version of the audit key signed can still be checked: its public half stays.
func TestThePublicHalfOfAnAuditKeyOutlivesIt(t *testing.T) {
	w := newWorld(t)
	before, err := w.AuditKeys(context.Background(), auditor)
	require.NoError(t, err)
	require.Len(t, before, 1)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	seen := w.ring.Load()
	d, err := w.changedRing(context.Background(), seen, func(r *ring) error {
		gone := seed.KeyRef{Label: auditLabel, Version: 9}
		r.add(seed.MasterKey{Key: gone, Public: der})
		r.find(gone).Status = KeyDestroyed
		return nil
	})
	require.NoError(t, err)
	_, err = w.commit(context.Background(), itself, "keys.test", d)
	require.NoError(t, err)
	_, err = w.refreshRing(context.Background(), seen)
	require.NoError(t, err)
	after, err := w.AuditKeys(context.Background(), auditor)
	require.NoError(t, err)
	require.Len(t, after, 2)
	require.EqualValues(t, 9, after[1].Version)
	require.Equal(t, der, after[1].DER())
}
