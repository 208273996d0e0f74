package hsm_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	fault "ramzban/softhsm/faultmodule"
)

// Row "session invalid/closed, operation active": drop that session, retry once on another.
func TestFaultDeadSessionIsReplacedAndTheCallRetriedOnce(t *testing.T) {
	r := newRig(t)
	want := r.pseudonymous()
	for _, code := range []uint64{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE} {
		tally := r.tally()
		r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: code, Times: 1})
		require.Equal(t, want, r.pseudonymous(), "%#x", code)
		r.requireCalls(tally, calls{fault.SignInit: 2, fault.OpenSession: 1, fault.Login: 0, fault.Finalize: 0})

		tally = r.tally()
		r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: code})
		_, err := r.pseudonym()
		unavailable(t, err)
		r.requireCalls(tally, calls{fault.SignInit: 2, fault.Login: 0, fault.Finalize: 0})
		r.faults.Clear()
		require.Equal(t, want, r.pseudonymous())
	}
	require.EqualValues(t, 1, r.generation())
}

// The module says no to C_Sign but leaves the operation active, so that the session is unusable from then on.
func TestFaultOperationLeftActive(t *testing.T) {
	r := newRig(t)
	want := r.pseudonymous()
	r.faults.Inject(fault.Fault{Function: fault.Sign, Code: pkcs11.CKR_DATA_INVALID, Times: 1})
	_, err := r.pseudonym()
	unavailable(t, err)
	require.Equal(t, want, r.pseudonymous())
	require.EqualValues(t, 1, r.generation())
}

// All sessions are lost at once, the seeds' owners among them, and their numbers go to the next ones.
func TestFaultAllSessionsLost(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.PoolSessions, c.OwnerSessions = 4, 2 })
	r.forgetful = true
	customers := r.enrolMany(8)
	all := func(i int) error { return r.check(t.Context(), customers[i%8], "message") }
	require.NoError(t, together(16, all))
	for range 10 {
		r.faults.LoseSessions()
		require.NoError(t, together(16, all))
	}
}

// Row "user not logged in": one login for all.
func TestFaultLoginLostIsRepairedByOneLogin(t *testing.T) {
	for name, lose := range map[string]func(*rig){
		"handles stay":               func(r *rig) { r.faults.LoseLogin() },
		"handles go with the login":  func(r *rig) { r.faults.LoseObjects(); r.faults.LoseLogin() },
		"sessions go with the login": func(r *rig) { r.faults.LoseSessions(); r.faults.LoseLogin() },
		"all of it goes":             func(r *rig) { r.faults.LoseSessions(); r.faults.LoseObjects(); r.faults.LoseLogin() },
		"already logged in otherwise": func(r *rig) {
			r.faults.LoseLogin()
			r.faults.Inject(fault.Fault{Function: fault.Login, Code: pkcs11.CKR_USER_ALREADY_LOGGED_IN, Times: 1, Done: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *hsm.Config) { c.PoolSessions = 8 })
			r.forgetful = true
			customers := r.enrolMany(4)
			all := func(i int) error { return r.check(t.Context(), customers[i%4], "message") }
			require.NoError(t, together(32, all))

			tally := r.tally()
			lose(r)
			require.NoError(t, together(32, all))
			r.requireCalls(tally, calls{fault.Login: 1, fault.Finalize: 0, fault.Initialize: 0})
			require.EqualValues(t, 2, r.generation())
		})
	}
}

// Row "object/key handle invalid": find keys again, drop the seed cache, retry once.
func TestFaultLostHandlesAreFoundAgain(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	want := r.pseudonymous()
	r.checks(c)
	for i, lose := range []func(){
		r.faults.LoseObjects,
		func() {
			r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_KEY_HANDLE_INVALID, Times: 1})
		},
		func() {
			r.faults.Inject(fault.Fault{Function: fault.SignInit, Code: pkcs11.CKR_OBJECT_HANDLE_INVALID, Times: 1})
		},
	} {
		tally, before := r.tally(), r.Stats()
		lose()
		r.checks(c)
		require.EqualValues(t, i+2, r.generation())
		require.Equal(t, before.SeedMisses+1, r.Stats().SeedMisses, "the seed cache was dropped")
		require.Positive(t, tally(fault.FindObjects))
		r.requireCalls(tally, calls{fault.Finalize: 0, fault.Initialize: 0})
		require.Equal(t, want, r.pseudonymous())
	}
}

func TestFaultHandleErrorsAreRetriedOnce(t *testing.T) {
	r := newRig(t)
	c := r.enrol("customer")
	r.checks(c)
	r.faults.Inject(fault.Fault{Function: fault.UnwrapKey, Code: pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID})
	r.faults.LoseObjects()
	unavailable(t, r.check(t.Context(), c, "message"))
	r.faults.Clear()
	eventually(r.t, "recovery", func() bool { return r.check(t.Context(), c, "message") == nil })
}
