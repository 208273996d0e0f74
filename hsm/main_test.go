package hsm_test

import (
	"context"
	"crypto/hmac"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// token is the SoftHSM token of all tests of this package that do not spoil it. PKCS#11 initialises once per process:
// tests open it one after another, never in parallel.
var token *softhsm.Token

// scratch is a folder for all tests of this package.
var scratch string

// tokenOfTwo has two versions of every key.
var tokenOfTwo = sync.OnceValues(func() (*softhsm.Token, error) {
	tok, err := softhsm.Provision(context.Background(), filepath.Join(scratch, "two"))
	if err != nil {
		return nil, err
	}
	return tok, tok.Hold(context.Background(), generated(versions(2)...))
})

// copyOf is a token like another one, for a test to spoil: to make one takes seconds, since an RSA key is among its keys.
func copyOf(t testing.TB, tok *softhsm.Token) *softhsm.Token {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.CopyFS(dir, os.DirFS(tok.Dir)))
	made, err := softhsm.Provision(t.Context(), dir)
	require.NoError(t, err)
	return made
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramzban-hsm-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	if token, err = softhsm.Provision(context.Background(), filepath.Join(dir, "one")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// useShared points SoftHSM to the shared token again after a test with one of its own.
func useShared(t testing.TB) {
	t.Helper()
	require.NoError(t, os.Setenv("SOFTHSM2_CONF", token.Conf))
}

// open opens the shared token, with some settings changed, until the test ends.
func open(t testing.TB, change ...func(*hsm.Config)) *hsm.HSM {
	t.Helper()
	useShared(t)
	c := token.Config()
	for _, f := range change {
		f(&c)
	}
	h, err := hsm.Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// known is a seed in the HSM whose value the test knows.
type known struct {
	hash    seed.Hash
	value   []byte
	wrapped seed.Wrapped
}

func wrapKnown(t testing.TB, h *hsm.HSM, hash seed.Hash, value []byte) known {
	t.Helper()
	w, err := hsm.WrapKnown(t.Context(), h, hash, value)
	require.NoError(t, err)
	return known{hash, value, w}
}

// mac is the MAC by the HSM, software the one it must equal.
func (k known) mac(ctx context.Context, h *hsm.HSM, message []byte) ([]byte, error) {
	var sum []byte
	err := h.UseSeed(ctx, k.wrapped, k.hash, func(mac seed.MAC) (err error) {
		sum, err = mac(message)
		return err
	})
	return sum, err
}

func (k known) software(message []byte) []byte { return software(k.hash, k.value, message) }

func software(hash seed.Hash, key, message []byte) []byte {
	m := hmac.New(hash.New(), key)
	m.Write(message)
	return m.Sum(nil)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond, what)
}
