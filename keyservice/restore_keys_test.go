package keyservice

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

// lackingHSM is the real HSM without one of its keys, as after its destruction.
type lackingHSM struct {
	HSM
	lacks seed.KeyRef
}

func (h lackingHSM) without(ref seed.KeyRef) error {
	if ref == h.lacks {
		return fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
	}
	return nil
}

func (h lackingHSM) Keys(ctx context.Context) ([]seed.MasterKey, error) {
	all, err := h.HSM.Keys(ctx)
	return slices.DeleteFunc(all, func(m seed.MasterKey) bool { return m.Key == h.lacks }), err
}

func (h lackingHSM) Use(refs []seed.KeyRef) error {
	for _, ref := range refs {
		if err := h.without(ref); err != nil {
			return err
		}
	}
	return h.HSM.Use(refs)
}

func (h lackingHSM) CheckSeal(ctx context.Context, purpose string, data []byte, s seed.MACed) error {
	if err := h.without(s.Key); err != nil {
		return err
	}
	return h.HSM.CheckSeal(ctx, purpose, data, s)
}

func (h lackingHSM) Decrypt(ctx context.Context, aad []byte, e seed.Encrypted) ([]byte, error) {
	if err := h.without(e.Key); err != nil {
		return nil, err
	}
	return h.HSM.Decrypt(ctx, aad, e)
}

func (h lackingHSM) StateKey(ctx context.Context, ref seed.KeyRef) ([]byte, error) {
	if err := h.without(ref); err != nil {
		return nil, err
	}
	return h.HSM.StateKey(ctx, ref)
}

func (h lackingHSM) UnwrapDataKey(ctx context.Context, w seed.Wrapped) ([]byte, error) {
	if err := h.without(w.Key); err != nil {
		return nil, err
	}
	return h.HSM.UnwrapDataKey(ctx, w)
}

// A backup that needs a key which was destroyed since is not restored, and the key is named; officers can give up what
// needs it.
func TestABackupWhoseKeyIsGone(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	l := w.lostNow(w.takeBackup(), true)
	for _, label := range []string{wrapLabel, sealLabel, dataLabel, lookupLabel, "backup"} {
		gone := key(label, 1)
		l.change = func(o *Restore) { o.HSM = lackingHSM{theHSM, gone} }
		to := places["badger"](t)
		_, err := l.run(to)
		require.ErrorContains(t, err, gone.String(), label)
		require.ErrorContains(t, err, "which this HSM does not have", label)
		to.requireUntouched(t)
	}
	gone := key(wrapLabel, 1)
	l.change = func(o *Restore) { o.HSM = lackingHSM{theHSM, gone} }
	l.without = []string{gone.String()}
	result, err := l.run(places["badger"](t))
	require.NoError(t, err)
	require.Equal(t, 1, result.Gone)
	require.Contains(t, result.whyOf(p.serial), "was destroyed")
}

// restoredLacking restores at an HSM that lacks a key, serves without it, and then with it. It returns the key ring, and
// which keys the HSM was told to destroy.
func (l lost) restoredLacking(gone seed.KeyRef) (ring *keyring, erased []seed.KeyRef) {
	l.w.t.Helper()
	l.change = func(o *Restore) { o.HSM = lackingHSM{&faultyHSM{HSM: theHSM, revealed: l.w.revealed}, gone} }
	to := places["badger"](l.w.t)
	_, err := l.run(to)
	require.NoError(l.w.t, err)
	w := &world{t: l.w.t, node: l.node, clock: &fakeClock{now: l.w.clock.Now()}, revealed: l.w.revealed}
	w.open = func() (database, error) { return to.node(w) }
	w.begin()
	w.hsm.destroying = func(ref seed.KeyRef) error { erased = append(erased, ref); return seed.ErrUnavailable }
	with := w.hsm.HSM
	w.hsm.HSM = lackingHSM{with, gone}
	w.restart()
	w.enrol(card(9), "counter-6")
	w.hsm.HSM = with
	w.restart()
	require.NoError(w.t, w.Renew(context.Background()))
	return w.ring.Load(), erased
}

// A key that the restoring HSM lacks, and that nobody has named, is erased by no node: what is in no database may need it.
func TestAnAbsentKeyIsNotDestroyed(t *testing.T) {
	w := newWorld(t)
	file := map[string]lost{}
	for _, label := range []string{"backup", "import", sealLabel} {
		w.rotatedTo(label, 2)
		file[label] = w.lostNow(w.takeBackup(), true)
	}
	for label, l := range file {
		ring, erased := l.restoredLacking(key(label, 1))
		require.Equal(t, KeyRetired, ring.find(key(label, 1)).Status, label)
		require.Empty(t, erased, label)
	}
	l := file["import"]
	l.without = []string{key("import", 1).String()}
	ring, erased := l.restoredLacking(key("import", 1))
	require.Equal(t, KeyDestroyed, ring.find(key("import", 1)).Status, "the officers gave it up")
	require.Contains(t, erased, key("import", 1))
	l.without = nil
	ring, _ = l.restoredLacking(key("import", 2))
	require.Equal(t, key("import", 1), ring.activeOf("import"), "the highest that is there")
}

// What officers had destroyed after the backup is, if the log tells of it.
func TestADestructionAfterTheBackup(t *testing.T) {
	w := newWorld(t)
	gone := key(deriveLabel, 1)
	w.rotatedTo(deriveLabel, 2)
	before := w.takeBackup()
	w.retires(deriveLabel, 1)
	proposed := w.propose(alice, ActionDestroy, KeyVersion{Label: deriveLabel, Version: 1})
	between := w.takeBackup()
	w.approve(bob, proposed)
	w.hsm.destroying = func(seed.KeyRef) error { return seed.ErrKeyNotFound } // this world's HSM shall have it erased
	_, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	require.Equal(t, KeyDestroyed, w.ring.Load().find(gone).Status)
	for why, file := range map[string][]byte{"proposed after the backup": before, "proposed before it": between} {
		ring, _ := w.lostNow(file, true).restoredLacking(gone)
		require.Equal(t, KeyDestroyed, ring.find(gone).Status, why)
		ring, erased := w.lostNow(file, false).restoredLacking(gone)
		require.Equal(t, KeyRetired, ring.find(gone).Status, "no log, no destruction")
		require.Empty(t, erased)
	}
}
