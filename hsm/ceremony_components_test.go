package hsm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSA-OAEP to devices is over SHA-1
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// envelopes are what the custodians keep: for each key two components or more.
type envelopes map[seed.KeyRef][][]byte

// fill makes components for every key that can have them, and the plan that goes with them.
func fill(t *testing.T) (envelopes, []hsm.PlannedKey) {
	t.Helper()
	e, keys := envelopes{}, hsm.FirstKeys()
	for i, k := range keys {
		length, err := hsm.ShareLength(k.Key.Label)
		if err != nil {
			continue // a key pair
		}
		whole := make([]byte, length)
		for range 2 + i%2 {
			share := make([]byte, length)
			_, _ = rand.Read(share)
			for j := range whole {
				whole[j] ^= share[j]
			}
			e[k.Key] = append(e[k.Key], share)
		}
		keys[i].Origin = hsm.Components
		keys[i].KCV, err = hsm.ShareKCV(k.Key.Label, whole)
		require.NoError(t, err)
	}
	require.Len(t, e, len(masterLabels)-2)
	return e, keys
}

// typed is what the custodians type: copies, since they are wiped.
func (e envelopes) typed(t *testing.T, keys []hsm.PlannedKey) map[seed.KeyRef][]byte {
	t.Helper()
	values := map[seed.KeyRef][]byte{}
	for _, k := range keys {
		if k.Origin != hsm.Components {
			continue
		}
		var shares [][]byte
		for _, share := range e[k.Key] {
			shares = append(shares, slices.Clone(share))
		}
		value, err := hsm.Combine(k, shares)
		require.NoError(t, err)
		for _, share := range shares {
			require.Equal(t, make([]byte, len(share)), share, "a component is not wiped")
		}
		values[k.Key] = value
	}
	return values
}

func (e envelopes) hold(t *testing.T, tok *softhsm.Token, keys []hsm.PlannedKey) hsm.CeremonyRecord {
	t.Helper()
	var record hsm.CeremonyRecord
	values := e.typed(t, keys)
	require.NoError(t, hsm.Hold(t.Context(), tok.Config(), hsm.CeremonyPlan{Keys: keys}, values, keep(&record)))
	for ref, v := range values {
		require.Equal(t, make([]byte, len(v)), v, "%s is not wiped", ref)
	}
	tok.KnownAnswers = record.KnownAnswers
	return record
}

// A lost HSM can be replaced: the same components typed into a second one make the same keys. What the first wrapped,
// sealed and encrypted, the second unwraps, checks and decrypts, and it gives the first one's known answers.
func TestComponentsReplaceALostHSM(t *testing.T) {
	e, keys := fill(t)
	lost := bare(t)
	first := e.hold(t, lost, keys)
	h := quick(t, lost)
	device, err := device()
	require.NoError(t, err)
	context := seed.Derivation{Context: []byte("a customer"), Hash: seed.SHA256}
	enrolled, err := h.Enrol(t.Context(), context, &device.PublicKey)
	require.NoError(t, err)
	value, err := rsa.DecryptOAEP(sha1.New(), nil, device, enrolled.ForDevice, nil)
	require.NoError(t, err)
	k := known{seed.SHA256, value, enrolled.ForStore}
	sealed, err := h.Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	secret, err := h.Encrypt(t.Context(), []byte("aad"), []byte("y"))
	require.NoError(t, err)
	require.NoError(t, h.Close())

	replacement := bare(t)
	second := e.hold(t, replacement, keys)
	for i, k := range keys {
		same := bytes.Equal(first.Keys[i].KCV, second.Keys[i].KCV)
		require.Equal(t, k.Origin == hsm.Components, same, "%s: a key pair is another, any other key the same", k.Key)
	}
	replacement.KnownAnswers = slices.Clone(second.KnownAnswers)
	for i, a := range first.KnownAnswers {
		if a.Origin == hsm.Components {
			replacement.KnownAnswers[i] = a
		}
	}
	h = quick(t, replacement)
	sum, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, k.software([]byte("message")), sum)
	require.NoError(t, h.CheckSeal(t.Context(), "record", []byte("x"), sealed))
	plain, err := h.Decrypt(t.Context(), []byte("aad"), secret)
	require.NoError(t, err)
	require.Equal(t, "y", string(plain))
	again, err := h.Enrol(t.Context(), context, &device.PublicKey)
	require.NoError(t, err)
	same, err := rsa.DecryptOAEP(sha1.New(), nil, device, again.ForDevice, nil)
	require.NoError(t, err)
	require.Equal(t, value, same, "the derivation key is the same")
}

// A key that was typed in says so for ever, and is refused where it should have been generated; and the other way round.
func TestTheOriginOfAKeyIsCheckedAtEveryStart(t *testing.T) {
	e, keys := fill(t)
	keys = slices.DeleteFunc(keys, func(k hsm.PlannedKey) bool { return k.Key.Label == "wrap" })
	keys = append(keys, generated(version("wrap", 1))...)
	tok := bare(t)
	e.hold(t, tok, keys)
	require.NoError(t, quick(t, tok).Close())
	noted := tok.KnownAnswers
	for i, a := range noted {
		tok.KnownAnswers = slices.Clone(noted)
		must := "CKA_ALWAYS_SENSITIVE must be true"
		if a.Origin == hsm.Components {
			tok.KnownAnswers[i].Origin = ""
		} else {
			tok.KnownAnswers[i].Origin, must = hsm.Components, "CKA_ALWAYS_SENSITIVE must be false"
		}
		refused(t, tok.Config(), a.Key.String(), must)
	}
	tok.KnownAnswers = slices.Clone(noted)
	tok.KnownAnswers[0].Origin = "thin air"
	refused(t, tok.Config(), `no key comes from "thin air"`)
}

// The key check values are those of the standards: the zero keys' are well known.
func TestKeyCheckValuesOfComponents(t *testing.T) {
	for label, c := range map[string]struct {
		length int
		kcv    string
	}{"wrap": {32, "dc95c0"}, "seal": {64, "c8d7d0"}} {
		length, err := hsm.ShareLength(label)
		require.NoError(t, err)
		require.Equal(t, c.length, length)
		kcv, err := hsm.ShareKCV(label, make([]byte, length))
		require.NoError(t, err)
		require.Equal(t, c.kcv, hex.EncodeToString(kcv))
		_, err = hsm.ShareKCV(label, make([]byte, length-1))
		require.ErrorIs(t, err, hsm.ErrRefused)
	}
	for _, label := range []string{"audit", "import", "other"} {
		_, err := hsm.ShareLength(label)
		require.ErrorIs(t, err, hsm.ErrRefused)
	}
}

func TestComponentsThatDoNotMakeThePlannedKey(t *testing.T) {
	e, keys := fill(t)
	k := keys[0]
	good := e[k.Key]
	other := slices.Clone(good[0])
	other[31] ^= 1
	zero, sum := make([]byte, 32), make([]byte, 32)
	subtle.XORBytes(sum, good[0], other)
	for say, shares := range map[string][][]byte{
		"one custodian alone would know the key":      {good[0]},
		"the others alone would be the key":           {good[0], good[1], zero},
		"component 2 of ramzban/wrap/1 has 31 bytes":  {good[0], good[1][:31]},
		"component 3 of ramzban/wrap/1 was typed be":  {good[0], good[1], good[0]},
		"the key would be all zeroes":                 {good[0], other, sum},
		"make a key with check value":                 {other, good[1]},
		"ramzban/wrap/1 needs at least 2 components:": nil,
	} {
		var typed [][]byte
		for _, s := range shares {
			typed = append(typed, slices.Clone(s))
		}
		_, err := hsm.Combine(k, typed)
		require.ErrorIs(t, err, hsm.ErrRefused)
		require.ErrorContains(t, err, say)
		for _, s := range typed {
			require.Equal(t, make([]byte, len(s)), s, "a refused component is not wiped")
		}
	}

	tok := bare(t)
	before := objectFiles(t, tok)
	for say, spoil := range map[string]func(map[seed.KeyRef][]byte){
		"has 32 bytes, not 0":                      func(v map[seed.KeyRef][]byte) { delete(v, k.Key) },
		"make a key with check value":              func(v map[seed.KeyRef][]byte) { v[k.Key][0] ^= 1 },
		"ramzban/audit/1 is not planned to come":   func(v map[seed.KeyRef][]byte) { v[version("audit", 1)] = zero },
		"ramzban/digest/9 is not planned to come ": func(v map[seed.KeyRef][]byte) { v[version("digest", 9)] = zero },
	} {
		values := e.typed(t, keys)
		spoil(values)
		err := hsm.Hold(t.Context(), tok.Config(), hsm.CeremonyPlan{Keys: keys}, values, noPublish)
		require.ErrorIs(t, err, hsm.ErrRefused)
		require.ErrorContains(t, err, say)
		require.Equal(t, before, objectFiles(t, tok))
		for _, v := range values {
			require.Equal(t, make([]byte, len(v)), v)
		}
	}
}
