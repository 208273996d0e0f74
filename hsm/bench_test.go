package hsm_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// The raw figures are C calls on one session; those of the product beside them, one caller and all processors.

func benchHSM(b *testing.B, cache int) (*hsm.HSM, known) {
	b.Helper()
	h := open(b, func(c *hsm.Config) { c.SeedCache = cache })
	return h, wrapKnown(b, h, seed.SHA1, rfcSecret(32))
}

func BenchmarkRawHMAC(b *testing.B) {
	h, k := benchHSM(b, 1)
	message := otp.Message(1)
	require.NoError(b, hsm.WithRaw(h, func(r hsm.Raw) error {
		key, err := r.Unwrap(k.wrapped, k.hash)
		if err != nil {
			return err
		}
		for b.Loop() {
			if err := r.HMAC(key, k.hash, message); err != nil {
				return err
			}
		}
		return r.Destroy(key)
	}))
}

func BenchmarkRawUnwrapHMACDestroy(b *testing.B) {
	h, k := benchHSM(b, 1)
	message := otp.Message(1)
	require.NoError(b, hsm.WithRaw(h, func(r hsm.Raw) error {
		for b.Loop() {
			key, err := r.Unwrap(k.wrapped, k.hash)
			if err != nil {
				return err
			}
			if err := r.HMAC(key, k.hash, message); err != nil {
				return err
			}
			if err := r.Destroy(key); err != nil {
				return err
			}
		}
		return nil
	}))
}

func BenchmarkRawDeriveWrapDestroy(b *testing.B) {
	h, _ := benchHSM(b, 1)
	require.NoError(b, hsm.WithRaw(h, func(r hsm.Raw) error {
		for b.Loop() {
			if err := r.DeriveWrapDestroy([]byte("context"), seed.SHA1); err != nil {
				return err
			}
		}
		return nil
	}))
}

func BenchmarkUseSeedWarm(b *testing.B) {
	h, k := benchHSM(b, 16)
	message := otp.Message(1)
	for b.Loop() {
		if _, err := k.mac(b.Context(), h, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUseSeedWarmParallel(b *testing.B) {
	h, k := benchHSM(b, 16)
	message := otp.Message(1)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := k.mac(b.Context(), h, message); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// Every use unwraps, and evicts and destroys another seed.
func BenchmarkUseSeedCold(b *testing.B) {
	h, _ := benchHSM(b, 1)
	seeds := make([]known, 8)
	for i := range seeds {
		seeds[i] = wrapKnown(b, h, seed.SHA1, fmt.Appendf(nil, "cold seed number %4d....", i))
	}
	message, n := otp.Message(1), 0
	for b.Loop() {
		n++
		if _, err := seeds[n%len(seeds)].mac(b.Context(), h, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	h, _ := benchHSM(b, 1)
	record := make([]byte, 400)
	for b.Loop() {
		if _, err := h.Seal(b.Context(), "record", record); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnrol(b *testing.B) {
	h, _ := benchHSM(b, 1)
	for b.Loop() {
		_, err := h.Enrol(b.Context(), seed.Derivation{Context: []byte("context"), Hash: seed.SHA1}, &phone.PublicKey)
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSignAudit(b *testing.B) {
	h, _ := benchHSM(b, 1)
	checkpoint := make([]byte, 120)
	for b.Loop() {
		if _, err := h.SignAudit(b.Context(), checkpoint); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRewrap(b *testing.B) {
	h := quick(b, twoWraps(b))
	require.NoError(b, h.Use([]seed.KeyRef{wrap1}))
	k := wrapKnown(b, h, seed.SHA1, rfcSecret(32))
	require.NoError(b, h.Use([]seed.KeyRef{wrap2}))
	for b.Loop() {
		if _, err := h.Rewrap(b.Context(), k.wrapped, k.hash); err != nil {
			b.Fatal(err)
		}
	}
}
