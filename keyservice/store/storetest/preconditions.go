package storetest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store"
)

func testPreconditions(t *testing.T, h Harness) {
	s := h.open(t, nil)
	commit(t, s, put("here", "1"))
	here := get(t, s, "here").Version
	require.NotZero(t, here)
	cases := []struct {
		name     string
		required store.Require
		holds    bool
	}{
		{"absent as required", store.Require{Key: "absent", Version: 0}, true},
		{"present although required absent", store.Require{Key: "here", Version: 0}, false},
		{"the version required", store.Require{Key: "here", Version: here}, true},
		{"an older version required", store.Require{Key: "here", Version: here - 1}, false},
		{"a newer version required", store.Require{Key: "here", Version: here + 1000}, false},
		{"absent although required present", store.Require{Key: "absent", Version: 1}, false},
	}
	for _, c := range cases {
		_, err := s.Commit(context.Background(), put("other", c.name, c.required))
		if c.holds {
			require.NoError(t, err, c.name)
			require.Equal(t, c.name, string(get(t, s, "other").Value))
			continue
		}
		require.ErrorIs(t, err, store.ErrConflict, c.name)
		require.NotEqual(t, c.name, string(get(t, s, "other").Value))
	}
}

func testConflictWritesNothing(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	commit(t, s, put("a", "1"))
	commit(t, s, put("b", "1"))
	a, b := get(t, s, "a"), get(t, s, "b")
	_, err := s.Commit(context.Background(), store.Change{
		Require: []store.Require{{Key: "a", Version: a.Version}, {Key: "b", Version: b.Version + 1}},
		Put:     []store.Put{{Key: "a", Value: []byte("2")}, {Key: "c", Value: []byte("2")}},
		Delete:  []store.Key{"b"},
		Entry:   []byte("never"),
	})
	require.ErrorIs(t, err, store.ErrConflict)
	require.Equal(t, a, get(t, s, "a"))
	require.Equal(t, b, get(t, s, "b"))
	require.Zero(t, get(t, s, "c").Version)
	requireDense(t, s, 2)
	require.EqualValues(t, 2, commit(t, s, put("a", "2", store.Require{Key: "a", Version: a.Version})))
}

func testReadOnlyPrecondition(t *testing.T, h Harness) {
	s := h.open(t, nil)
	commit(t, s, put("wrapping key", "writable"))
	seen := store.Require{Key: "wrapping key", Version: get(t, s, "wrapping key").Version}
	commit(t, s, put("seed/1", "wrapped", seen))
	require.Equal(t, seen.Version, get(t, s, "wrapping key").Version, "reading does not change a version")
	commit(t, s, put("wrapping key", "retired"))
	_, err := s.Commit(context.Background(), put("seed/2", "wrapped", seen))
	require.ErrorIs(t, err, store.ErrConflict)
	require.Zero(t, get(t, s, "seed/2").Version)
}

func testVersionsNeverComeBack(t *testing.T, h Harness) {
	s := h.open(t, nil)
	seen := map[store.Version]bool{}
	var last store.Version
	for round := range 12 {
		commit(t, s, put("k", "v"))
		v := get(t, s, "k").Version
		require.False(t, seen[v], "version %d came back", v)
		require.Greater(t, v, last)
		seen[v], last = true, v
		if round%2 == 0 {
			commit(t, s, remove("k", store.Require{Key: "k", Version: v}))
			require.Equal(t, store.Item{Key: "k"}, get(t, s, "k"))
		}
		if round%4 == 1 {
			s = h.reopen(t, s, nil)
			require.Equal(t, v, get(t, s, "k").Version, "a version survives reopening")
		}
	}
	for v := range seen {
		if v == last {
			continue
		}
		_, err := s.Commit(context.Background(), put("k", "old", store.Require{Key: "k", Version: v}))
		require.ErrorIs(t, err, store.ErrConflict, "version %d of a row long gone", v)
	}
}

func testOneCreatorWins(t *testing.T, h Harness) {
	s := h.open(t, nil)
	const creators = 64
	var wins, losses int
	var mu sync.Mutex
	var group sync.WaitGroup
	for range creators {
		group.Go(func() {
			_, err := s.Commit(context.Background(), put("card", "token", store.Require{Key: "card"}))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case errors.Is(err, store.ErrConflict):
				losses++
			default:
				t.Errorf("commit: %v", err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, wins)
	require.Equal(t, creators-1, losses)
}

func testEntryMandatory(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	for _, entry := range [][]byte{nil, {}} {
		c := put("k", "v")
		c.Entry = entry
		_, err := s.Commit(context.Background(), c)
		require.ErrorIs(t, err, store.ErrFailed)
	}
	require.Zero(t, get(t, s, "k").Version)
	require.Zero(t, commit(t, s, store.Change{Entry: []byte("an entry alone is a change")}))
	requireDense(t, s, 1)
}

func testLimits(t *testing.T, h Harness) {
	s := h.open(t, nil)
	longest, largest := store.Key(strings.Repeat("k", store.MaxKey)), strings.Repeat("v", store.MaxValue)
	commit(t, s, put(longest, largest))
	require.Equal(t, largest, string(get(t, s, longest).Value))
	refused := map[string]store.Change{
		"a key too long":           put(longest+"k", "v"),
		"a value too large":        put("k", largest+"v"),
		"an entry too large":       {Entry: []byte(largest + "v")},
		"an empty key":             put("", "v"),
		"a key of the engine":      put("\x00k", "v"),
		"an engine's key deleted":  remove("\x00k"),
		"an engine's key required": put("k", "v", store.Require{Key: "\x00k"}),
		"a row written twice":      {Put: []store.Put{{Key: "k"}, {Key: "k"}}, Entry: []byte("e")},
		"written and deleted":      {Put: []store.Put{{Key: "k"}}, Delete: []store.Key{"k"}, Entry: []byte("e")},
	}
	for name, c := range refused {
		_, err := s.Commit(context.Background(), c)
		require.ErrorIs(t, err, store.ErrFailed, name)
		require.NotErrorIs(t, err, store.ErrConflict, name)
	}
	require.Len(t, scan(t, s, "", ""), 1)
}
