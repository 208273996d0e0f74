package hsm_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

func TestTheDataKeyOfABackup(t *testing.T) {
	h := quick(t, twoVersions(t))
	backup1, backup2 := seed.KeyRef{Label: "backup", Version: 1}, seed.KeyRef{Label: "backup", Version: 2}
	for version, key := range map[seed.KeyRef][]byte{backup1: rfcSecret(32), backup2: make([]byte, 32)} {
		require.NoError(t, h.Use([]seed.KeyRef{version}))
		w, err := h.WrapDataKey(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, version, w.Key)
		require.Len(t, w.Blob, 40)
		require.False(t, bytes.Contains(w.Blob, key[:8]))
		require.NoError(t, h.Use(nil))
		got, err := h.UnwrapDataKey(t.Context(), w)
		require.NoError(t, err)
		require.Equal(t, key, got)
	}
	live, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Zero(t, live)
}

func TestWhatIsNoDataKeyIsRefused(t *testing.T) {
	h := open(t)
	for _, n := range []int{0, 16, 31, 33, 64} {
		_, err := h.WrapDataKey(t.Context(), make([]byte, n))
		require.Error(t, err, "%d bytes", n)
	}
	w, err := h.WrapDataKey(t.Context(), rfcSecret(32))
	require.NoError(t, err)
	stored := wrapKnown(t, h, seed.SHA1, rfcSecret(32)).wrapped
	posing := stored
	posing.Key = w.Key
	long, err := h.WrapUnderBackup(rfcSecret(64))
	require.NoError(t, err)
	for name, test := range map[string]struct {
		wrapped seed.Wrapped
		is      error
	}{
		"a seed":                {stored, seed.ErrBadBlob},
		"a seed that poses":     {posing, seed.ErrBadBlob},
		"too long":              {long, seed.ErrBadBlob},
		"damaged":               {func() seed.Wrapped { d := w; d.Blob = slices.Clone(w.Blob); d.Blob[39] ^= 1; return d }(), seed.ErrBadBlob},
		"empty":                 {seed.Wrapped{Mech: w.Mech, Key: w.Key}, seed.ErrBadBlob},
		"under no such version": {seed.Wrapped{Mech: w.Mech, Key: seed.KeyRef{Label: "backup", Version: 9}, Blob: w.Blob}, seed.ErrKeyNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := h.UnwrapDataKey(t.Context(), test.wrapped)
			require.ErrorIs(t, err, test.is)
			require.Nil(t, key)
		})
	}
	require.ErrorIs(t, h.UseSeed(t.Context(), w, seed.SHA1, func(seed.MAC) error { return nil }), seed.ErrBadBlob,
		"a data key is no seed")
	require.EqualValues(t, 1, h.Stats().Generation)
}

// A data key is right or an outage, and nothing of it stays in the HSM.
func TestFaultDataKeys(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.ReopenInterval = time.Millisecond })
	key := rfcSecret(32)
	w, err := r.WrapDataKey(t.Context(), key)
	require.NoError(t, err)
	for name, op := range map[string]func() error{
		"wrap": func() error {
			again, err := r.WrapDataKey(t.Context(), key)
			if err == nil && !bytes.Equal(again.Blob, w.Blob) {
				err = errWrong
			}
			return err
		},
		"unwrap": func() error {
			got, err := r.UnwrapDataKey(t.Context(), w)
			if err == nil && !bytes.Equal(got, key) {
				err = errWrong
			}
			return err
		},
	} {
		r.sweep(op, name, func(fault.Fault) {})
	}
	generation := r.generation()
	r.Change(true)
	eventually(t, "the next generation", func() bool { return r.Stats().Ready && r.generation() > generation })
	require.Zero(t, r.faults.Stats().SessionObjects)
}
