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

const bigValue = 8 << 10 // bytes

// TestCopyInBoundedMemory holds few rows at a time. Badger, when it is written to, has four memtables of 21 MiB besides, and what it compacts.
func TestCopyInBoundedMemory(t *testing.T) {
	rows := storetest.Scaled(8_000, 60_000) // 64 or 480 MiB
	limits := map[bool]int64{true: 32 << 20, false: 192 << 20}
	eachCrossing(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		from.with(t, func(d database) { load(t, d, rows) })
		before, most, reports := liveHeap(), uint64(0), 0
		_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
			return transfer.Copy(context.Background(), from, to, func(_ string, _, all uint64) {
				if reports++; reports%(rows/1000) == 0 {
					most = max(most, liveHeap())
				}
				if all != uint64(rows) {
					t.Errorf("%d rows in all", all)
				}
			})
		})
		require.NoError(t, err)
		t.Logf("%d MiB held", (int64(most)-int64(before))>>20)
		require.Less(t, int64(most)-int64(before), limits[to.isPostgres()], "heap held during the copy")
	})
}

// load fills a new database with values that differ.
func load(t testing.TB, d database, rows int) {
	t.Helper()
	filling := store.Fence{Own: store.NewID(), State: store.Filling}
	require.NoError(t, d.SetFence(context.Background(), store.Fence{}, filling))
	for first := 0; first < rows; first += 100 {
		var batch []store.Put
		for i := first; i < min(first+100, rows); i++ {
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
