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
