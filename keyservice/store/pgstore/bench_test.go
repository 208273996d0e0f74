package pgstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// BenchmarkCommit has beside each figure what pgbench reaches on the same server right after.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			server := pgtest.StartOnDisk(b)
			s := openTest(b, Options{DSN: server.DSN("postgres"), Sequencer: logOf("a")})
			b.ResetTimer()
			eachOf(b, writers, s)
			b.StopTimer()
			batches := float64(s.commits.number)
			reached := float64(b.N) / b.Elapsed().Seconds()
			raw := server.Pgbench(b)
			b.ReportMetric(reached, "changes/s")
			b.ReportMetric(float64(b.N)/batches, "changes/batch")
			b.ReportMetric(raw, "pgbench/s")
			b.ReportMetric(reached/raw, "x-pgbench")
		})
	}
}

// eachOf divides b.N changes among writers, each with rows of its own.
func eachOf(b *testing.B, writers int, s *Store) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := 0; left.Add(-1) >= 0; i++ {
				if err := verifyLike(s, store.Key(fmt.Sprintf("state/%d/%d", w, i%64))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

func verifyLike(s *Store, key store.Key) error {
	items, err := s.Get(context.Background(), key)
	if err != nil {
		return err
	}
	_, err = s.Commit(context.Background(), store.Change{
		Require: []store.Require{{Key: key, Version: items[0].Version}},
		Put:     []store.Put{{Key: key, Value: make([]byte, pgtest.BenchValue)}},
		Entry:   make([]byte, pgtest.BenchEntry),
	})
	return err
}
