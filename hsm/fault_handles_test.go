package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

// Clients of the handle-safety test, the customers they ask for, and how long they do.
const (
	clients   = 64
	customers = 32
	enrollers = 4 // besides the clients
	sealers   = 4
	trouble   = 6 * time.Second
)

// Handle safety: whatever becomes of sessions, handles, login and device while many clients share few cache slots, no
// MAC is ever made with another customer's seed, no enrolment delivers one, and no seal or pseudonym is made with
// another key. The fault module gives every number that became free to the very next object or session, so a handle
// that is used a moment too long means something else.
func TestFaultNoSeedIsEverTakenForAnother(t *testing.T) {
	r := newRig(t, func(c *hsm.Config) { c.PoolSessions, c.OwnerSessions, c.SeedCache = 6, 2, 5 })
	r.forgetful = true
	w := world{r, r.enrolMany(customers), r.pseudonymous(), r.sealed("record")}
	ctx, cancel := context.WithTimeout(t.Context(), trouble)
	defer cancel()

	var right [customers]atomic.Int64
	var served, outages atomic.Int64
	done := make(chan error, 1)
	go func() {
		done <- together(clients+enrollers+sealers, func(i int) error {
			for n := 0; ctx.Err() == nil; n++ {
				c := rand.N(customers)
				err := w.one(i, n, c)
				switch {
				case err == nil:
					right[c].Add(1)
					served.Add(1)
				case errors.Is(err, seed.ErrUnavailable):
					outages.Add(1)
				default:
					return fmt.Errorf("client %d, customer %d: %w", i, c, err)
				}
			}
			return nil
		})
	}()
	r.makeTrouble(ctx, &served)
	require.NoError(t, <-done)

	r.faults.Clear()
	r.recovers()
	for c, k := range w.customers {
		r.checks(k)
		require.Positive(t, right[c].Load(), "customer %d was never served", c)
	}
	t.Logf("%d right, %d outages, %+v", served.Load(), outages.Load(), r.Stats())
	require.Greater(t, r.generation(), uint64(20))
}

// world is what the clients of the handle-safety test know to be right.
type world struct {
	*rig
	customers []known
	pseudonym seed.MACed
	seal      seed.MACed
}

func (r *rig) sealed(record string) seed.MACed {
	r.t.Helper()
	m, err := r.Seal(r.t.Context(), "record", []byte(record))
	require.NoError(r.t, err)
	return m
}

// one is one call of client i: it checks a password; the last few clients enrol, or check seals and pseudonyms.
func (w world) one(i, n, customer int) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	switch {
	case i < clients:
		return w.check(ctx, w.customers[customer], fmt.Sprintf("client %d, message %d", i, n))
	case i < clients+enrollers:
		return w.enrolAgain(ctx, customer)
	case n%2 == 0:
		return w.CheckSeal(ctx, "record", []byte("record"), w.seal)
	}
	got, err := w.rig.pseudonym()
	if err == nil && !bytes.Equal(got.Sum, w.pseudonym.Sum) {
		return errors.New("the pseudonym was made with another key")
	}
	return err
}

// enrolAgain derives a customer's seed once more: the same context must give the same seed, to device and store.
func (w world) enrolAgain(ctx context.Context, customer int) error {
	again, err := w.tryEnrol(fmt.Sprintf("customer %d", customer))
	if err != nil {
		return err
	}
	if !bytes.Equal(again.value, w.customers[customer].value) {
		return fmt.Errorf("the device got another seed: %w", errOtherSeed)
	}
	return w.check(ctx, again, "enrolled again")
}

// servedBetween is how many calls succeed between two troubles, at most: enough to fill the cache with handles.
const servedBetween = 100

// makeTrouble does something bad whenever the HSM has come back from the last and served some calls.
func (r *rig) makeTrouble(ctx context.Context, served *atomic.Int64) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	next := served.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if served.Load() >= next {
				next = served.Load() + rand.N[int64](servedBetween)
				r.oneTrouble()
			}
		}
	}
}

func (r *rig) oneTrouble() {
	once := func(f fault.Function, code uint64) func() {
		return func() {
			r.faults.Inject(fault.Fault{Function: f, Code: code, Skip: rand.N[uint64](5), Times: 1, Done: rand.N(2) == 0})
		}
	}
	troubles := []func(){
		r.faults.LoseObjects,
		r.faults.LoseObjects,
		r.faults.LoseSessions,
		r.faults.LoseLogin,
		func() { r.faults.LoseSessions(); r.faults.LoseObjects(); r.faults.LoseLogin() },
		func() { r.faults.Break(deviceCodes[rand.N(len(deviceCodes))]) },
		once(fault.SignInit, pkcs11.CKR_DEVICE_ERROR),
		once(fault.Sign, pkcs11.CKR_SESSION_HANDLE_INVALID),
		once(fault.UnwrapKey, pkcs11.CKR_DEVICE_MEMORY),
		once(fault.UnwrapKey, pkcs11.CKR_SESSION_CLOSED),
		once(fault.DestroyObject, pkcs11.CKR_DEVICE_ERROR),
		once(fault.DestroyObject, pkcs11.CKR_OBJECT_HANDLE_INVALID),
		once(fault.OpenSession, pkcs11.CKR_SESSION_COUNT),
		once(fault.DeriveKey, pkcs11.CKR_KEY_HANDLE_INVALID),
	}
	troubles[rand.N(len(troubles))]()
}
