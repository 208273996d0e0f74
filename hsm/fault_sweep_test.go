package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

// sweepCodes is one code of each class.
var sweepCodes = []uint64{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_OBJECT_HANDLE_INVALID,
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_DATA_INVALID}

var errWrong = errors.New("the result is wrong")

// sweepOps are operations whose results can be told right from wrong.
func sweepOps(r *rig) map[string]func() error {
	a, b := r.enrol("a"), r.enrol("b")
	want := r.pseudonymous()
	hardware := asMaker(r.t, r.HSM, rfcSecret(20))
	first, err := r.Import(r.t.Context(), hardware, seed.SHA1)
	require.NoError(r.t, err)
	return map[string]func() error{
		"use two seeds over one cache slot": func() error {
			return errors.Join(r.check(r.t.Context(), a, "message"), r.check(r.t.Context(), b, "message"))
		},
		"enrol": func() error {
			again, err := r.tryEnrol("a")
			if err == nil && !bytes.Equal(again.value, a.value) {
				err = errWrong
			}
			return err
		},
		"import": func() error {
			made, err := r.Import(r.t.Context(), hardware, seed.SHA1)
			if err == nil && !bytes.Equal(made.Fingerprint, first.Fingerprint) {
				err = errWrong
			}
			if err != nil {
				return err
			}
			return r.check(r.t.Context(), known{seed.SHA1, rfcSecret(20), made.ForStore}, "message")
		},
		"pseudonym": func() error {
			got, err := r.pseudonym()
			if err == nil && !bytes.Equal(got.Sum, want.Sum) {
				err = errWrong
			}
			return err
		},
		"encrypt and decrypt": func() error {
			e, err := r.Encrypt(r.t.Context(), []byte("aad"), []byte("digits"))
			if err != nil {
				return err
			}
			plain, err := r.Decrypt(r.t.Context(), []byte("aad"), e)
			if err == nil && string(plain) != "digits" {
				err = errWrong
			}
			return err
		},
	}
}

// Every C call of every operation fails once in each way, before and after it did its work: the result is right or an
// outage, the next call succeeds, and nothing is left in the module.
func TestFaultInEveryCall(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.SeedCache, c.ReopenInterval = 1, time.Millisecond })
	cases := 0
	for name, op := range sweepOps(r) {
		for f, n := range r.callsOf(op, name) {
			for skip := range n {
				for _, code := range sweepCodes {
					r.failOnce(op, fault.Fault{Function: f, Code: code, Skip: skip, Times: 1}, name)
					r.failOnce(op, fault.Fault{Function: f, Code: code, Skip: skip, Times: 1, Done: true}, name)
					cases += 2
				}
			}
		}
	}
	require.Greater(t, cases, 200)
	t.Logf("%d cases, %d generations", cases, r.generation())
	r.faults.Break(pkcs11.CKR_DEVICE_ERROR)
	r.recovers()
	require.EqualValues(t, r.Stats().CachedSeeds, r.faults.Stats().SessionObjects)
}

// callsOf is what C calls one run of op makes when nothing goes wrong.
func (r *rig) callsOf(op func() error, name string) calls {
	r.t.Helper()
	tally := r.tally()
	require.NoError(r.t, op(), name)
	made := calls{}
	for f := fault.Initialize; f <= fault.WaitForSlotEvent; f++ {
		if n := tally(f); n > 0 {
			made[f] = n
		}
	}
	return made
}

func (r *rig) failOnce(op func() error, f fault.Fault, name string) {
	r.t.Helper()
	what := fmt.Sprintf("%s: %s, call %d, code %#x, done %v", name, f.Function, f.Skip, f.Code, f.Done)
	r.faults.Inject(f)
	if err := op(); err != nil {
		require.True(r.t, errors.Is(err, seed.ErrUnavailable) || errors.Is(err, seed.ErrBadBlob), "%s: %v", what, err)
	}
	r.faults.Clear()
	eventually(r.t, what, func() bool { return op() == nil })
}
