package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
	"ramzban/keyservice/store/transfer"
)

const bigValue = 64 << 10 // bytes

// heapLimit is for a few batches, for Badger's memtables of 21 MiB, of which one that is read from has at most four, and for
// what its compactions hold meanwhile. One that is written to keeps a few hundred MiB of buffers for its tables besides,
// however much is written: it is not measured.
const heapLimit = 160 << 20

// TestCopyInBoundedMemory holds few rows at a time.
func TestCopyInBoundedMemory(t *testing.T) {
	rows := storetest.Scaled(4_000, 16_000) // 250 MiB or 1 GiB
	eachEngine(t, func(t *testing.T, from place) {
		to := engines["postgres"](t)
		from.with(t, func(d database) { load(t, d, rows) })
		before, most, reports := liveHeap(), uint64(0), 0
		_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
			return transfer.Copy(context.Background(), from, to, func(_ string, _, all uint64) {
				if reports++; reports%10 == 0 {
					most = max(most, liveHeap())
				}
				if all != uint64(rows) {
					t.Errorf("%d rows in all", all)
				}
			})
		})
		require.NoError(t, err)
		t.Logf("%d MiB held", (int64(most)-int64(before))>>20)
		require.Less(t, int64(most)-int64(before), int64(heapLimit), "heap held during the copy")
	})
}

// load fills a new database with values that differ.
func load(t testing.TB, d database, rows int) {
	t.Helper()
	filling := store.Fence{Own: store.NewID(), State: store.Filling}
	require.NoError(t, d.SetFence(context.Background(), store.Fence{}, filling))
	for first := 0; first < rows; first += 16 {
		var batch []store.Put
		for i := first; i < min(first+16, rows); i++ {
			key := store.Key(fmt.Sprintf("s/%09d", i))
			batch = append(batch, store.Put{Key: key, Value: bytes.Repeat([]byte(key), bigValue/len(key))})
		}
		require.NoError(t, d.Load(context.Background(), filling, batch))
	}
	require.NoError(t, d.SetFence(context.Background(), filling, store.Fence{Own: filling.Own}))
}

// liveHeap returns the bytes in reachable objects.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
