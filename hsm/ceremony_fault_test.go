package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
	fault "ramzban/softhsm/faultmodule"
)

// rehearsal is a ceremony that can be held again and again on a token behind the fault module.
type rehearsal struct {
	t      *testing.T
	tok    *softhsm.Token
	cfg    hsm.Config
	faults *fault.Control
	plan   hsm.CeremonyPlan
	value  []byte // of the key from components
	before []string
}

func newRehearsal(t *testing.T) *rehearsal {
	t.Helper()
	r := &rehearsal{t: t, tok: softhsm.New(t), value: make([]byte, 32)}
	r.value[0] = 1
	kcv, err := hsm.ShareKCV("derive", r.value)
	require.NoError(t, err)
	r.plan = hsm.CeremonyPlan{Known: r.tok.KnownAnswers, Keys: append(generated(version("audit", 2), version("wrap", 2)),
		hsm.PlannedKey{Key: version("derive", 2), Origin: hsm.Components, KCV: kcv})}
	r.faults, err = fault.New(t.TempDir(), r.tok.Module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.faults.Close()) })
	r.cfg = r.tok.Config()
	r.cfg.Module = r.faults.Module()
	r.before = objectFiles(t, r.tok)
	return r
}

func (r *rehearsal) hold(ctx context.Context, publish hsm.Publish) error {
	values := map[seed.KeyRef][]byte{version("derive", 2): append([]byte(nil), r.value...)}
	return hsm.Hold(ctx, r.cfg, r.plan, values, publish)
}

// undone checks that a ceremony failed and left nothing.
func (r *rehearsal) undone(err error, what string) {
	r.t.Helper()
	require.Error(r.t, err, what)
	require.NotContains(r.t, err.Error(), "NOT undone", what)
	require.Equal(r.t, r.before, objectFiles(r.t, r.tok), "%s: %v", what, err)
}

// clear destroys what a ceremony made.
func (r *rehearsal) clear() {
	r.t.Helper()
	r.faults.Clear()
	for _, k := range r.plan.Keys {
		require.NoError(r.t, hsm.DestroyKeys(r.cfg, k.Key))
	}
	require.Equal(r.t, r.before, objectFiles(r.t, r.tok))
}

// A token that is full, or a device that fails, at any call of a ceremony, before or after the call did its work: either
// the ceremony is held all the same, or nothing is left of it.
func TestACeremonyThatFailsAnywhereLeavesNothing(t *testing.T) {
	r := newRehearsal(t)
	calls := r.faults.Counts()
	require.NoError(t, r.hold(t.Context(), accept))
	counts := r.faults.Counts()
	r.clear()
	held, failed := 0, 0
	codes := []uint64{pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_REMOVED}
	for _, f := range []fault.Function{fault.GenerateKey, fault.GenerateKeyPair, fault.CreateObject, fault.GenerateRandom,
		fault.FindObjects, fault.GetAttributeValue, fault.Sign, fault.WrapKey, fault.UnwrapKey, fault.DeriveKey, fault.Finalize,
		fault.OpenSession, fault.Login, fault.GetTokenInfo, fault.DestroyObject} {
		n := counts[f.String()] - calls[f.String()]
		require.NotZero(t, n, f)
		for skip := uint64(0); skip < n; skip += 1 + n/5 {
			for _, done := range []bool{false, true} {
				what := fmt.Sprintf("%s, call %d of %d, done %t", f, skip+1, n, done)
				published := false
				code := codes[(held+failed)%len(codes)]
				r.faults.Inject(fault.Fault{Function: f, Code: code, Skip: skip, Times: 1, Done: done})
				err := r.hold(t.Context(), func(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error {
					published = true
					return nil
				})
				r.faults.Clear()
				if published {
					held++
					r.clear()
					continue
				}
				failed++
				r.undone(err, what)
			}
		}
	}
	require.Greater(t, failed, 60)
	t.Logf("%d ceremonies failed, %d were held", failed, held)
}

func accept(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error { return nil }

func TestAFullTokenIsSaidToBeFull(t *testing.T) {
	r := newRehearsal(t)
	for f, c := range map[fault.Function]struct{ key, after string }{
		fault.GenerateKeyPair: {"audit", "nothing was made"},
		fault.GenerateKey:     {"wrap", "nothing is left of it, ramzban/audit/2 destroyed again"},
		fault.CreateObject:    {"derive", "destroyed again"},
	} {
		r.faults.Inject(fault.Fault{Function: f, Code: pkcs11.CKR_DEVICE_MEMORY})
		err := r.hold(t.Context(), accept)
		r.faults.Clear()
		r.undone(err, c.key)
		require.NotContains(t, err.Error(), "\n")
		for _, say := range []string{"create key ramzban/" + c.key + "/2", "CKR_DEVICE_MEMORY", "the HSM may be full: make room in it", c.after} {
			require.ErrorContains(t, err, say)
		}
	}
}

// When what was made cannot be destroyed either, the error says exactly what is left.
func TestACeremonyThatCannotBeUndoneSaysWhatIsLeft(t *testing.T) {
	r := newRehearsal(t)
	refuse := errors.New("the disk is full")
	publish := func(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error {
		r.faults.Inject(fault.Fault{Function: fault.DestroyObject, Code: pkcs11.CKR_GENERAL_ERROR})
		return refuse
	}
	err := r.hold(t.Context(), publish)
	r.faults.Clear()
	require.ErrorIs(t, err, refuse)
	require.NotContains(t, err.Error(), "\n")
	for _, say := range []string{"NOT undone", "ramzban/audit/2", "ramzban/wrap/2", "ramzban/derive/2", "CKA_ID "} {
		require.ErrorContains(t, err, say)
	}
	r.clear()

	publish = func(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error {
		r.faults.Inject(fault.Fault{Function: fault.Login, Code: pkcs11.CKR_DEVICE_REMOVED})
		return refuse
	}
	err = r.hold(t.Context(), publish)
	r.faults.Clear()
	require.ErrorContains(t, err, "NOT undone: destroy what there is of ramzban/audit/2, ramzban/wrap/2, ramzban/derive/2 with")
	r.clear()
}

// A failure to publish, and an interruption between two keys, are undone.
func TestACeremonyThatIsInterruptedLeavesNothing(t *testing.T) {
	r := newRehearsal(t)
	err := r.hold(t.Context(), noPublish)
	r.undone(err, "publishing")
	require.ErrorContains(t, err, "nothing is left of it, ramzban/audit/2, ramzban/derive/2, ramzban/wrap/2 destroyed again")

	ctx, cancel := context.WithCancelCause(t.Context())
	r.faults.Delay(time.Hour, fault.GenerateKeyPair)
	before := r.faults.Calls(fault.GenerateKeyPair)
	ended := make(chan error, 1)
	go func() { ended <- r.hold(ctx, accept) }()
	eventually(t, "a key in the making", func() bool { return r.faults.Calls(fault.GenerateKeyPair) > before })
	cancel(errors.New("a signal"))
	r.faults.Delay(0, fault.GenerateKeyPair)
	err = <-ended
	r.undone(err, "interrupted")
	require.ErrorContains(t, err, "interrupted before ramzban/wrap/2 was made: a signal")
}

// What fails after the record is kept takes nothing back.
func TestAPublishedCeremonyStands(t *testing.T) {
	r := newRehearsal(t)
	var record hsm.CeremonyRecord
	err := r.hold(t.Context(), func(c hsm.CeremonyRecord, _ func([]byte) (seed.Signature, error)) error {
		record = c
		r.faults.Inject(fault.Fault{Function: fault.Finalize, Code: pkcs11.CKR_GENERAL_ERROR, Times: 1})
		return nil
	})
	r.faults.Clear()
	require.ErrorContains(t, err, "the key ceremony was held")
	r.cfg.KnownAnswers = record.KnownAnswers
	h, err := hsm.Open(t.Context(), r.cfg)
	require.NoError(t, err)
	require.NoError(t, h.Close())
}
