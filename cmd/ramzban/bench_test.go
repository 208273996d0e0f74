package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/hsm"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/softhsm"
)

// BenchmarkVerification measures passwords accepted per second by the whole service (HTTP, mutual TLS, SoftHSM, database
// with fsync), with the load on the same machine. Beside it, from the same run: MACs per second by the HSM alone, and
// commits per second by the database alone, each with as many callers.
func BenchmarkVerification(b *testing.B) {
	s := startService(b)
	customers := make([]customer, 256)
	for i := range customers {
		c, err := s.enrol(b.Context(), "counter-6", testCard(i))
		require.NoError(b, err)
		customers[i] = c
	}
	clients := verifiers(b, s, len(customers)/64)
	mac, commit := rawHSM(b), rawStore(b)
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			macs, commits := perSecond(b, callers, mac), perSecond(b, callers, commit)
			b.ResetTimer()
			spread(callers, int64(b.N), func(caller int) {
				c := &customers[caller]
				answer, err := clients[caller/64].Verify(context.Background(), wire.VerificationRequest{
					Serial: c.serial, Use: testUse, OTP: c.password(b)})
				if err != nil || answer.Result != "accepted" {
					b.Errorf("not accepted: %v %v", answer.Reason, err)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
			b.ReportMetric(macs, "raw-HSM-MACs/s")
			b.ReportMetric(commits, "raw-commits/s")
		})
	}
}

// verifiers makes several clients: each keeps 64 connections open, and a handshake for each call would be what is measured.
func verifiers(b *testing.B, s *service, n int) []*client.Client {
	clients := make([]*client.Client, n)
	for i := range clients {
		c, err := client.New(client.Options{
			BaseURL: "https://" + s.api, CAFile: s.pki("ca.crt"), CertFile: s.pki("core-banking.crt"), KeyFile: s.pki("core-banking.key"),
		})
		require.NoError(b, err)
		b.Cleanup(c.Close)
		clients[i] = c
	}
	return clients
}

// spread shares out total calls among the callers.
func spread(callers int, total int64, call func(caller int)) {
	var left atomic.Int64
	left.Store(total)
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				call(caller)
			}
		})
	}
	all.Wait()
}

// perSecond calls for about a second, and returns how often.
func perSecond(b *testing.B, callers int, call func(caller int) error) float64 {
	var calls atomic.Int64
	began := time.Now()
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for time.Since(began) < time.Second {
				if err := call(caller); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	all.Wait()
	return float64(calls.Load()) / time.Since(began).Seconds()
}

// rawHSM returns one MAC under a seed that is in the HSM already.
func rawHSM(b *testing.B) func(int) error {
	token := softhsm.New(b)
	h, err := hsm.Open(b.Context(), token.Config())
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, h.Close()) })
	key, err := phoneKey()
	require.NoError(b, err)
	e, err := h.Enrol(b.Context(), seed.Derivation{Context: []byte("benchmark"), Hash: seed.SHA1}, &key.PublicKey)
	require.NoError(b, err)
	var factor atomic.Uint64
	return func(int) error {
		return h.UseSeed(context.Background(), e.ForStore, seed.SHA1, func(mac seed.MAC) error {
			_, err := mac(otp.Message(factor.Add(1)))
			return err
		})
	}
}

// rawStore returns one commit of the size of a verification's: a state row, a guess budget and an audit entry.
func rawStore(b *testing.B) func(int) error {
	db, err := badgerstore.Open(badgerstore.Options{Dir: filepath.Join(b.TempDir(), "badger"), Node: "a", Log: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	value := make([]byte, 200)
	return func(caller int) error {
		_, err := db.Commit(context.Background(), store.Change{
			Put:   []store.Put{{Key: store.Key(fmt.Sprintf("s/%d", caller)), Value: value}, {Key: store.Key(fmt.Sprintf("g/%d", caller)), Value: value}},
			Entry: value,
		})
		return err
	}
}
