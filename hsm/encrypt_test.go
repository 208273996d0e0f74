package hsm_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

func TestEncryptAndDecrypt(t *testing.T) {
	h := open(t)
	ivs := map[string]bool{}
	for _, plain := range [][]byte{[]byte("7893"), {0}, bytes.Repeat([]byte("x"), 4096)} {
		for _, aad := range [][]byte{[]byte("serial, field"), nil} {
			e, err := h.Encrypt(t.Context(), aad, plain)
			require.NoError(t, err)
			require.Equal(t, seed.KeyRef{Label: "data", Version: 1}, e.Key)
			require.Len(t, e.Blob, len(plain)+16)
			ivs[string(e.IV)] = true
			got, err := h.Decrypt(t.Context(), aad, e)
			require.NoError(t, err)
			require.Equal(t, plain, got)
		}
	}
	require.Len(t, ivs, 6)
	_, err := h.Encrypt(t.Context(), nil, make([]byte, 4097))
	require.Error(t, err)
}

func TestDecryptNoticesEveryChange(t *testing.T) {
	h, aad := open(t), []byte("serial, field")
	e, err := h.Encrypt(t.Context(), aad, []byte("7893"))
	require.NoError(t, err)
	bad := func(aad []byte, e seed.Encrypted) {
		t.Helper()
		_, err := h.Decrypt(t.Context(), aad, e)
		require.ErrorIs(t, err, seed.ErrBadBlob)
	}
	for i := range e.Blob {
		c := e
		c.Blob = bytes.Clone(e.Blob)
		c.Blob[i] ^= 1
		bad(aad, c)
	}
	for i := range e.IV {
		c := e
		c.IV = bytes.Clone(e.IV)
		c.IV[i] ^= 0x80
		bad(aad, c)
	}
	bad([]byte("serial, Field"), e)
	bad(nil, e)
	bad(aad, seed.Encrypted{Key: e.Key, IV: e.IV, Blob: e.Blob[:15]})
	bad(aad, seed.Encrypted{Key: e.Key, IV: e.IV[:11], Blob: e.Blob})
	bad(aad, seed.Encrypted{Key: seed.KeyRef{Label: "wrap", Version: 1}, IV: e.IV, Blob: e.Blob})
	_, err = h.Decrypt(t.Context(), aad, seed.Encrypted{Key: seed.KeyRef{Label: "data", Version: 2}, IV: e.IV, Blob: e.Blob})
	require.ErrorIs(t, err, seed.ErrKeyNotFound)

	got, err := h.Decrypt(t.Context(), aad, e)
	require.NoError(t, err)
	require.Equal(t, "7893", string(got))
	require.EqualValues(t, 1, h.Stats().Generation, "bad input is no fault of the HSM")
}

func TestRandom(t *testing.T) {
	h := open(t)
	a, err := h.Random(t.Context(), 32)
	require.NoError(t, err)
	b, err := h.Random(t.Context(), 32)
	require.NoError(t, err)
	require.Len(t, a, 32)
	require.NotEqual(t, a, b)
	for _, n := range []int{0, -1, 1025} {
		_, err = h.Random(t.Context(), n)
		require.Error(t, err)
		_, err = h.RandomDigits(t.Context(), n)
		require.Error(t, err)
	}
}

// 10,240 digits: each is expected 1024 times with a standard deviation of 30. Taking bytes modulo 10 without throwing
// any away would be off by 1.6 %, too little to see here; what is seen is a digit that is missing or favoured.
func TestRandomDigits(t *testing.T) {
	h := open(t)
	var count [256]int
	for range 10 {
		d, err := h.RandomDigits(t.Context(), 1024)
		require.NoError(t, err)
		require.Len(t, d, 1024)
		for _, c := range []byte(d) {
			count[c]++
		}
	}
	total := 0
	for c := '0'; c <= '9'; c++ {
		require.InDelta(t, 1024, count[c], 200, "digit %c", c)
		total += count[c]
	}
	require.Equal(t, 10_240, total)
}
