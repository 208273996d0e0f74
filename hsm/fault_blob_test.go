package hsm_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

// never is what UseSeed must not call: there is no seed to check a password with.
func never(t *testing.T) func(seed.MAC) error {
	return func(seed.MAC) error { t.Error("fn was called without a seed"); return nil }
}

// Row "error on unwrap": the HSM's refusal of the blob and an outage are told apart, and neither is a verdict.
func TestFaultUnwrapErrorsAreNoVerdict(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	use := func(w seed.Wrapped) error { return r.UseSeed(t.Context(), w, c.hash, never(t)) }

	for _, code := range []uint64{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_KEY_SIZE_RANGE} {
		tally := r.tally()
		r.faults.Inject(fault.Fault{Function: fault.UnwrapKey, Code: code, Times: 1})
		err := use(c.wrapped)
		require.ErrorIs(t, err, seed.ErrBadBlob)
		r.requireCalls(tally, calls{fault.UnwrapKey: 1, fault.SignInit: 0, fault.Finalize: 0})
	}
	for _, code := range []uint64{pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_MEMORY} {
		r.faults.Inject(fault.Fault{Function: fault.UnwrapKey, Code: code})
		unavailable(t, use(c.wrapped))
		r.faults.Clear()
	}
	require.EqualValues(t, 1, r.generation())
	r.checks(c)

	r.faults.Inject(fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_DEVICE_ERROR})
	other := r.enrolledElsewhere(c)
	unavailable(t, use(other))
	r.faults.Clear()
	r.recovers()
	r.checks(c)
}

// enrolledElsewhere is the same customer's seed under a blob that is not in the cache: the last byte differs.
func (r *rig) enrolledElsewhere(c known) seed.Wrapped {
	w := c.wrapped
	w.Blob = slices.Clone(w.Blob)
	w.Blob[len(w.Blob)-1] ^= 1
	return w
}

// Damaged blobs, however many, are the blobs' fault: the HSM is not reopened for them.
func TestFaultDamagedBlobsDoNotDisturbOthers(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	damaged := r.enrolledElsewhere(c)
	for range 20 {
		require.ErrorIs(t, r.UseSeed(t.Context(), damaged, c.hash, never(t)), seed.ErrBadBlob)
		r.checks(c)
	}
	require.EqualValues(t, 1, r.generation())
}

// Failures without a clear cause lead to a new generation when they go on.
func TestFaultUnclearFailuresEndTheGeneration(t *testing.T) {
	r := newRig(t)
	r.works()
	r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_FUNCTION_FAILED, Times: 5})
	for range 5 {
		_, err := r.pseudonym()
		unavailable(t, err)
	}
	r.recovers()
	require.EqualValues(t, 2, r.generation())
}

// A generation change scheduled by the count of destroyed session objects, for modules that leak with each.
func TestFaultGenerationsChangeByCount(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) {
		c.PoolSessions, c.SeedCache, c.Profile.RecycleAfter = 4, 2, 50
	})
	customers := r.enrolMany(8)
	var most uint64
	for range 20 {
		require.NoError(t, together(16, func(i int) error { return r.check(t.Context(), customers[i%8], "message") }))
		most = max(most, r.Stats().DestroyedObjects)
	}
	r.works() // a change may be due still
	s := r.Stats()
	require.Greater(t, s.Recycled, uint64(2))
	require.Equal(t, s.Recycled+1, s.Generation)
	require.Equal(t, s.Generation, r.faults.Calls(fault.Initialize))
	require.Less(t, most, uint64(50+64), "the count is kept to, but for what runs at the change")
	require.Zero(t, s.Failures)
}

// A caller that waits for a session or for an unwrap keeps its deadline, however slow the HSM is.
func TestFaultSlowHSMWaitersKeepTheirDeadlines(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	r.faults.Delay(time.Millisecond)
	require.NoError(t, together(16, func(int) error { return r.check(t.Context(), c, "message") }))

	running, release := r.stuck()
	impatient(r, 16, c)
	select {
	case <-running:
		t.Fatal("the session was not held")
	default:
	}
	release()
	require.NoError(t, <-running)

	// An unwrap that hangs: its first caller gives up, and so do those who joined it.
	cold := r.enrol("cold")
	r.faults.Delay(time.Hour, fault.UnwrapKey)
	impatient(r, 4, cold)
	r.faults.Delay(0)
	r.checks(cold)
	require.EqualValues(t, 1, r.generation())
}

// impatient lets n callers wait for 20 ms each; all must come back, with an outage.
func impatient(r *rig, n int, c known) {
	r.t.Helper()
	errs := make([]error, n)
	_ = together(n, func(i int) error {
		ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Millisecond)
		defer cancel()
		errs[i] = r.check(ctx, c, "message")
		return nil
	})
	for _, err := range errs {
		unavailable(r.t, err)
		require.ErrorIs(r.t, err, context.DeadlineExceeded)
	}
}
