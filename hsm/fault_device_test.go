package hsm_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

var deviceCodes = []uint64{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED}

// Row "device error/removed, token not present, cryptoki not initialised": drain, finalise, initialise, find the token
// by label (the fault module gives it another slot number each time), self-check, next generation.
func TestFaultLostDeviceIsInitialisedAnew(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	want := r.pseudonymous()
	for i, code := range deviceCodes {
		tally := r.tally()
		r.faults.Break(code)
		r.checks(c)
		r.requireCalls(tally, calls{fault.Initialize: 1, fault.Login: 1, fault.UnwrapKey: 6})
		require.EqualValues(t, i+2, r.generation())
		require.Equal(t, want, r.pseudonymous())
	}
}

// While the device stays away the breaker is open: calls fail at once and do not reach the module.
func TestFaultBreakerIsOpenWhileTheDeviceIsAway(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.ReopenInterval = 200 * time.Millisecond })
	r.works()
	tally := r.tally()
	r.faults.Inject(fault.Fault{Function: fault.Initialize, Code: pkcs11.CKR_DEVICE_ERROR, Times: 3})
	r.faults.Break(pkcs11.CKR_DEVICE_REMOVED)
	_, err := r.pseudonym()
	unavailable(t, err)
	require.Equal(t, "open", r.Stats().Breaker)
	require.False(t, r.Stats().Ready)
	require.Contains(t, r.Stats().Down, "CKR_DEVICE_ERROR")

	before := r.faults.Counts()
	for range 100 {
		_, err := r.pseudonym()
		unavailable(t, err)
	}
	require.Equal(t, before, r.faults.Counts())

	r.recovers()
	r.requireCalls(tally, calls{fault.Initialize: 4, fault.Login: 1})
	require.EqualValues(t, 2, r.generation())
	require.Equal(t, "closed", r.Stats().Breaker)
}

// A generation begins only when the whole self-check has passed.
func TestFaultNoServiceBeforeTheSelfCheckPasses(t *testing.T) {
	for _, f := range []fault.Function{fault.GetSlotList, fault.GetTokenInfo, fault.OpenSession, fault.Login,
		fault.FindObjectsInit, fault.FindObjects, fault.GetAttributeValue, fault.CreateObject, fault.DeriveKey,
		fault.WrapKey, fault.UnwrapKey, fault.SignInit, fault.Sign, fault.DecryptInit, fault.Decrypt, fault.DestroyObject} {
		t.Run(f.String(), func(t *testing.T) {
			r := newRig(t)
			c := r.enrol("customer")
			r.faults.Inject(fault.Fault{Function: f, Code: pkcs11.CKR_FUNCTION_FAILED})
			r.faults.Break(pkcs11.CKR_DEVICE_ERROR)
			for range 3 {
				unavailable(t, r.check(t.Context(), c, "message"))
			}
			eventually(r.t, "two attempts to reopen", func() bool { return r.Stats().ReopenFailures >= 2 })
			require.EqualValues(t, 1, r.generation())
			r.faults.Clear()
			r.recovers()
			r.checks(c)
			require.EqualValues(t, 2, r.generation())
		})
	}
}

// C_Finalize and C_Initialize may fail themselves, before or after they did their work.
func TestFaultInitialisingFailsOnTheWay(t *testing.T) {
	for _, f := range []fault.Function{fault.Finalize, fault.Initialize} {
		for _, done := range []bool{false, true} {
			r := newRig(t)
			c := r.enrol("customer")
			r.faults.Inject(fault.Fault{Function: f, Code: pkcs11.CKR_GENERAL_ERROR, Times: 2, Done: done})
			r.faults.Break(pkcs11.CKR_DEVICE_REMOVED)
			r.recovers()
			r.checks(c)
			r.close()
		}
	}
}

func TestFaultOpenFailsCleanlyAndCanBeTriedAgain(t *testing.T) {
	cfg, faults := faultyConfig(t)
	for _, f := range []fault.Function{fault.Initialize, fault.GetSlotList, fault.GetTokenInfo, fault.OpenSession,
		fault.Login, fault.FindObjectsInit, fault.GetAttributeValue, fault.CreateObject, fault.DeriveKey, fault.SignInit,
		fault.DestroyObject} {
		faults.Inject(fault.Fault{Function: f, Code: pkcs11.CKR_DEVICE_ERROR})
		_, err := hsm.Open(t.Context(), cfg)
		require.ErrorContains(t, err, "CKR_DEVICE_ERROR", "%s", f)
		require.NotContains(t, err.Error(), "\n")
		require.Zero(t, faults.Stats().Sessions)
		faults.Clear()
	}
	h, err := hsm.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, h.Close())
}

// stuck lets one call hang in the module, and returns when it does; its error comes through the channel. release ends
// the hanging.
func (r *rig) stuck() (result <-chan error, release func()) {
	r.t.Helper()
	before := r.faults.Calls(fault.Sign)
	r.faults.Delay(time.Hour, fault.Sign)
	done := make(chan error, 1)
	go func() { _, err := r.pseudonym(); done <- err }()
	eventually(r.t, "the call to reach the module", func() bool { return r.faults.Calls(fault.Sign) == before+1 })
	return done, func() { r.faults.Delay(0, fault.Sign) }
}

// The module is finalised only when no call is left in it; those who wait meanwhile keep their deadlines.
func TestFaultDrainWaitsForRunningCalls(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.PoolSessions = 2 })
	tally := r.tally()
	running, release := r.stuck()
	r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_DEVICE_ERROR, Times: 1})
	met := make(chan error, 1)
	go func() { _, err := r.pseudonym(); met <- err }()
	eventually(r.t, "the generation to end", func() bool { return !r.Stats().Ready })

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := r.Digest(ctx, "waiting", nil)
	unavailable(t, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	r.requireCalls(tally, calls{fault.Finalize: 0, fault.Sign: 1})

	release()
	require.NoError(t, <-running)
	require.NoError(t, <-met)
	r.requireCalls(tally, calls{fault.Initialize: 1})
	require.EqualValues(t, 2, r.generation())
}

// A call that hangs longer than the drain deadline can neither be waited for nor finalised away: the process must exit.
func TestFaultHungCallIsFatal(t *testing.T) {
	short := func(c *hsm.Config) { c.CallTimeout, c.DrainTimeout = 100*time.Millisecond, 100*time.Millisecond }
	r := newRig(t, short)
	tally := r.tally()
	running, release := r.stuck()
	select {
	case err := <-r.fatal:
		unavailable(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the hung call was not noticed")
	}
	_, err := r.pseudonym()
	unavailable(t, err)
	require.True(t, r.Stats().Latched)
	r.requireCalls(tally, calls{fault.Finalize: 0})
	release()
	<-running
}

// Row "busy, out of memory, too many sessions": back off.
func TestFaultBusyIsWaitedOut(t *testing.T) {
	r := newRig(t)
	want := r.pseudonymous()
	for _, code := range []uint64{pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_SESSION_COUNT} {
		tally, waits := r.tally(), r.Stats().BusyWaits
		r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: code, Times: 3})
		require.Equal(t, want, r.pseudonymous())
		r.requireCalls(tally, calls{fault.SignInit: 4, fault.Login: 0, fault.Finalize: 0})
		require.Equal(t, waits+3, r.Stats().BusyWaits)

		tally = r.tally()
		r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: code})
		_, err := r.pseudonym()
		unavailable(t, err)
		require.LessOrEqual(t, tally(fault.SignInit), uint64(8))
		r.faults.Clear()
		require.Equal(t, want, r.pseudonymous())
	}
	require.EqualValues(t, 1, r.generation())
}

// … and a smaller pool: everybody is served by the few sessions that the HSM allows.
func TestFaultTooManySessionsShrinkThePool(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.PoolSessions = 16 })
	c := r.enrol("customer")
	r.checks(c)
	open := r.faults.Stats().Sessions
	r.faults.LimitSessions(open + 2)
	require.NoError(t, together(64, func(int) error { return r.check(t.Context(), c, "message") }))
	require.LessOrEqual(t, r.faults.Stats().Sessions, open+2)
	require.Less(t, r.Stats().PoolSessions, 16)
	require.EqualValues(t, 1, r.generation())
}

// … but not the owners' pool: nothing would ever give it its size back.
func TestFaultTooManySessionsLeaveTheOwnersAlone(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.OwnerSessions = 2 })
	c := r.enrol("customer")
	require.Zero(t, r.Stats().BusyWaits)
	r.faults.Inject(fault.Fault{Function: fault.OpenSession, Code: pkcs11.CKR_SESSION_COUNT, Times: 2})
	r.checks(c)
	s := r.Stats()
	require.EqualValues(t, 2, s.BusyWaits)
	require.Equal(t, 2, s.OwnerSessions)
	require.EqualValues(t, 1, s.Generation)
}

// Row "PIN incorrect/locked": never retried, latched, said so.
func TestFaultRefusedPINIsNeverRetried(t *testing.T) {
	for name, lose := range map[string]func(*rig){
		"after a lost login":  func(r *rig) { r.faults.LoseLogin() },
		"after a lost device": func(r *rig) { r.faults.Break(pkcs11.CKR_DEVICE_REMOVED) },
	} {
		for _, code := range []uint64{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED} {
			t.Run(fmt.Sprintf("%s, %#x", name, code), func(t *testing.T) {
				r := newRig(t, func(c *hsm.Config) { c.PoolSessions = 8 })
				r.works()
				tally := r.tally()
				r.faults.Inject(fault.Fault{Function: fault.Login, Code: code, Times: 1})
				lose(r)
				refused := together(32, func(int) error { _, err := r.pseudonym(); return err })
				require.ErrorIs(t, refused, seed.ErrUnavailable)
				require.ErrorContains(t, refused, "PIN")
				r.requireCalls(tally, calls{fault.Login: 1})

				// The right PIN would be accepted now; but who could know that?
				require.Never(t, func() bool { _, err := r.pseudonym(); return err == nil }, 100*time.Millisecond, 10*time.Millisecond)
				r.requireCalls(tally, calls{fault.Login: 1})
				require.True(t, r.Stats().Latched)
				require.Contains(t, r.Stats().Down, "PIN")
				require.Error(t, r.Ready(t.Context()))
			})
		}
	}
}

// Whoever starts the process must be able to tell a refused PIN from what time may repair.
func TestFaultEveryPINErrorOfOpenIsErrPIN(t *testing.T) {
	cfg, faults := faultyConfig(t)
	for code, say := range map[uint64]string{
		pkcs11.CKR_PIN_INCORRECT: "correct it", pkcs11.CKR_PIN_INVALID: "correct it", pkcs11.CKR_PIN_LEN_RANGE: "correct it",
		pkcs11.CKR_PIN_EXPIRED: "correct it", pkcs11.CKR_PIN_LOCKED: "security officer",
		pkcs11.CKR_USER_PIN_NOT_INITIALIZED: "correct it",
	} {
		before := faults.Calls(fault.Login)
		faults.Inject(fault.Fault{Function: fault.Login, Code: code})
		_, err := hsm.Open(t.Context(), cfg)
		require.ErrorIs(t, err, hsm.ErrPIN, "%#x", code)
		require.ErrorContains(t, err, "refused the PIN")
		require.ErrorContains(t, err, say)
		require.Equal(t, before+1, faults.Calls(fault.Login))
	}
	for _, code := range []uint64{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_SESSION_COUNT} {
		faults.Inject(fault.Fault{Function: fault.Login, Code: code})
		_, err := hsm.Open(t.Context(), cfg)
		require.Error(t, err)
		require.NotErrorIs(t, err, hsm.ErrPIN, "%#x", code)
	}
}

func TestFaultWrongPINIsTriedOnceAtOpen(t *testing.T) {
	cfg, faults := faultyConfig(t, func(c *hsm.Config) { c.PIN = seed.NewPIN("not the PIN") })
	_, err := hsm.Open(t.Context(), cfg)
	require.ErrorIs(t, err, hsm.ErrPIN)
	require.NotContains(t, err.Error(), "not the PIN")
	require.EqualValues(t, 1, faults.Calls(fault.Login))
}

// A module that hangs while it is initialised anew can neither be used nor left.
func TestFaultHangWhileReopeningIsFatal(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.DrainTimeout = 100 * time.Millisecond })
	r.works()
	r.faults.Delay(time.Hour, fault.Initialize)
	r.faults.Break(pkcs11.CKR_DEVICE_REMOVED)
	_, err := r.pseudonym()
	unavailable(t, err)
	select {
	case err := <-r.fatal:
		unavailable(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("the hang was not noticed")
	}
	require.True(t, r.Stats().Latched)
	r.faults.Delay(0)
}

// A module that hangs while it is opened holds nobody up longer than they want to wait. It stays taken until the call
// returns; what was opened too late is closed again.
func TestFaultHangWhileOpeningEndsWithTheContext(t *testing.T) {
	cfg, faults := faultyConfig(t)
	openAgain := func() error {
		h, err := hsm.Open(t.Context(), cfg)
		if err != nil {
			return err
		}
		return h.Close()
	}
	require.NoError(t, openAgain())
	for _, f := range []fault.Function{fault.Initialize, fault.GetSlotList, fault.OpenSession, fault.Login,
		fault.FindObjectsInit, fault.DestroyObject} {
		t.Run(f.String(), func(t *testing.T) {
			before := faults.Calls(f)
			faults.Delay(time.Hour, f)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() { _, err := hsm.Open(ctx, cfg); failed <- err }()
			eventually(t, "the call to reach the module", func() bool { return faults.Calls(f) > before })
			cancel()
			select {
			case err := <-failed:
				unavailable(t, err)
				require.ErrorIs(t, err, context.Canceled)
				require.NotContains(t, err.Error(), "\n")
			case <-time.After(10 * time.Second):
				t.Fatal("Open does not heed its context")
			}
			require.ErrorContains(t, openAgain(), "already open")
			faults.Delay(0)
			eventually(t, "the module to be left", func() bool { return openAgain() == nil })
			require.Zero(t, faults.Stats().Sessions)
		})
	}
	require.Zero(t, faults.Stats().EarlyFinalizes)
}

// Keys that cannot be seen at the moment, because the login was lost once more while they were looked for, are an
// outage like any other: no operation may say that the key of its record does not exist.
func TestFaultKeysThatCannotBeSeenAreAnOutage(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.ReopenInterval = 300 * time.Millisecond })
	c := r.enrol("customer")
	before := r.faults.Calls(fault.FindObjectsInit)
	r.faults.Delay(time.Hour, fault.FindObjectsInit)
	r.faults.Break(pkcs11.CKR_DEVICE_REMOVED)
	failed := make(chan error, 1)
	go func() { failed <- r.check(t.Context(), c, "message") }()
	eventually(t, "the search for keys", func() bool { return r.faults.Calls(fault.FindObjectsInit) > before })
	r.faults.LoseLogin()
	r.faults.Delay(0)
	unavailable(t, <-failed)
	require.Contains(t, r.Stats().Down, "is missing")
	unavailable(t, r.check(t.Context(), c, "message"))
	r.recovers()
	r.checks(c)
}
