package hsm_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSA-OAEP to devices is over SHA-1
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
	fault "ramzban/softhsm/faultmodule"
)

// rig is an HSM on a SoftHSM token behind the fault module.
type rig struct {
	*hsm.HSM
	t      *testing.T
	faults *fault.Control
	fatal  chan error // what hsm.Config.Fatal was called with

	// forgetful: this test makes the module forget live sessions, so that two may bear one number for a moment.
	forgetful bool
}

// newRig opens the HSM. When the test ends it checks that no session was ever used by two at once, that the module was
// never finalised under a running call, and that nothing is left open in it.
func newRig(t *testing.T, tweaks ...func(*hsm.Config)) *rig {
	t.Helper()
	return newRigOn(t, token, tweaks...)
}

// newRigOn is newRig on a token of the test's own.
func newRigOn(t *testing.T, tok *softhsm.Token, tweaks ...func(*hsm.Config)) *rig {
	t.Helper()
	cfg, faults := faultyConfigOf(t, tok, tweaks...)
	r := &rig{t: t, faults: faults, fatal: make(chan error, 1)}
	cfg.Fatal = func(err error) { r.fatal <- err }
	var err error
	r.HSM, err = hsm.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(r.close)
	return r
}

// faultyConfig is the configuration of the shared token behind the fault module, with one pool session, so that calls can be
// counted, and quick retries.
func faultyConfig(t *testing.T, tweaks ...func(*hsm.Config)) (hsm.Config, *fault.Control) {
	t.Helper()
	return faultyConfigOf(t, token, tweaks...)
}

func faultyConfigOf(t *testing.T, tok *softhsm.Token, tweaks ...func(*hsm.Config)) (hsm.Config, *fault.Control) {
	t.Helper()
	require.NoError(t, os.Setenv("SOFTHSM2_CONF", tok.Conf))
	faults, err := fault.New(t.TempDir(), tok.Module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, faults.Close()) })
	cfg := tok.Config()
	cfg.Module = faults.Module()
	cfg.PoolSessions, cfg.OwnerSessions = 1, 1
	cfg.ReopenInterval = 20 * time.Millisecond
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, tweak := range tweaks {
		tweak(&cfg)
	}
	return cfg, faults
}

func (r *rig) close() {
	r.faults.Clear()
	require.NoError(r.t, r.Close())
	s := r.faults.Stats()
	require.Zero(r.t, s.EarlyFinalizes, "the module was finalised under a running call")
	if !r.forgetful {
		require.Zero(r.t, s.SharedSessions, "a session was used by two at once")
	}
	require.Zero(r.t, s.Sessions)
	require.Zero(r.t, s.SessionObjects)
}

// tally counts C calls from now on.
func (r *rig) tally() func(fault.Function) uint64 {
	before := r.faults.Counts()
	return func(f fault.Function) uint64 { return r.faults.Calls(f) - before[f.String()] }
}

// calls is how often some functions were called.
type calls map[fault.Function]uint64

func (r *rig) requireCalls(tally func(fault.Function) uint64, want calls) {
	r.t.Helper()
	got := calls{}
	for f := range want {
		got[f] = tally(f)
	}
	require.Equal(r.t, want, got)
}

// generation is the number of the generation at work.
func (r *rig) generation() uint64 { return r.Stats().Generation }

// works checks the HSM by one pseudonym, whose value must always be the same.
func (r *rig) works() {
	r.t.Helper()
	r.pseudonymous()
}

func (r *rig) pseudonymous() seed.MACed {
	r.t.Helper()
	m, err := r.pseudonym()
	require.NoError(r.t, err)
	return m
}

func (r *rig) pseudonym() (seed.MACed, error) {
	return r.Pseudonym(r.t.Context(), "card", seed.NewSubject("6037991234567893"))
}

// recovers waits until the HSM works again by itself.
func (r *rig) recovers() {
	r.t.Helper()
	eventually(r.t, "recovery", func() bool { _, err := r.pseudonym(); return err == nil })
}

// unavailable checks that err says "outage" and nothing that could be taken for a verdict.
func unavailable(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, seed.ErrUnavailable)
	for _, verdict := range []error{seed.ErrBadBlob, seed.ErrBadSeal, seed.ErrKeyNotFound} {
		require.NotErrorIs(t, err, verdict)
	}
}

var device = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// enrol makes a seed that the test knows, because it holds the device's private key.
func (r *rig) enrol(name string) known {
	r.t.Helper()
	k, err := r.tryEnrol(name)
	require.NoError(r.t, err)
	return k
}

func (r *rig) tryEnrol(name string) (known, error) {
	key, err := device()
	if err != nil {
		return known{}, err
	}
	e, err := r.Enrol(r.t.Context(), seed.Derivation{Context: []byte(name), Hash: seed.SHA256}, &key.PublicKey)
	if err != nil {
		return known{}, err
	}
	value, err := rsa.DecryptOAEP(sha1.New(), nil, key, e.ForDevice, nil)
	return known{seed.SHA256, value, e.ForStore}, err
}

func (r *rig) enrolMany(n int) []known {
	r.t.Helper()
	all := make([]known, n)
	for i := range all {
		all[i] = r.enrol(fmt.Sprintf("customer %d", i))
	}
	return all
}

// errOtherSeed: the HSM made a MAC, but not with this customer's seed.
var errOtherSeed = errors.New("the MAC was made with another seed")

// check lets the HSM make a MAC under the customer's seed and compares it with software.
func (r *rig) check(ctx context.Context, k known, message string) error {
	got, err := k.mac(ctx, r.HSM, []byte(message))
	if err != nil {
		return err
	}
	if !hmac.Equal(got, k.software([]byte(message))) {
		return errOtherSeed
	}
	return nil
}

func (r *rig) checks(k known) {
	r.t.Helper()
	require.NoError(r.t, r.check(r.t.Context(), k, "message"))
}

// together runs fn n times at once and returns the errors.
func together(n int, fn func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
