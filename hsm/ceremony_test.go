package hsm_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

func bare(t *testing.T) *softhsm.Token {
	t.Helper()
	tok, err := softhsm.Bare(t.TempDir())
	require.NoError(t, err)
	return tok
}

func version(label string, n uint32) seed.KeyRef { return seed.KeyRef{Label: label, Version: n} }

func generated(refs ...seed.KeyRef) []hsm.PlannedKey {
	var keys []hsm.PlannedKey
	for _, ref := range refs {
		keys = append(keys, hsm.PlannedKey{Key: ref, Origin: hsm.Generated})
	}
	return keys
}

// keep is a Publish that keeps the record.
func keep(into *hsm.CeremonyRecord) hsm.Publish {
	return func(r hsm.CeremonyRecord, _ func([]byte) (seed.Signature, error)) error {
		*into = r
		return nil
	}
}

func noPublish(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error {
	return errors.New("nothing is to be published")
}

// refusesCeremony checks that both the dry run and the ceremony itself are refused in one line that holds all of say, and
// that nothing in the token's folder changes.
func refusesCeremony(t *testing.T, c hsm.Config, tok *softhsm.Token, plan hsm.CeremonyPlan, say ...string) {
	t.Helper()
	before := objectFiles(t, tok)
	_, err := hsm.Inspect(t.Context(), c, plan)
	for _, err := range []error{err, hsm.Hold(t.Context(), c, plan, nil, noPublish)} {
		require.ErrorIs(t, err, hsm.ErrRefused)
		require.NotContains(t, err.Error(), "\n")
		for _, s := range say {
			require.ErrorContains(t, err, s)
		}
	}
	require.Equal(t, before, objectFiles(t, tok))
	t.Log(err)
}

// A ceremony on an empty token: the dry run changes nothing, the record says all, the answers open the service's HSM, and
// there is no second one.
func TestCeremonyFromNothing(t *testing.T) {
	tok := bare(t)
	plan := hsm.CeremonyPlan{Keys: hsm.FirstKeys()}
	empty := objectFiles(t, tok)
	found, err := hsm.Inspect(t.Context(), tok.Config(), plan)
	require.NoError(t, err)
	require.Equal(t, empty, objectFiles(t, tok))
	require.Empty(t, found.Before)
	require.Equal(t, "ramzban", found.Token.Label)
	require.Len(t, found.Token.Serial, 16)
	require.Equal(t, tok.Module, found.Module.Path)
	require.Equal(t, "2.6", found.Module.Version)

	var record hsm.CeremonyRecord
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), plan, nil, keep(&record)))
	require.Len(t, record.Keys, len(masterLabels))
	for i, k := range record.Keys {
		require.Equal(t, plan.Keys[i].Key, k.Key)
		require.Equal(t, k.Public != nil, len(k.KCV) == 8)
		require.Contains(t, k.Attributes, hsm.ReadAttribute{Name: "CKA_SENSITIVE", Value: "true"})
		require.Contains(t, k.Attributes, hsm.ReadAttribute{Name: "CKA_EXTRACTABLE", Value: "false"})
		require.Contains(t, k.Attributes, hsm.ReadAttribute{Name: "CKA_NEVER_EXTRACTABLE", Value: "true"})
		require.Equal(t, hsm.Generated, record.KnownAnswers[i].Origin)
	}
	tok.KnownAnswers = record.KnownAnswers
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	keys, err := h.Keys(t.Context())
	require.NoError(t, err)
	for i, k := range keys {
		require.Equal(t, seed.MasterKey{Key: record.Keys[i].Key, KCV: record.Keys[i].KCV, Public: record.Keys[i].Public}, k)
	}
	require.NoError(t, h.Close())

	refusesCeremony(t, tok.Config(), tok, plan, "ramzban/wrap/1 is in the HSM already")
	plan.Known = record.KnownAnswers
	refusesCeremony(t, tok.Config(), tok, plan, "ramzban/wrap/1 has a known answer from an earlier ceremony")
}

// A later ceremony adds versions; the running service finds them.
func TestCeremonyForARotation(t *testing.T) {
	tok := softhsm.New(t)
	old := tok.KnownAnswers
	var record hsm.CeremonyRecord
	plan := hsm.CeremonyPlan{Known: old, Keys: generated(version("wrap", 2), version("audit", 5))}
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), plan, nil, keep(&record)))
	require.Len(t, record.Before, len(masterLabels))
	require.Equal(t, old, record.KnownAnswers[:len(old)])
	require.Len(t, record.KnownAnswers, len(old)+2)
	tok.KnownAnswers = record.KnownAnswers
	h := quick(t, tok)
	s, err := h.SignAudit(t.Context(), []byte("x"))
	require.NoError(t, err)
	require.Equal(t, version("audit", 5), s.Key)
}

func TestPlansThatNoHSMCouldSatisfy(t *testing.T) {
	tok := bare(t)
	all := hsm.FirstKeys()
	with := func(k hsm.PlannedKey) hsm.CeremonyPlan { return hsm.CeremonyPlan{Keys: append(slices.Clone(all), k)} }
	two := version("wrap", 2)
	for say, plan := range map[string]hsm.CeremonyPlan{
		"names no keys": {},
		"ramzban/audit is neither in the plan nor":           {Keys: all[:len(all)-1]},
		"the plan names ramzban/wrap/1 twice":                with(all[0]),
		`no master key is labelled "other": use one of wrap`: with(hsm.PlannedKey{Key: version("other", 1), Origin: hsm.Generated}),
		"the versions of wrap begin with 1":                  with(hsm.PlannedKey{Key: version("wrap", 0), Origin: hsm.Generated}),
		`no key comes from "thin air"`:                       with(hsm.PlannedKey{Key: two, Origin: "thin air"}),
		"ramzban/audit/2 is a key pair":                      with(hsm.PlannedKey{Key: version("audit", 2), Origin: hsm.Components, KCV: make([]byte, 8)}),
		"nobody can know its key check value before":         with(hsm.PlannedKey{Key: two, Origin: hsm.Generated, KCV: make([]byte, 3)}),
		"ramzban/wrap/2 needs a key check value of 3 bytes":  with(hsm.PlannedKey{Key: two, Origin: hsm.Components}),
		"ramzban/audit/2 needs a key check value of 8 bytes": with(hsm.PlannedKey{Key: version("audit", 2), Origin: hsm.VendorClone, KCV: make([]byte, 3)}),
		"two known answers are given for":                    {Keys: all, Known: append(slices.Clone(token.KnownAnswers[:1]), token.KnownAnswers[0])},
	} {
		refusesCeremony(t, tok.Config(), tok, plan, say)
	}
}

// madeBy runs fn, hands back the object files that it made, and removes them when the test ends.
func madeBy(t *testing.T, tok *softhsm.Token, fn func() error) []string {
	t.Helper()
	before := objectFiles(t, tok)
	require.NoError(t, fn())
	made := slices.DeleteFunc(objectFiles(t, tok), func(f string) bool { return slices.Contains(before, f) })
	require.NotEmpty(t, made)
	t.Cleanup(func() {
		for _, f := range made {
			require.NoError(t, os.RemoveAll(f))
		}
	})
	return made
}

// away takes the only object of a label out of the token until the test ends.
func away(t *testing.T, tok *softhsm.Token, ref seed.KeyRef) {
	t.Helper()
	content := map[string][]byte{}
	for _, f := range objectFiles(t, tok) {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		content[f] = b
	}
	require.NoError(t, hsm.DestroyKeys(tok.Config(), ref))
	t.Cleanup(func() {
		for f, b := range content {
			if _, err := os.Stat(f); err != nil {
				require.NoError(t, os.WriteFile(f, b, 0o600))
				require.NoError(t, os.WriteFile(strings.TrimSuffix(f, ".object")+".lock", nil, 0o600))
			}
		}
	})
}

// What should not be in the HSM, what should be and is not, and what is not as it should be: nothing is made.
func TestCeremoniesAreRefusedOnATokenThatIsNotAsItMustBe(t *testing.T) {
	tok := softhsm.New(t)
	next := hsm.CeremonyPlan{Known: tok.KnownAnswers, Keys: generated(version("derive", 2), version("wrap", 2))}
	create := func(ref seed.KeyRef, instead ...hsm.Attribute) func() error {
		return func() error { return hsm.CreateKey(tok.Config(), ref, instead...) }
	}
	t.Run("a stray key", func(t *testing.T) {
		madeBy(t, tok, create(version("seal", 7)))
		refusesCeremony(t, tok.Config(), tok, next, "ramzban/seal/7 is in the HSM, but neither in the plan nor among the known answers")
	})
	t.Run("two under one label", func(t *testing.T) {
		madeBy(t, tok, create(version("seal", 1)))
		refusesCeremony(t, tok.Config(), tok, next, "two objects are labelled ramzban/seal/1")
	})
	t.Run("a label of ours that is none", func(t *testing.T) {
		madeBy(t, tok, create(version("seal", 1), hsm.Attribute{Type: pkcs11.CKA_LABEL, Value: "ramzban/seal/01"}))
		refusesCeremony(t, tok.Config(), tok, next, `labelled "ramzban/seal/01"`, "no master key of this version")
	})
	t.Run("what the plan would make", func(t *testing.T) {
		madeBy(t, tok, create(version("wrap", 2)))
		refusesCeremony(t, tok.Config(), tok, next, "ramzban/wrap/2 is in the HSM already: plan another version")
	})
	t.Run("half an audit key", func(t *testing.T) {
		for _, half := range madeBy(t, tok, create(version("audit", 2))) {
			b, err := os.ReadFile(half)
			require.NoError(t, err)
			require.NoError(t, os.Remove(half))
			refusesCeremony(t, tok.Config(), tok, next, "ramzban/audit/2")
			require.NoError(t, os.WriteFile(half, b, 0o600))
		}
	})
	t.Run("a known key is missing", func(t *testing.T) {
		away(t, tok, version("data", 1))
		refusesCeremony(t, tok.Config(), tok, next, "ramzban/data/1, but there is a known answer for it")
	})
	t.Run("a known key is another", func(t *testing.T) {
		away(t, tok, version("data", 1))
		madeBy(t, tok, create(version("data", 1)))
		refusesCeremony(t, tok.Config(), tok, next, "ramzban/data/1 does not give the answer noted at the key ceremony")
	})
	t.Run("a known key has a wrong attribute", func(t *testing.T) {
		away(t, tok, version("data", 1))
		madeBy(t, tok, create(version("data", 1), hsm.Attribute{Type: pkcs11.CKA_WRAP, Value: true}))
		refusesCeremony(t, tok.Config(), tok, next, "key ramzban/data/1: CKA_WRAP must be false")
	})
	t.Run("the known answers of another HSM", func(t *testing.T) {
		other := next
		other.Known = token.KnownAnswers
		refusesCeremony(t, tok.Config(), tok, other, "does not give the answer")
	})
	t.Run("a clone that is not as it must be", func(t *testing.T) {
		clone := hsm.CeremonyPlan{Known: tok.KnownAnswers, Keys: []hsm.PlannedKey{{Key: version("seal", 2), Origin: hsm.VendorClone, KCV: []byte{1, 2, 3}}}}
		refusesCeremony(t, tok.Config(), tok, clone, "ramzban/seal/2: clone it into the HSM")
		madeBy(t, tok, create(version("seal", 2), hsm.Attribute{Type: pkcs11.CKA_EXTRACTABLE, Value: true}))
		refusesCeremony(t, tok.Config(), tok, clone, "key ramzban/seal/2: CKA_EXTRACTABLE must be false")
		require.NoError(t, hsm.DestroyKeys(tok.Config(), version("seal", 2)))
		madeBy(t, tok, create(version("seal", 2)))
		refusesCeremony(t, tok.Config(), tok, clone, "ramzban/seal/2 has key check value", "not 010203 as planned: it is another key")
	})
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), next, nil, func(hsm.CeremonyRecord, func([]byte) (seed.Signature, error)) error { return nil }))
}

// A key made elsewhere is adopted by its label and key check value, and is not destroyed when the ceremony fails.
func TestClonesAreAdopted(t *testing.T) {
	tok := softhsm.New(t)
	ref := version("backup", 2)
	require.NoError(t, hsm.CreateKey(tok.Config(), ref))
	plan := hsm.CeremonyPlan{Known: tok.KnownAnswers, Keys: append(generated(version("seal", 2)),
		hsm.PlannedKey{Key: ref, Origin: hsm.VendorClone, KCV: []byte{1, 2, 3}})}
	_, err := hsm.Inspect(t.Context(), tok.Config(), plan)
	var kcv []byte
	_, serr := fmt.Sscanf(err.Error()[strings.Index(err.Error(), "check value "):], "check value %X,", &kcv)
	require.NoError(t, serr)
	plan.Keys[1].KCV = kcv

	before := objectFiles(t, tok)
	require.ErrorContains(t, hsm.Hold(t.Context(), tok.Config(), plan, nil, noPublish), "nothing is left of it, ramzban/seal/2 destroyed again")
	require.Equal(t, before, objectFiles(t, tok))

	var record hsm.CeremonyRecord
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), plan, nil, keep(&record)))
	require.Equal(t, hsm.VendorClone, record.Keys[1].Origin)
	require.Equal(t, kcv, record.Keys[1].KCV)
	require.NotEmpty(t, record.Keys[1].Attributes)
	tok.KnownAnswers = record.KnownAnswers
	quick(t, tok)
}
