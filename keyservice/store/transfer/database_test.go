package transfer_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/storetest"
)

// What transfer.Database says, of every engine.

func eachEngine(t *testing.T, test func(*testing.T, place)) {
	for name, fresh := range engines {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func setFence(t *testing.T, d database, now store.Fence) {
	t.Helper()
	was, err := d.Fence(context.Background())
	require.NoError(t, err)
	require.NoError(t, d.SetFence(context.Background(), was, now))
}

// TestFenceStays: it is kept with the database, and nodes obey it.
func TestFenceStays(t *testing.T) {
	eachEngine(t, func(t *testing.T, p place) {
		p.with(t, func(d database) {
			fence, err := d.Fence(context.Background())
			require.NoError(t, err)
			require.Zero(t, fence, "of a new database")
		})
		fence := store.Fence{Own: store.NewID(), Peer: store.NewID(), Where: "elsewhere, in the cellar", Run: store.NewID()}
		for _, fence.State = range []store.FenceState{store.Filling, store.Copying, store.Moved, store.Abandoned, store.Serving} {
			p.with(t, func(d database) { setFence(t, d, fence) })
			p.with(t, func(d database) {
				now, err := d.Fence(context.Background())
				require.NoError(t, err)
				require.Equal(t, fence, now)
				require.ErrorIs(t, d.SetFence(context.Background(), store.Fence{}, store.Fence{}), store.ErrConflict)
			})
			if fence.State != store.Serving {
				p.requireMoved(t, "ramzban store copy")
			}
		}
		p.serve(t, "a", func(s storetest.Store) { require.EqualValues(t, 0, commit(t, s, "k", []byte("v"))) })
		p.serve(t, "a", func(s storetest.Store) { require.EqualValues(t, 1, commit(t, s, "k", []byte("v"))) })
		p.with(t, func(d database) {
			now, err := d.Fence(context.Background())
			require.NoError(t, err)
			require.Equal(t, fence, now, "nodes leave it alone")
		})
	})
}

// TestLoadedRowsAreServed, with the indexes that follow those loaded.
func TestLoadedRowsAreServed(t *testing.T) {
	eachEngine(t, func(t *testing.T, p place) {
		rows := []store.Put{{Key: "\x01"}, {Key: "a\x00", Value: []byte{}}, {Key: "b", Value: bytes.Repeat([]byte{7}, store.MaxValue)}, {Key: "\xff", Value: []byte("last")}}
		filling := store.Fence{Own: store.NewID(), State: store.Filling, Peer: store.NewID(), Run: store.NewID()}
		ctx := context.Background()
		p.with(t, func(d database) {
			setFence(t, d, filling)
			require.NoError(t, d.Load(ctx, filling, rows[:3]))
			require.NoError(t, d.Load(ctx, filling, rows[3:]))
			require.NoError(t, d.SetLogs(ctx, filling, map[string]uint64{"a": 7, "b": 1 << 40}))
		})
		p.with(t, func(d database) {
			count, err := d.Count(ctx)
			require.NoError(t, err)
			require.EqualValues(t, len(rows), count)
			logs, err := d.Logs(ctx)
			require.NoError(t, err)
			require.Equal(t, map[string]uint64{"a": 7, "b": 1 << 40}, logs)
			setFence(t, d, store.Fence{Own: filling.Own})
		})
		for node, next := range map[string]uint64{"a": 7, "b": 1 << 40, "c": 0} {
			p.serve(t, node, func(s storetest.Store) {
				items, err := s.Get(ctx, "\x01", "a\x00", "b", "\xff")
				require.NoError(t, err)
				for i, item := range items {
					require.Equal(t, string(rows[i].Value), string(item.Value))
					require.NotZero(t, item.Version)
					_, err := s.Commit(ctx, store.Change{Require: []store.Require{{Key: item.Key, Version: item.Version}}, Entry: []byte("e")})
					require.NoError(t, err, "its version is one to rely on")
				}
				require.Equal(t, next+uint64(len(items)), commit(t, s, "k", nil))
			})
		}
	})
}

// TestVersionsNeverComeBackAfterClearing: not even those of rows of another database's life.
func TestVersionsNeverComeBackAfterClearing(t *testing.T) {
	eachEngine(t, func(t *testing.T, p place) {
		var old store.Version
		p.serve(t, "a", func(s storetest.Store) {
			for range 10 {
				commit(t, s, "k", []byte("old"))
			}
			items, err := s.Get(context.Background(), "k")
			require.NoError(t, err)
			old = items[0].Version
		})
		filling := store.Fence{Own: store.NewID(), State: store.Filling}
		p.with(t, func(d database) {
			setFence(t, d, filling)
			require.NoError(t, d.Clear(context.Background(), filling))
			require.Empty(t, content(t, d))
			logs, err := d.Logs(context.Background())
			require.NoError(t, err)
			require.Empty(t, logs)
			require.NoError(t, d.Load(context.Background(), filling, []store.Put{{Key: "k", Value: []byte("new")}}))
			setFence(t, d, store.Fence{Own: filling.Own})
		})
		p.serve(t, "a", func(s storetest.Store) {
			items, err := s.Get(context.Background(), "k")
			require.NoError(t, err)
			require.Equal(t, "new", string(items[0].Value))
			require.Greater(t, items[0].Version, old)
			require.Zero(t, commit(t, s, "k", nil), "its log was cleared too")
		})
	})
}

// TestWritesUnderAnotherFence change nothing.
func TestWritesUnderAnotherFence(t *testing.T) {
	eachEngine(t, func(t *testing.T, p place) {
		all := p.fill(t, 10)
		mine := store.Fence{Own: store.NewID(), State: store.Filling, Run: store.NewID()}
		theirs := mine
		theirs.Run = store.NewID()
		p.with(t, func(d database) {
			setFence(t, d, theirs)
			ctx := context.Background()
			require.ErrorIs(t, d.Load(ctx, mine, []store.Put{{Key: "zzz", Value: []byte("v")}}), store.ErrConflict)
			require.ErrorIs(t, d.SetLogs(ctx, mine, map[string]uint64{"zzz": 1}), store.ErrConflict)
			require.ErrorIs(t, d.Clear(ctx, mine), store.ErrConflict)
			require.ErrorIs(t, d.SetFence(ctx, mine, store.Fence{}), store.ErrConflict)
			require.Equal(t, all, content(t, d))
			logs, err := d.Logs(ctx)
			require.NoError(t, err)
			require.NotContains(t, logs, "zzz")
			require.Len(t, logs, 2)
			now, err := d.Fence(ctx)
			require.NoError(t, err)
			require.Equal(t, theirs, now)
		})
	})
}
