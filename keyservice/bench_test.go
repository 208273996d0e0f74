package keyservice

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// BenchmarkVerifyOnPostgres measures passwords accepted per second by one node, in the HSM and on a PostgreSQL whose
// files are on a disk, without HTTP. Beside it, from the same run: what pgbench reaches with 32 clients and one
// transaction for each password.
func BenchmarkVerifyOnPostgres(b *testing.B) {
	server := pgtest.StartOnDisk(b)
	w := &world{t: b, node: "node-1", clock: &fakeClock{now: birth}}
	dsn := server.Database(b)
	w.open = func() (database, error) {
		return pgstore.Open(context.Background(), pgstore.Options{DSN: dsn, Node: w.node, Sequencer: w.logbook.Sequence, Log: slog.New(slog.DiscardHandler)})
	}
	w.begin()
	phones := make([]*phone, 256)
	for i := range phones {
		phones[i] = w.enrol(card(i), "counter-6")
	}
	for _, callers := range []int{1, 32, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			raw := server.Pgbench(b)
			b.ResetTimer()
			w.acceptAll(b, phones[:callers])
			b.StopTimer()
			reached := float64(b.N) / b.Elapsed().Seconds()
			b.ReportMetric(reached, "verifications/s")
			b.ReportMetric(raw, "pgbench/s")
			b.ReportMetric(reached/raw, "x-pgbench")
		})
	}
}

// acceptAll has b.N passwords accepted, of all phones at once, each phone's one after another.
func (w *world) acceptAll(b *testing.B, phones []*phone) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for _, p := range phones {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if v := w.try(p, p.password()); !v.Accepted {
					b.Errorf("not accepted: %v", v.Reason)
				}
			}
		})
	}
	all.Wait()
}
