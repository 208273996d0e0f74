package badgerstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	badger "github.com/dgraph-io/badger/v4"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

// A benchmark's change is what a verification writes: a state row on the condition that it is unchanged, and an entry.
const (
	benchValue = 300
	benchEntry = 200
)

// rawTime is how long the raw figure beside a benchmark is measured.
const rawTime = 300 * time.Millisecond

// BenchmarkAppendFsync appends a change's bytes to a file and syncs it.
func BenchmarkAppendFsync(b *testing.B) {
	b.ReportMetric(appendFsync(b, b.TempDir(), func(n int, _ time.Duration) bool { return n < b.N }), "raw/s")
}

// appendFsync appends and syncs while more allows, and returns how often it did per second.
func appendFsync(b *testing.B, dir string, more func(n int, took time.Duration) bool) float64 {
	f, err := os.OpenFile(filepath.Join(dir, "raw"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, benchValue+benchEntry)
	began, n := time.Now(), 0
	for ; more(n, time.Since(began)); n++ {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(began).Seconds()
}

// report adds the raw figure of the same disk, measured now, and how many times it the benchmark reaches.
func report(b *testing.B) {
	b.StopTimer()
	reached := float64(b.N) / b.Elapsed().Seconds()
	raw := appendFsync(b, b.TempDir(), func(_ int, took time.Duration) bool { return took < rawTime })
	b.ReportMetric(reached, "changes/s")
	b.ReportMetric(raw, "raw-fsync/s")
	b.ReportMetric(reached/raw, "x-raw")
}

// BenchmarkTransactionEach is what the committer is measured against: 256 writers, each change a synced transaction of
// its own.
func BenchmarkTransactionEach(b *testing.B) {
	o := Options{Dir: b.TempDir()}.withDefaults()
	db, err := badger.Open(badgerOptions(o).WithLogger(nil).WithDetectConflicts(true))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var index atomic.Uint64
	b.ResetTimer()
	eachOf(b, 256, func(key store.Key) error {
		return db.Update(func(txn *badger.Txn) error {
			if _, err := txn.Get([]byte(key)); err != nil && err != badger.ErrKeyNotFound {
				return err
			}
			if err := txn.Set([]byte(key), make([]byte, benchValue)); err != nil {
				return err
			}
			return txn.Set(fmt.Appendf(nil, "entry/%020d", index.Add(1)), make([]byte, benchEntry))
		})
	})
	report(b)
}

func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openTest(b, Options{Dir: b.TempDir(), Sequencer: storetest.Sequencer()})
			b.ResetTimer()
			eachOf(b, writers, func(key store.Key) error {
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
			})
			report(b)
			b.ReportMetric(float64(s.commits.next)/float64(s.commits.batch), "changes/batch")
		})
	}
}

// eachOf divides b.N changes among writers, each with rows of its own.
func eachOf(b *testing.B, writers int, change func(store.Key) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := 0; left.Add(-1) >= 0; i++ {
				if err := change(store.Key(fmt.Sprintf("state/%d/%d", w, i%64))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}
