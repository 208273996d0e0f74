package hsm_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// versions names one version of every label.
func versions(version uint32) []seed.KeyRef {
	var refs []seed.KeyRef
	for _, label := range masterLabels {
		refs = append(refs, seed.KeyRef{Label: label, Version: version})
	}
	return refs
}

// refsOf are the versions that Keys returns.
func refsOf(t testing.TB, h *hsm.HSM) []seed.KeyRef {
	t.Helper()
	all, err := h.Keys(t.Context())
	require.NoError(t, err)
	var refs []seed.KeyRef
	for _, m := range all {
		refs = append(refs, m.Key)
	}
	return refs
}

// twoVersions is a token with two versions of every key.
func twoVersions(t testing.TB) *softhsm.Token {
	t.Helper()
	tok, err := tokenOfTwo()
	require.NoError(t, err)
	return copyOf(t, tok)
}

// madeUnder checks under which version everything new is made.
func madeUnder(t testing.TB, h *hsm.HSM, version uint32) {
	t.Helper()
	require.NoError(t, underVersion(t.Context(), h, version))
}

var errOtherVersion = errors.New("made under another version")

func underVersion(ctx context.Context, h *hsm.HSM, version uint32) error {
	sealed, err := h.Seal(ctx, "record", []byte("x"))
	digest, err2 := h.Digest(ctx, "code", []byte("x"))
	pseudonym, err3 := h.Pseudonym(ctx, "card", seed.NewSubject("6037991234567893"))
	e, err4 := h.Encrypt(ctx, nil, []byte("x"))
	enrolled, err5 := h.Enrol(ctx, seed.Derivation{Context: []byte("x"), Hash: seed.SHA1}, nil)
	signed, err6 := h.SignAudit(ctx, []byte("x"))
	if err := errors.Join(err, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	for _, ref := range []seed.KeyRef{sealed.Key, digest.Key, pseudonym.Key, e.Key, enrolled.Derive, enrolled.ForStore.Key, signed.Key} {
		if ref.Version != version {
			return errOtherVersion
		}
	}
	return nil
}

func TestKeysDescribesEveryVersion(t *testing.T) {
	tok := twoVersions(t)
	h := quick(t, tok)
	all, err := h.Keys(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2*len(masterLabels))
	seen := map[string]bool{}
	for i, m := range all {
		require.Equal(t, seed.KeyRef{Label: masterLabels[i/2], Version: uint32(i%2 + 1)}, m.Key)
		require.False(t, seen[string(m.KCV)], "two keys have one check value")
		seen[string(m.KCV)] = true
		if m.Key.Label != "import" && m.Key.Label != "audit" {
			require.Len(t, m.KCV, 3)
			require.Nil(t, m.Public)
			continue
		}
		sum := sha256.Sum256(m.Public)
		require.Equal(t, sum[:8], m.KCV)
	}
	public, err := h.ImportKey(t.Context())
	require.NoError(t, err)
	require.Equal(t, public, described(t, h, seed.KeyRef{Label: "import", Version: 2}).Public)
}

// An independent judge of the check values that the HSM gives: openssl encrypts the zero block, and hashes the value.
func TestCheckValuesAreThoseOfOpenSSL(t *testing.T) {
	h := open(t)
	value := rfcSecret(32)
	kcv, err := h.CheckValueOf(pkcs11.CKK_AES, value)
	require.NoError(t, err)
	require.Equal(t, openssl(t, t.TempDir(), make([]byte, 16), "enc", "-aes-256-ecb", "-nopad", "-K", hex.EncodeToString(value))[:3], kcv)
	value = rfcSecret(64)
	kcv, err = h.CheckValueOf(pkcs11.CKK_GENERIC_SECRET, value)
	require.NoError(t, err)
	require.Equal(t, openssl(t, t.TempDir(), value, "dgst", "-sha1", "-binary")[:3], kcv)
}

// The versions that are active stay so over every change of the generation.
func TestTheVersionsInUse(t *testing.T) {
	h := quick(t, twoVersions(t))
	madeUnder(t, h, 2)
	require.NoError(t, h.Use(versions(1)))
	madeUnder(t, h, 1)
	for i, module := range []bool{true, false} {
		h.Change(module)
		madeUnder(t, h, 1)
		require.EqualValues(t, i+2, h.Stats().Generation)
	}
	require.ErrorIs(t, h.Use(append(versions(2)[1:], seed.KeyRef{Label: "wrap", Version: 3})), seed.ErrKeyNotFound)
	require.ErrorIs(t, h.Use([]seed.KeyRef{{Label: "other", Version: 1}}), seed.ErrKeyNotFound)
	require.Error(t, h.Use([]seed.KeyRef{{Label: "wrap", Version: 1}, {Label: "wrap", Version: 2}}))
	madeUnder(t, h, 1)

	require.NoError(t, h.Use(versions(2)))
	madeUnder(t, h, 2)
	h.Change(true)
	require.NoError(t, h.Use(versions(1)), "while the generation changes")
	madeUnder(t, h, 1)
	require.NoError(t, h.Use(nil))
	madeUnder(t, h, 2)
}

func TestUseAfterCloseIsAnOutage(t *testing.T) {
	useShared(t)
	h, err := hsm.Open(t.Context(), token.Config())
	require.NoError(t, err)
	require.NoError(t, h.Close())
	require.Error(t, h.Refresh(t.Context()))
	_, err = h.Keys(t.Context())
	unavailable(t, err)
}

// Keys of a given version, whichever is active.
func TestOlderVersionsCanStillBeAsked(t *testing.T) {
	h := quick(t, twoVersions(t))
	subject := seed.NewSubject("6037991234567893")
	active, err := h.Pseudonym(t.Context(), "card", subject)
	require.NoError(t, err)
	again, err := h.PseudonymWith(t.Context(), active.Key, "card", subject)
	require.NoError(t, err)
	require.Equal(t, active.Sum, again)
	older, err := h.PseudonymWith(t.Context(), seed.KeyRef{Label: "lookup", Version: 1}, "card", subject)
	require.NoError(t, err)
	require.NotEqual(t, active.Sum, older)
	keys := map[string]bool{}
	for _, version := range []uint32{1, 2, 1} {
		key, err := h.StateKey(t.Context(), seed.KeyRef{Label: "seal", Version: version})
		require.NoError(t, err)
		require.Len(t, key, 32)
		keys[string(key)] = true
	}
	require.Len(t, keys, 2)
	for _, ref := range []seed.KeyRef{{Label: "lookup", Version: 3}, {Label: "seal", Version: 1}, {}} {
		_, err = h.PseudonymWith(t.Context(), ref, "card", subject)
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
	}
	_, err = h.PseudonymWith(t.Context(), active.Key, "", subject)
	require.Error(t, err)
	for _, ref := range []seed.KeyRef{{Label: "seal", Version: 3}, {Label: "digest", Version: 1}, {}} {
		_, err = h.StateKey(t.Context(), ref)
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
	}
}

// answerFile stands for hsm.known_answer_file.
type answerFile struct {
	answers []hsm.KnownAnswer
	err     error
}

func (f *answerFile) read() ([]hsm.KnownAnswer, error) { return f.answers, f.err }

// refreshable opens a token of the test's own whose known answers can be changed.
func refreshable(t *testing.T) (*hsm.HSM, *answerFile) {
	t.Helper()
	tok := copyOf(t, token)
	file := &answerFile{answers: tok.KnownAnswers}
	return quickWith(t, tok, func(c *hsm.Config) { c.Answers = file.read }), file
}

// Keys that a ceremony makes beside the running service are taken in with their answers, and verifications that run
// meanwhile notice nothing: each is right, and no seed is unwrapped again.
func TestRefreshTakesInNewKeys(t *testing.T) {
	h, file := refreshable(t)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	_, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	misses := h.Stats().SeedMisses
	var stop atomic.Bool
	verified := make(chan error, 1)
	go func() {
		var err error
		for err == nil && !stop.Load() {
			var sum []byte
			if sum, err = k.mac(t.Context(), h, []byte("message")); err == nil && !slices.Equal(sum, k.software([]byte("message"))) {
				err = errWrong
			}
		}
		verified <- err
	}()
	for _, ref := range versions(2) {
		require.NoError(t, h.CreateKeyMeanwhile(ref))
	}
	require.NoError(t, h.Refresh(t.Context()))
	require.ElementsMatch(t, versions(1), refsOf(t, h), "they have no answers yet")
	madeUnder(t, h, 1)
	require.ErrorIs(t, h.Use(versions(2)), seed.ErrKeyNotFound)

	file.answers, err = h.NoteMeanwhile()
	require.NoError(t, err)
	require.NoError(t, h.Refresh(t.Context()))
	require.NoError(t, h.Refresh(t.Context()), "again, with nothing new")
	require.ElementsMatch(t, append(versions(1), versions(2)...), refsOf(t, h))
	madeUnder(t, h, 2)
	require.NoError(t, h.Use(versions(1)))
	madeUnder(t, h, 1)
	stop.Store(true)
	require.NoError(t, <-verified)
	require.Equal(t, misses, h.Stats().SeedMisses)
	require.EqualValues(t, 1, h.Stats().Generation)

	for _, module := range []bool{true, false} {
		h.Change(module)
		madeUnder(t, h, 1)
		require.ElementsMatch(t, append(versions(1), versions(2)...), refsOf(t, h))
	}
}

// What is chosen as active stays so when a higher version is found.
func TestRefreshLeavesTheVersionsInUseAlone(t *testing.T) {
	h, file := refreshable(t)
	require.NoError(t, h.Use(versions(1)))
	for _, ref := range versions(2) {
		require.NoError(t, h.CreateKeyMeanwhile(ref))
	}
	var err error
	file.answers, err = h.NoteMeanwhile()
	require.NoError(t, err)
	require.NoError(t, h.Refresh(t.Context()))
	madeUnder(t, h, 1)
}

// A key that is not as it must be is left out and named, however often it is looked at; the others are taken in.
func TestRefreshLeavesOutWhatIsWrong(t *testing.T) {
	h, file := refreshable(t)
	for _, ref := range versions(2) {
		require.NoError(t, h.CreateKeyMeanwhile(ref))
	}
	noted, err := h.NoteMeanwhile()
	require.NoError(t, err)
	for i := range noted { // wrong: the answers of seal/2, data/2 and audit/2
		a := &noted[i]
		if a.Key.Version == 2 && slices.Contains([]string{"seal", "data", "audit"}, a.Key.Label) {
			a.Check = slices.Clone(a.Check)
			a.Check[0] ^= 1
		}
	}
	require.NoError(t, h.CreateKeyWrongly(seed.KeyRef{Label: "wrap", Version: 3}, hsm.Attribute{Type: pkcs11.CKA_SIGN, Value: true}))
	require.NoError(t, h.CreateKeyMeanwhile(seed.KeyRef{Label: "wrap", Version: 4}))
	require.NoError(t, h.CreateKeyMeanwhile(seed.KeyRef{Label: "wrap", Version: 4}))
	for _, version := range []uint32{3, 4, 5} {
		wrong := noted[0]
		wrong.Key.Version = version
		noted = append(noted, wrong)
	}
	file.answers = noted
	for range 10 { // more often than what ends a generation
		err := h.Refresh(t.Context())
		for _, say := range []string{"ramzban/seal/2 does not give the answer", "ramzban/data/2 does not", "ramzban/audit/2 does not",
			"ramzban/wrap/3: CKA_SIGN must be false", "two objects are labelled ramzban/wrap/4", "no such key in the HSM: ramzban/wrap/5"} {
			require.ErrorContains(t, err, say)
		}
		require.NotContains(t, err.Error(), "\n")
		require.NotErrorIs(t, err, seed.ErrUnavailable)
	}
	got := refsOf(t, h)
	require.Len(t, got, 2*len(masterLabels)-3)
	require.NotContains(t, got, seed.KeyRef{Label: "seal", Version: 2})
	require.Contains(t, got, seed.KeyRef{Label: "derive", Version: 2})
	require.EqualValues(t, 1, h.Stats().Generation)
	h.Change(true)
	require.Equal(t, got, refsOf(t, h), "and so does the next generation")
}

func TestRefreshNeedsReadableAnswers(t *testing.T) {
	h, file := refreshable(t)
	file.err = os.ErrPermission
	require.ErrorIs(t, h.Refresh(t.Context()), os.ErrPermission)
	file.err, file.answers = nil, append(slices.Clone(file.answers), file.answers[0])
	require.ErrorContains(t, h.Refresh(t.Context()), "two known answers")
	require.NoError(t, h.Ready(t.Context()))
}

func TestRefreshWithoutAnAnswerFileFindsNothing(t *testing.T) {
	h := open(t)
	require.NoError(t, h.Refresh(t.Context()))
	require.ElementsMatch(t, versions(1), refsOf(t, h))
}

// Customers verify and enrol while keys are found, made active, seeds rewrapped and the old keys destroyed: each result is
// right, nobody is refused, and the HSM is never opened anew.
func TestARotationUnderLoad(t *testing.T) {
	h, file := refreshable(t)
	customers := []known{wrapKnown(t, h, seed.SHA1, rfcSecret(20)), wrapKnown(t, h, seed.SHA256, rfcSecret(32)), wrapKnown(t, h, seed.SHA512, rfcSecret(64))}
	moved := make([]atomic.Pointer[known], len(customers))
	for i := range customers {
		moved[i].Store(&customers[i])
	}
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- together(6, func(i int) error {
			for !stop.Load() {
				k := moved[i%len(moved)].Load()
				sum, err := k.mac(t.Context(), h, []byte("message"))
				if err == nil && !slices.Equal(sum, k.software([]byte("message"))) {
					err = errWrong
				}
				if err == nil {
					_, err = h.SignAudit(t.Context(), []byte("checkpoint"))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}()
	for version := uint32(2); version <= 4; version++ {
		for _, ref := range versions(version) {
			if ref.Label != "import" { // made slowly
				require.NoError(t, h.CreateKeyMeanwhile(ref))
			}
		}
		var err error
		file.answers, err = h.NoteMeanwhile()
		require.NoError(t, err)
		require.NoError(t, h.Refresh(t.Context()))
		active := slices.DeleteFunc(versions(version), func(ref seed.KeyRef) bool { return ref.Label == "import" })
		require.NoError(t, h.Use(active))
		for i := range moved {
			k := *moved[i].Load()
			k.wrapped, err = h.Rewrap(t.Context(), k.wrapped, k.hash)
			require.NoError(t, err)
			require.Equal(t, version, k.wrapped.Key.Version)
			moved[i].Store(&k)
		}
		if version > 2 { // by now nobody uses what was moved the last time
			for _, ref := range versions(version - 2) {
				if ref.Label != "import" {
					require.NoError(t, h.DestroyKey(t.Context(), ref))
				}
			}
		}
	}
	stop.Store(true)
	require.NoError(t, <-done)
	require.EqualValues(t, 1, h.Stats().Generation)
	require.Len(t, refsOf(t, h), 2*(len(masterLabels)-1)+1)
}
