package storetest

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

const (
	bigValue     = 1 << 10  // bytes
	bigHeapLimit = 16 << 20 // bytes that a scan may hold; the short form scans three times as much
	bigChange    = 250      // rows
)

// testBigScan scans many rows and holds few of them at a time.
func testBigScan(t *testing.T, h Harness) {
	s := h.open(t, nil)
	rows := Scaled(50_000, 1_000_000)
	load(t, s, rows)
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	before, most, seen := liveHeap(), uint64(0), 0
	require.NoError(t, snap.Scan(context.Background(), "big/", "", func(item store.Item) error {
		if item.Key != bigKey(seen) || len(item.Value) != bigValue {
			return fmt.Errorf("row %d is %q with %d bytes", seen, item.Key, len(item.Value))
		}
		if seen++; seen%(rows/10) == 0 {
			most = max(most, liveHeap())
		}
		return nil
	}))
	require.Equal(t, rows, seen)
	require.Less(t, int64(most)-int64(before), int64(bigHeapLimit), "heap held during the scan")
}

func bigKey(i int) store.Key { return store.Key(fmt.Sprintf("big/%09d", i)) }

// load writes rows of values that do not compress, several changes at a time.
func load(t *testing.T, s store.Store, rows int) {
	t.Helper()
	var group sync.WaitGroup
	const writers = 8
	for w := range writers {
		group.Go(func() {
			for first := w * bigChange; first < rows; first += writers * bigChange {
				c := store.Change{Entry: []byte("load")}
				for i := first; i < min(first+bigChange, rows); i++ {
					c.Put = append(c.Put, store.Put{Key: bigKey(i), Value: noise(i)})
				}
				if _, err := s.Commit(context.Background(), c); err != nil {
					t.Errorf("loading: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
}

func noise(i int) []byte {
	value := make([]byte, 0, bigValue)
	for block := uint64(0); len(value) < bigValue; block++ {
		sum := sha512.Sum512(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(i)), block))
		value = append(value, sum[:]...)
	}
	return value
}

// liveHeap returns the bytes in reachable objects.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
