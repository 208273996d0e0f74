package pgstore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// A benchmark's change is what a verification writes: a state row on the condition that it is unchanged, and an entry.
const (
	benchValue = 300
	benchEntry = 200
	benchRows  = 256 * 64
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
			raw := pgbench(b, server)
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
		Put:     []store.Put{{Key: key, Value: make([]byte, benchValue)}},
		Entry:   make([]byte, benchEntry),
	})
	return err
}

// transactionEach is the same as single transactions: a row is read, updated if it is unchanged, and an entry inserted.
var transactionEach = fmt.Sprintf(`
\set key random(1, %d)
SELECT version AS seen FROM bench_rows WHERE key = int8send(:key) \gset
BEGIN;
UPDATE bench_rows SET value = decode(repeat('00', %d), 'hex'), version = version + 1 WHERE key = int8send(:key) AND version = :seen;
INSERT INTO bench_entries (entry) VALUES (decode(repeat('00', %d), 'hex'));
COMMIT;
`, benchRows, benchValue, benchEntry)

var tps = regexp.MustCompile(`tps = ([0-9.]+)`)

// pgbench returns the transactions per second of 32 clients, each transaction for itself.
func pgbench(b *testing.B, server *pgtest.Server) float64 {
	b.Helper()
	server.Exec(b, `CREATE TABLE bench_rows (key bytea PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL)`,
		`CREATE TABLE bench_entries (index bigserial PRIMARY KEY, entry bytea NOT NULL)`,
		fmt.Sprintf(`INSERT INTO bench_rows SELECT int8send(i), decode(repeat('00', %d), 'hex'), 1 FROM generate_series(1, %d) AS i`, benchValue, benchRows))
	script := filepath.Join(b.TempDir(), "verify.sql")
	if err := os.WriteFile(script, []byte(transactionEach), 0o600); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command(server.Program("pgbench"), "--host="+server.Dir(), "--username=postgres", "--no-vacuum", "--protocol=prepared",
		"--client=32", "--jobs=2", "--time=3", "--file="+script, "postgres").CombinedOutput()
	found := tps.FindSubmatch(out)
	if err != nil || found == nil {
		b.Fatalf("pgbench: %v: %s", err, out)
	}
	reached, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return reached
}
