package hsm_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	fault "ramzban/softhsm/faultmodule"
)

// objects counts what carries a key's label, and its mark.
func objects(t *testing.T, h *hsm.HSM, ref seed.KeyRef) (keys, marks int) {
	t.Helper()
	keys, err := h.CountObjects(ref.String())
	require.NoError(t, err)
	marks, err = h.CountObjects(ref.String() + "/destroyed")
	require.NoError(t, err)
	return keys, marks
}

// Every label: the key is gone with both its halves, nothing made under it can be used, warm seeds included, and neither
// this generation, nor a later one, nor a later start with the same known answers, misses it.
func TestADestroyedKeyIsGone(t *testing.T) {
	tok := twoVersions(t)
	h := quick(t, tok)
	require.NoError(t, h.Use(versions(1)))
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	_, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	sealed, err := h.Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	small, err := h.Encrypt(t.Context(), nil, []byte("x"))
	require.NoError(t, err)
	require.NoError(t, h.Use(versions(2)))

	for _, ref := range versions(1) {
		require.NoError(t, h.DestroyKey(t.Context(), ref), "%s", ref)
		keys, marks := objects(t, h, ref)
		require.Zero(t, keys, "%s", ref)
		require.Equal(t, 1, marks)
		require.NoError(t, h.DestroyKey(t.Context(), ref), "again")
		_, marks = objects(t, h, ref)
		require.Equal(t, 1, marks)
	}
	gone := func(h *hsm.HSM) {
		t.Helper()
		require.ElementsMatch(t, versions(2), refsOf(t, h))
		_, err := k.mac(t.Context(), h, []byte("message"))
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
		_, err = h.Rewrap(t.Context(), k.wrapped, k.hash)
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
		require.ErrorIs(t, h.CheckSeal(t.Context(), "record", []byte("x"), sealed), seed.ErrKeyNotFound)
		_, err = h.Decrypt(t.Context(), nil, small)
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
		require.ErrorIs(t, h.Use(versions(1)), seed.ErrKeyNotFound)
		madeUnder(t, h, 2)
	}
	gone(h)
	require.EqualValues(t, 1, h.Stats().Generation)
	for _, module := range []bool{true, false} {
		h.Change(module)
		gone(h)
	}
	require.NoError(t, h.Refresh(t.Context()))
	gone(h)
	require.NoError(t, h.Close())

	for name, answers := range map[string][]hsm.KnownAnswer{
		"with its answer":    tok.KnownAnswers,
		"without its answer": slices.DeleteFunc(slices.Clone(tok.KnownAnswers), func(a hsm.KnownAnswer) bool { return a.Key.Version == 1 }),
	} {
		c := tok.Config()
		c.KnownAnswers = answers
		h, err := hsm.Open(t.Context(), c)
		require.NoError(t, err, name)
		gone(h)
		require.NoError(t, h.Close())
	}
}

func TestWhatMayNotBeDestroyed(t *testing.T) {
	h := quick(t, twoVersions(t))
	for _, ref := range versions(2) {
		require.ErrorIs(t, h.DestroyKey(t.Context(), ref), seed.ErrKeyActive, "the highest version is active")
	}
	require.NoError(t, h.Use(versions(1)))
	for _, ref := range versions(1) {
		require.ErrorIs(t, h.DestroyKey(t.Context(), ref), seed.ErrKeyActive)
	}
	for _, ref := range []seed.KeyRef{{Label: "wrap", Version: 4}, {Label: "other", Version: 1}, {}} {
		require.ErrorIs(t, h.DestroyKey(t.Context(), ref), seed.ErrKeyNotFound, "%s", ref)
	}
	require.NoError(t, h.CreateKeyMeanwhile(version("wrap", 3)))
	require.NoError(t, h.CreateKeyMeanwhile(version("seal", 2)))
	for say, ref := range map[string]seed.KeyRef{"not proven": version("wrap", 3), "two objects": version("seal", 2)} {
		for range 10 { // more often than what ends a generation
			err := h.DestroyKey(t.Context(), ref)
			require.ErrorContains(t, err, say)
			require.NotErrorIs(t, err, seed.ErrKeyNotFound, "it is there: nobody may take it for destroyed")
			require.NotErrorIs(t, err, seed.ErrUnavailable)
		}
	}
	require.ElementsMatch(t, append(versions(1), versions(2)...), refsOf(t, h))
	require.EqualValues(t, 1, h.Stats().Generation)
}

// What was stored under a destroyed version must never seem to be under a new key of the same name.
func TestADestroyedVersionIsNeverMadeAgain(t *testing.T) {
	tok := twoWraps(t)
	h := quick(t, tok)
	require.NoError(t, h.DestroyKey(t.Context(), wrap1))
	require.NoError(t, h.Close())
	known := slices.DeleteFunc(slices.Clone(tok.KnownAnswers), func(a hsm.KnownAnswer) bool { return a.Key == wrap1 })
	refusesCeremony(t, tok.Config(), tok, hsm.CeremonyPlan{Keys: generated(wrap1), Known: known}, "ramzban/wrap/1 was destroyed")

	var record hsm.CeremonyRecord
	wrap3 := version("wrap", 3)
	plan := hsm.CeremonyPlan{Keys: generated(wrap3), Known: tok.KnownAnswers}
	_, err := hsm.Inspect(t.Context(), tok.Config(), plan)
	require.NoError(t, err, "its known answer and its mark stand in nobody's way")
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), plan, nil, keep(&record)))
	tok.KnownAnswers = record.KnownAnswers
	require.False(t, slices.ContainsFunc(record.KnownAnswers, func(a hsm.KnownAnswer) bool { return a.Key == wrap1 }))
	refs := refsOf(t, quick(t, tok))
	require.NotContains(t, refs, wrap1)
	require.Contains(t, refs, wrap3)
}

// A key that is missing without a mark is missing by accident.
func TestOnlyTheMarkExcusesAMissingKey(t *testing.T) {
	tok := twoWraps(t)
	require.NoError(t, hsm.DestroyKeys(tok.Config(), wrap1))
	refused(t, tok.Config(), "ramzban/wrap/1", "restore the key")
}

// Another node on the same HSM destroys a key: whoever refreshes forgets it, and whoever still tries to use it finds out.
func TestAKeyThatAnotherNodeDestroyed(t *testing.T) {
	seal1 := seed.KeyRef{Label: "seal", Version: 1}
	for name, notice := range map[string]func(*hsm.HSM) error{
		"by a refresh": func(h *hsm.HSM) error { return h.Refresh(t.Context()) },
		"by its use": func(h *hsm.HSM) error {
			_, err := h.StateKey(t.Context(), seal1)
			if !errors.Is(err, seed.ErrKeyNotFound) {
				return errors.Join(errWrong, err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := quick(t, twoVersions(t))
			require.NoError(t, h.Use(versions(2)))
			require.NoError(t, h.DestroyMeanwhile(seal1))
			require.NoError(t, notice(h))
			require.NotContains(t, refsOf(t, h), seal1)
			_, err := h.StateKey(t.Context(), seal1)
			require.ErrorIs(t, err, seed.ErrKeyNotFound)
			madeUnder(t, h, 2)

			require.NoError(t, h.DestroyMeanwhile(seed.KeyRef{Label: "seal", Version: 2}))
			require.Error(t, h.Refresh(t.Context()), "that of what is made now is an outage")
			h.Change(true)
			eventually(t, "two attempts", func() bool { return h.Stats().ReopenFailures >= 2 })
			_, err = h.Seal(t.Context(), "record", nil)
			unavailable(t, err)
		})
	}
}

// A key that somebody removed by other means, answer included, is forgotten as well; without the latter it is missed.
func TestAKeyThatSomebodyRemoved(t *testing.T) {
	tok := twoWraps(t)
	file := &answerFile{answers: tok.KnownAnswers}
	h := quickWith(t, tok, func(c *hsm.Config) { c.Answers = file.read })
	require.NoError(t, h.RemoveMeanwhile(wrap1))
	for range 10 {
		require.ErrorContains(t, h.Refresh(t.Context()), "ramzban/wrap/1: restore the key")
	}
	require.EqualValues(t, 1, h.Stats().Generation)
	file.answers = slices.DeleteFunc(slices.Clone(tok.KnownAnswers), func(a hsm.KnownAnswer) bool { return a.Key == wrap1 })
	require.NoError(t, h.Refresh(t.Context()))
	require.NotContains(t, refsOf(t, h), wrap1)
	h.Change(true)
	require.NotContains(t, refsOf(t, h), wrap1)
}

// A process that died between the mark and the destruction left a key that still works and can be destroyed.
func TestAnInterruptedDestructionIsFinished(t *testing.T) {
	tok := twoWraps(t)
	h := quick(t, tok)
	require.NoError(t, h.MarkMeanwhile(wrap1))
	require.NoError(t, h.Close())
	h = quick(t, tok)
	require.Contains(t, refsOf(t, h), wrap1)
	require.NoError(t, h.DestroyKey(t.Context(), wrap1))
	keys, marks := objects(t, h, wrap1)
	require.Zero(t, keys)
	require.Equal(t, 1, marks)
	require.NotContains(t, refsOf(t, h), wrap1)
}

// Every kind of C call of a destruction fails in each way: in the end the key is gone, and no other is.
func TestFaultDestroying(t *testing.T) {
	tok := copyOf(t, token)
	functions := []fault.Function{fault.OpenSession, fault.FindObjectsInit, fault.GetAttributeValue, fault.CreateObject, fault.DestroyObject}
	victims := 2 * len(functions) * len(sweepCodes)
	victim := func(i int) seed.KeyRef { return seed.KeyRef{Label: "digest", Version: uint32(i + 1)} }
	require.NoError(t, hsm.CreateDigests(tok.Config(), victims+1))
	renote(t, tok)
	r := newRigOn(t, tok, func(c *hsm.Config) { c.ReopenInterval = time.Millisecond })
	i := 0
	for _, f := range functions {
		for _, code := range sweepCodes {
			for _, done := range []bool{false, true} {
				ref := victim(i)
				i++
				r.faults.Inject(fault.Fault{Function: f, Code: code, Times: 1, Done: done})
				if err := r.DestroyKey(t.Context(), ref); err != nil {
					unavailable(t, err)
				}
				r.faults.Clear()
				eventually(t, ref.String(), func() bool { return r.DestroyKey(t.Context(), ref) == nil })
				keys, marks := objects(t, r.HSM, ref)
				require.Zero(t, keys)
				require.NotZero(t, marks)
			}
		}
	}
	require.Equal(t, victims, i)
	left := refsOf(t, r.HSM)
	require.Contains(t, left, victim(victims))
	require.Len(t, left, len(masterLabels))
	require.ErrorIs(t, r.DestroyKey(t.Context(), victim(victims)), seed.ErrKeyActive)
	r.faults.Break(pkcs11.CKR_DEVICE_ERROR)
	r.recovers()
	require.Equal(t, left, refsOf(t, r.HSM))
}

// A key that the HSM will not destroy goes on working.
func TestFaultAKeyThatCannotBeDestroyedStays(t *testing.T) {
	r := newRigOn(t, twoWraps(t))
	require.NoError(t, r.Use([]seed.KeyRef{wrap1}))
	k := wrapKnown(t, r.HSM, seed.SHA1, rfcSecret(20))
	require.NoError(t, r.Use([]seed.KeyRef{wrap2}))
	for _, f := range []fault.Function{fault.CreateObject, fault.DestroyObject} {
		r.faults.Inject(fault.Fault{Function: f, Code: pkcs11.CKR_FUNCTION_NOT_SUPPORTED})
		unavailable(t, r.DestroyKey(t.Context(), wrap1))
		r.faults.Clear()
		require.Contains(t, refsOf(t, r.HSM), wrap1)
		r.checks(k)
	}
	require.EqualValues(t, 1, r.generation())
	require.NoError(t, r.DestroyKey(t.Context(), wrap1))
	require.ErrorIs(t, r.check(t.Context(), k, "message"), seed.ErrKeyNotFound)
}

// Modules whose read-only sessions suffice for all else still destroy keys.
func TestDestroyingWithReadOnlySessions(t *testing.T) {
	h := quickWith(t, twoWraps(t), func(c *hsm.Config) { c.Profile.ReadOnlySessions = true })
	require.NoError(t, h.DestroyKey(t.Context(), wrap1))
	require.NotContains(t, refsOf(t, h), wrap1)
	madeUnderWrap2 := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.Equal(t, wrap2, madeUnderWrap2.wrapped.Key)
}

// Who has lost the login is shown no keys. That is no reason to say that there are none, or that one is destroyed.
func TestFaultDestroyingWithoutALogin(t *testing.T) {
	tok := twoWraps(t)
	file := &answerFile{answers: tok.KnownAnswers}
	r := newRigOn(t, tok, func(c *hsm.Config) { c.Answers = file.read })
	before := refsOf(t, r.HSM)
	r.faults.LoseLogin()
	require.NoError(t, r.Refresh(t.Context()))
	require.Equal(t, before, refsOf(t, r.HSM))
	r.faults.LoseLogin()
	require.ErrorIs(t, r.DestroyKey(t.Context(), wrap2), seed.ErrKeyActive)
	r.faults.LoseLogin()
	require.NoError(t, r.DestroyKey(t.Context(), wrap1))
	r.faults.LoseLogin()
	require.NoError(t, r.DestroyKey(t.Context(), wrap1))
	keys, marks := objects(t, r.HSM, wrap1)
	require.Zero(t, keys)
	require.Equal(t, 1, marks)
	require.EqualValues(t, 5, r.generation())
}

// A module that says that it destroyed a key, but did not, is found out.
func TestADestructionThatDidNotHappen(t *testing.T) {
	h := quick(t, twoWraps(t))
	require.ErrorContains(t, h.CheckErased(wrap1), "but did not", "there are the key and no mark")
	require.NoError(t, h.MarkMeanwhile(wrap1))
	require.ErrorContains(t, h.CheckErased(wrap1), "but did not", "there are both")
	require.NoError(t, h.RemoveMeanwhile(wrap1))
	require.NoError(t, h.CheckErased(wrap1))
	require.NoError(t, h.RemoveMeanwhile(wrap2))
	require.ErrorContains(t, h.CheckErased(wrap2), "CKR_USER_NOT_LOGGED_IN", "nothing is seen of any wrapping key")
}
