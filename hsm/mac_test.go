package hsm_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

func TestSeal(t *testing.T) {
	h, data := open(t), []byte("a record")
	sealed, err := h.Seal(t.Context(), "record", data)
	require.NoError(t, err)
	require.Equal(t, seed.KeyRef{Label: "seal", Version: 1}, sealed.Key)
	require.Len(t, sealed.Sum, 32)
	require.NoError(t, h.CheckSeal(t.Context(), "record", data, sealed))

	bad := func(purpose string, data []byte, m seed.MACed) {
		t.Helper()
		require.ErrorIs(t, h.CheckSeal(t.Context(), purpose, data, m), seed.ErrBadSeal)
	}
	bad("record", []byte("A record"), sealed)
	bad("other", data, sealed)
	bad("record", data, seed.MACed{Key: sealed.Key, Sum: sealed.Sum[:31]})
	bad("record", data, seed.MACed{Key: sealed.Key})
	bad("record", data, seed.MACed{Key: seed.KeyRef{Label: "digest", Version: 1}, Sum: sealed.Sum})
	err = h.CheckSeal(t.Context(), "record", data, seed.MACed{Key: seed.KeyRef{Label: "seal", Version: 2}, Sum: sealed.Sum})
	require.ErrorIs(t, err, seed.ErrKeyNotFound)
}

// A purpose ends with the zero byte of its tag, whatever the data begins with.
func TestPurposesAreSeparate(t *testing.T) {
	h := open(t)
	seen := map[string]string{}
	note := func(what string, m seed.MACed, err error) {
		t.Helper()
		require.NoError(t, err)
		require.NotContains(t, seen, string(m.Sum), what)
		seen[string(m.Sum)] = what
	}
	for _, purpose := range []string{"a", "a/1", "a/1/1"} {
		for _, data := range []string{"", "\x00", "/1\x00", "1\x00"} {
			m, err := h.Seal(t.Context(), purpose, []byte(data))
			note("seal", m, err)
			m, err = h.Digest(t.Context(), purpose, []byte(data))
			note("digest", m, err)
		}
	}
	key, err := h.StateKey(t.Context(), seed.KeyRef{Label: "seal", Version: 1})
	note("state key", seed.MACed{Sum: key}, err)
}

func TestPurposesThatAreRefused(t *testing.T) {
	h := open(t)
	for _, p := range []string{"", "State", "a b", "a\x00", "é", strings.Repeat("a", 65), "state-key", "self-check", "subject", "ready"} {
		_, err := h.Seal(t.Context(), p, nil)
		require.Error(t, err, p)
		require.Error(t, h.CheckSeal(t.Context(), p, nil, seed.MACed{}), p)
		_, err = h.Digest(t.Context(), p, nil)
		require.Error(t, err, p)
		_, err = h.DigestWith(t.Context(), seed.KeyRef{Label: "digest", Version: 1}, p, nil)
		require.Error(t, err, p)
	}
}

func TestDigestIsMadeAgain(t *testing.T) {
	h := open(t)
	m, err := h.Digest(t.Context(), "activation-code", []byte("input"))
	require.NoError(t, err)
	again, err := h.DigestWith(t.Context(), m.Key, "activation-code", []byte("input"))
	require.NoError(t, err)
	require.Equal(t, m.Sum, again)
	for _, ref := range []seed.KeyRef{{Label: "digest", Version: 7}, {Label: "seal", Version: 1}, {}} {
		_, err = h.DigestWith(t.Context(), ref, "activation-code", []byte("input"))
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
	}
}

// What was made before a restart, and before a generation change, must be made again after it.
func TestMACsStayTheSame(t *testing.T) {
	type made struct{ pseudonym, state, sealed string }
	do := func(h *hsm.HSM) made {
		p, err := h.Pseudonym(t.Context(), "card", seed.NewSubject("6037991234567893"))
		require.NoError(t, err)
		s, err := h.StateKey(t.Context(), seed.KeyRef{Label: "seal", Version: 1})
		require.NoError(t, err)
		require.Len(t, s, 32)
		m, err := h.Seal(t.Context(), "record", []byte("x"))
		require.NoError(t, err)
		return made{string(p.Sum), string(s), string(m.Sum)}
	}
	first := open(t)
	want := do(first)
	for i, module := range []bool{false, true} {
		first.Change(module)
		require.Equal(t, want, do(first))
		require.EqualValues(t, i+2, first.Stats().Generation)
	}
	require.NoError(t, first.Close())
	require.Equal(t, want, do(open(t)))
}

func TestPseudonym(t *testing.T) {
	h := open(t)
	of := func(class, subject string) string {
		m, err := h.Pseudonym(t.Context(), class, seed.NewSubject(subject))
		require.NoError(t, err)
		require.Equal(t, "lookup", m.Key.Label)
		return string(m.Sum)
	}
	require.NotEqual(t, of("card", "1234"), of("account", "1234"))
	require.NotEqual(t, of("card", "1234"), of("card", "1235"))
	require.NotEqual(t, of("card1", "234"), of("card", "1234"))
	for _, class := range []string{"", "a\x00b"} {
		_, err := h.Pseudonym(t.Context(), class, seed.NewSubject("1"))
		require.Error(t, err)
	}
}
