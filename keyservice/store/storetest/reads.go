package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

func testGet(t *testing.T, h Harness) {
	s := h.open(t, nil)
	for _, key := range binaryKeys() {
		commit(t, s, put(key, "value of "+string(key)))
	}
	commit(t, s, store.Change{Put: []store.Put{{Key: "empty", Value: nil}}, Entry: []byte("e")})
	for range 2 {
		keys := append(binaryKeys(), "absent", "empty", "absent")
		items, err := s.Get(context.Background(), keys...)
		require.NoError(t, err)
		require.Len(t, items, len(keys))
		for i, item := range items {
			require.Equal(t, keys[i], item.Key)
			switch item.Key {
			case "absent":
				require.Nil(t, item.Value)
				require.Zero(t, item.Version)
			case "empty":
				require.Empty(t, item.Value)
				require.NotZero(t, item.Version, "an empty row exists")
			default:
				require.Equal(t, "value of "+string(item.Key), string(item.Value))
			}
		}
		items[0].Value[0] ^= 0xff // the caller owns it
		s = h.reopen(t, s, nil)
	}
	none, err := s.Get(context.Background())
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = s.Get(context.Background(), "\x00engine")
	require.Error(t, err)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = s.Get(cancelled, "a")
	require.ErrorIs(t, err, context.Canceled)
}

// testGetConsistent: rows that always change together are never seen apart.
func testGetConsistent(t *testing.T, h Harness) {
	s := h.open(t, nil)
	pair := func(v string) store.Change {
		return store.Change{Put: []store.Put{{Key: "left", Value: []byte(v)}, {Key: "right", Value: []byte(v)}}, Entry: []byte("e")}
	}
	commit(t, s, pair("0"))
	done := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				items, err := s.Get(context.Background(), "left", "right")
				if err != nil || string(items[0].Value) != string(items[1].Value) || items[0].Version != items[1].Version {
					t.Errorf("a torn read: %v %v", items, err)
					return
				}
			}
		})
	}
	for i := range Scaled(300, 3000) {
		v := fmt.Sprint(i)
		commit(t, s, pair(v))
		require.Equal(t, v, string(get(t, s, "left").Value), "a commit that returned is seen")
	}
	close(done)
	group.Wait()
}

func testScan(t *testing.T, h Harness) {
	s := h.open(t, nil)
	keys := binaryKeys()
	for i := range keys { // backwards: order is not insertion's
		key := keys[len(keys)-1-i]
		commit(t, s, put(key, "value of "+string(key)))
	}
	commit(t, s, put("gone", "v"))
	commit(t, s, remove("gone"))
	for range 2 {
		for _, prefix := range append(keys, "", "c", "\x00", "a/") {
			for _, from := range append(keys, "", "c", "\x00") {
				var want []store.Key
				for _, key := range slices.Sorted(slices.Values(keys)) {
					if strings.HasPrefix(string(key), string(prefix)) && key >= from {
						want = append(want, key)
					}
				}
				var got []store.Key
				for _, item := range scan(t, s, prefix, from) {
					require.Equal(t, "value of "+string(item.Key), string(item.Value))
					require.NotZero(t, item.Version)
					got = append(got, item.Key)
				}
				require.Equal(t, want, got, "prefix %q from %q", prefix, from)
			}
		}
		s = h.reopen(t, s, nil)
	}
}

func testScanEndsEarly(t *testing.T, h Harness) {
	s := h.open(t, nil)
	for i := range 20 {
		commit(t, s, put(store.Key(fmt.Sprintf("k/%02d", i)), "v"))
	}
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	enough, seen := errors.New("enough"), 0
	err = snap.Scan(context.Background(), "k/", "", func(store.Item) error {
		if seen++; seen == 3 {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, 3, seen)

	ctx, cancel := context.WithCancel(context.Background())
	seen = 0
	err = snap.Scan(ctx, "k/", "", func(store.Item) error {
		if seen++; seen == 5 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, seen, 20)

	snap.Close()
	snap.Close()
	require.Error(t, snap.Scan(context.Background(), "k/", "", func(store.Item) error { return nil }))
}

// testSnapshotStandsStill: whatever is written, deleted and made meanwhile, also between two rows of a scan.
func testSnapshotStandsStill(t *testing.T, h Harness) {
	s := h.open(t, nil)
	const rows = 100
	key := func(i int) store.Key { return store.Key(fmt.Sprintf("k/%03d", i)) }
	for i := range rows {
		commit(t, s, put(key(i), "old"))
	}
	before := scan(t, s, "k/", "")
	snap, err := s.Snapshot(context.Background())
	require.NoError(t, err)
	defer snap.Close()
	seen := 0
	require.NoError(t, snap.Scan(context.Background(), "k/", "", func(item store.Item) error {
		require.Equal(t, before[seen], item)
		commit(t, s, put(key(rows-1-seen), "new"))
		commit(t, s, remove(key((seen+7)%rows)))
		commit(t, s, put(key(seen)+"/more", "new"))
		seen++
		return nil
	}))
	require.Equal(t, rows, seen)
	require.Equal(t, before, scanSnapshot(t, snap, "k/", ""))
	require.NotEqual(t, before, scan(t, s, "k/", ""))
}
