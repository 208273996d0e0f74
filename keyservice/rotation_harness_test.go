package keyservice

import (
	"context"
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

func key(label string, version uint32) seed.KeyRef {
	return seed.KeyRef{Label: label, Version: version}
}

// furtherKeys are the versions that rotations go to. A world sees none of them before they are revealed to it. Those from 3
// on are each used by one test, because it destroys them.
func furtherKeys() []hsm.PlannedKey {
	var keys []hsm.PlannedKey
	for label, last := range map[string]uint32{
		wrapLabel: 14, sealLabel: 4, dataLabel: 6, lookupLabel: 5, digestLabel: 2, deriveLabel: 2, auditLabel: 2, "backup": 2, "import": 2,
	} {
		for version := uint32(2); version <= last; version++ {
			keys = append(keys, hsm.PlannedKey{Key: key(label, version), Origin: hsm.Generated})
		}
	}
	return keys
}

// reveal lets the HSM show keys as if they had just been made.
func (w *world) reveal(refs ...seed.KeyRef) {
	for _, ref := range refs {
		w.revealed.Store(ref, true)
	}
}

// begins lets two officers begin a rotation, and returns its id.
func (w *world) begins(label string, from, to uint32) string {
	w.t.Helper()
	done := w.agreed(ActionRotate, KeyRotation{Label: label, From: from, To: to})
	require.Equal(w.t, ProposalDone, done.State, done.Result)
	require.Equal(w.t, fmt.Sprintf("%s/%d is active in place of %d", label, to, from), done.Result)
	return done.ID
}

func (w *world) rotation(id string) RotationView {
	w.t.Helper()
	v, err := w.Rotation(context.Background(), alice, id)
	require.NoError(w.t, err)
	return v
}

// renewsAll lets the node work until the rotation rests, and says how far it came.
func (w *world) renewsAll(id string) RotationView {
	w.t.Helper()
	require.NoError(w.t, w.Renew(context.Background()))
	return w.rotation(id)
}

// rotates carries a rotation out that leaves nothing behind.
func (w *world) rotates(label string, from, to uint32) RotationView {
	w.t.Helper()
	v := w.renewsAll(w.begins(label, from, to))
	require.Equal(w.t, RotationDone, v.State, "%+v", v)
	require.Empty(w.t, v.Left)
	return v
}

// retires retires a version and destroys it.
func (w *world) retires(label string, version uint32) {
	w.t.Helper()
	done := w.agreed(ActionRetire, KeyVersion{Label: label, Version: version})
	require.Equal(w.t, ProposalDone, done.State, done.Result)
}

func (w *world) destroys(label string, version uint32) {
	w.t.Helper()
	done := w.agreed(ActionDestroy, KeyVersion{Label: label, Version: version})
	require.Equal(w.t, ProposalDone, done.State, done.Result)
}

// refusedToPropose says why an action cannot even be proposed.
func (w *world) refusedToPropose(action string, parameters any) *Error {
	w.t.Helper()
	_, err := w.Propose(context.Background(), alice, w.signedProposal(alice, action, parameters))
	var e *Error
	require.ErrorAs(w.t, err, &e)
	return e
}

// dependents is what depends on a version now.
func (w *world) dependents(ref seed.KeyRef) Dependents {
	w.t.Helper()
	found, err := w.census(context.Background(), counting{})
	require.NoError(w.t, err)
	require.Zero(w.t, found.unreadable)
	return found.of(ref)
}

// rotatedTo rotates a label to a version unless that is active already.
func (w *world) rotatedTo(label string, to uint32) {
	w.t.Helper()
	w.reveal(key(label, to))
	if from := w.ring.Load().activeOf(label).Version; from != to {
		w.rotates(label, from, to)
	}
}

// masterKeyOf is the first of these versions that the HSM has.
func (w *world) masterKeyOf(label string, versions ...uint32) (seed.KeyRef, error) {
	all, err := theHSM.Keys(context.Background())
	for _, version := range versions {
		for _, m := range all {
			if m.Key == key(label, version) {
				return m.Key, err
			}
		}
	}
	return seed.KeyRef{}, errors.Join(seed.ErrKeyNotFound, err)
}
