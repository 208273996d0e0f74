package hsm_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
	fault "ramzban/softhsm/faultmodule"
)

var wrap1, wrap2 = seed.KeyRef{Label: "wrap", Version: 1}, seed.KeyRef{Label: "wrap", Version: 2}

// twoWraps is a token with two versions of the wrapping master key.
func twoWraps(t testing.TB) *softhsm.Token {
	t.Helper()
	tok := copyOf(t, token)
	require.NoError(t, hsm.CreateKey(tok.Config(), wrap2))
	renote(t, tok)
	return tok
}

// kinds are seeds of every hash and of awkward lengths.
var kinds = []struct {
	hash   seed.Hash
	length int
}{{seed.SHA1, 20}, {seed.SHA1, 21}, {seed.SHA1, 32}, {seed.SHA1, 64}, {seed.SHA256, 32}, {seed.SHA256, 33}, {seed.SHA512, 64}}

// A seed that was wrapped anew makes the same MACs, by the HSM and by software, and nothing of it stays in the HSM.
func TestARewrappedSeedMakesTheSameMACs(t *testing.T) {
	h := quick(t, twoWraps(t))
	require.NoError(t, h.Use([]seed.KeyRef{wrap1}))
	var all []known
	for _, kind := range kinds {
		all = append(all, wrapKnown(t, h, kind.hash, rfcSecret(kind.length)))
	}
	require.NoError(t, h.Use([]seed.KeyRef{wrap2}))
	live, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Zero(t, live)
	for _, k := range all {
		before, err := k.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		moved, err := h.Rewrap(t.Context(), k.wrapped, k.hash)
		require.NoError(t, err)
		require.Equal(t, wrap2, moved.Key)
		require.NotEqual(t, k.wrapped.Blob, moved.Blob)
		again, err := h.Rewrap(t.Context(), moved, k.hash)
		require.NoError(t, err)
		require.Equal(t, moved, again)
		twice, err := h.Rewrap(t.Context(), k.wrapped, k.hash)
		require.NoError(t, err)
		require.Equal(t, moved, twice)
		after, err := known{k.hash, k.value, moved}.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, before, after)
		require.Equal(t, k.software([]byte("message")), after)
	}
	live, err = h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Equal(t, h.Stats().CachedSeeds, live)
	back := all[0]
	require.NoError(t, h.Use([]seed.KeyRef{wrap1}), "and back")
	moved, err := h.Rewrap(t.Context(), back.wrapped, back.hash)
	require.NoError(t, err)
	require.Equal(t, back.wrapped, moved)
}

// The fingerprint of a seed is the same under whatever keys it is imported.
func TestAFingerprintOutlivesRotations(t *testing.T) {
	h := quick(t, twoVersions(t))
	for _, kind := range kinds {
		require.NoError(t, h.Use([]seed.KeyRef{wrap1, {Label: "lookup", Version: 1}}))
		made, err := h.Import(t.Context(), asMaker(t, h, rfcSecret(kind.length)), kind.hash)
		require.NoError(t, err)
		require.NoError(t, h.Use(nil))
		again, err := h.Import(t.Context(), asMaker(t, h, rfcSecret(kind.length)), kind.hash)
		require.NoError(t, err)
		require.Equal(t, wrap2, again.ForStore.Key)
		require.Equal(t, made.Fingerprint, again.Fingerprint)
	}
}

// Rewrapping leaves the seeds of verifications alone: none is unwrapped again, though the cache has room for one only.
func TestRewrappingLeavesWarmSeedsAlone(t *testing.T) {
	h := quickWith(t, twoWraps(t), func(c *hsm.Config) { c.SeedCache = 1 })
	require.NoError(t, h.Use([]seed.KeyRef{wrap1}))
	warm, cold := wrapKnown(t, h, seed.SHA1, rfcSecret(20)), wrapKnown(t, h, seed.SHA256, rfcSecret(32))
	_, err := warm.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.NoError(t, h.Use([]seed.KeyRef{wrap2}))
	before := h.Stats()
	require.NoError(t, together(8, func(i int) error {
		for range 20 {
			if _, err := h.Rewrap(t.Context(), cold.wrapped, cold.hash); err != nil {
				return err
			}
			if _, err := h.Rewrap(t.Context(), warm.wrapped, warm.hash); err != nil {
				return err
			}
			if _, err := warm.mac(t.Context(), h, []byte("message")); err != nil {
				return err
			}
		}
		return nil
	}))
	after := h.Stats()
	require.Equal(t, before.SeedMisses, after.SeedMisses)
	require.Equal(t, 1, after.CachedSeeds)
	require.EqualValues(t, 1, after.Generation)
}

func TestWhatCannotBeRewrappedIsRefused(t *testing.T) {
	h := quick(t, twoWraps(t))
	require.NoError(t, h.Use([]seed.KeyRef{wrap1}))
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.NoError(t, h.Use([]seed.KeyRef{wrap2}))
	change := func(f func(*seed.Wrapped)) seed.Wrapped {
		w := k.wrapped
		w.Blob = slices.Clone(w.Blob)
		f(&w)
		return w
	}
	for name, test := range map[string]struct {
		wrapped seed.Wrapped
		is      error
	}{
		"damaged":          {change(func(w *seed.Wrapped) { w.Blob[7] ^= 1 }), seed.ErrBadBlob},
		"cut":              {change(func(w *seed.Wrapped) { w.Blob = w.Blob[:24] }), seed.ErrBadBlob},
		"empty":            {change(func(w *seed.Wrapped) { w.Blob = nil }), seed.ErrBadBlob},
		"other mechanism":  {change(func(w *seed.Wrapped) { w.Mech++ }), seed.ErrBadBlob},
		"of a backup":      {change(func(w *seed.Wrapped) { w.Key.Label = "backup" }), seed.ErrBadBlob},
		"under no such":    {change(func(w *seed.Wrapped) { w.Key.Version = 3 }), seed.ErrKeyNotFound},
		"under no version": {change(func(w *seed.Wrapped) { w.Key.Version = 0 }), seed.ErrKeyNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := h.Rewrap(t.Context(), test.wrapped, k.hash)
			require.ErrorIs(t, err, test.is)
			require.Zero(t, made)
		})
	}
	require.NoError(t, h.Use([]seed.KeyRef{wrap1}))
	_, err := h.Rewrap(t.Context(), change(func(w *seed.Wrapped) { w.Key = wrap2 }), k.hash)
	require.ErrorIs(t, err, seed.ErrBadBlob, "it is wrapped under another version than it says")
	_, err = h.Rewrap(t.Context(), k.wrapped, 0)
	require.Error(t, err)
	live, err := h.LiveObjects(t.Context())
	require.NoError(t, err)
	require.Zero(t, live)
	require.EqualValues(t, 1, h.Stats().Generation)
}

// An extractable seed may be wrapped, and nothing else.
func TestAnExtractableSeedMakesNoMACs(t *testing.T) {
	h := open(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.ErrorIs(t, h.SignExtractable(k.wrapped, k.hash), pkcs11.Error(pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED))
}

// Every C call of a rewrapping fails once in each way, before and after it did its work: the result is right or an
// outage, and the extractable seed is gone when the call returns.
func TestFaultRewrappingLeavesNothingBehind(t *testing.T) {
	r := newRigOn(t, twoWraps(t), func(c *hsm.Config) { c.SeedCache, c.ReopenInterval = 1, time.Millisecond })
	require.NoError(t, r.Use([]seed.KeyRef{wrap1}))
	k := wrapKnown(t, r.HSM, seed.SHA256, rfcSecret(32))
	require.NoError(t, r.Use([]seed.KeyRef{wrap2}))
	first, err := r.Rewrap(t.Context(), k.wrapped, k.hash)
	require.NoError(t, err)
	tally := r.tally()
	again, err := r.Rewrap(t.Context(), first, k.hash)
	require.NoError(t, err)
	require.Equal(t, first, again)
	r.requireCalls(tally, calls{fault.UnwrapKey: 0, fault.WrapKey: 0, fault.SignInit: 0})
	for name, op := range map[string]func() error{
		"rewrap": func() error {
			made, err := r.Rewrap(t.Context(), k.wrapped, k.hash)
			if err == nil && (made.Key != first.Key || !bytes.Equal(made.Blob, first.Blob)) {
				err = errWrong
			}
			return err
		},
	} {
		r.sweep(op, name, func(f fault.Fault) {
			lostSession := f.Code == pkcs11.CKR_SESSION_HANDLE_INVALID
			refusal := f.Code == pkcs11.CKR_DATA_INVALID || f.Code == pkcs11.CKR_GENERAL_ERROR
			madeThoughRefused := refusal && f.Done && f.Function == fault.UnwrapKey && f.Skip != 1
			if lostSession || madeThoughRefused {
				// The sessions' objects are gone with the sessions, as the module has only said yet. And what it made but
				// said that it refused stays as long as the session, unless it is extractable, which is the second unwrap.
				generation := r.generation()
				r.Change(true)
				eventually(t, "the next generation", func() bool { return r.Stats().Ready && r.generation() > generation })
			}
			require.EqualValues(t, r.Stats().CachedSeeds, r.faults.Stats().SessionObjects, "%s: %+v", name, f)
		})
	}
}

// sweep makes every C call of op fail once in each way, and lets check look at what the failure has left behind.
func (r *rig) sweep(op func() error, name string, check func(fault.Fault)) {
	r.t.Helper()
	for f, n := range r.callsOf(op, name) {
		for skip := range n {
			for _, code := range sweepCodes {
				for _, done := range []bool{false, true} {
					injected := fault.Fault{Function: f, Code: code, Skip: skip, Times: 1, Done: done}
					what := fmt.Sprintf("%s: %+v", name, injected)
					r.faults.Inject(injected)
					if err := op(); err != nil {
						require.NotErrorIs(r.t, err, errWrong, what)
						require.NotErrorIs(r.t, err, seed.ErrKeyNotFound, what)
					}
					r.faults.Clear()
					check(injected)
					eventually(r.t, what, func() bool { return op() == nil })
				}
			}
		}
	}
}
