package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/store"
)

// model is what the store should be.
type model struct {
	rows    map[store.Key]string
	ever    map[store.Key][]store.Version // versions a row has had, the newest last
	entries *int                          // of all rounds, also those that failed
}

// testModel makes random changes to the store and to a model of it; they must agree on what holds and what is there.
// All rounds of rapid share one database; each has keys of its own.
func testModel(t *testing.T, h Harness) {
	s := h.open(t, logEntries)
	round, entries := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		m := &model{rows: map[store.Key]string{}, ever: map[store.Key][]store.Version{}, entries: &entries}
		prefix := store.Key(fmt.Sprintf("round %d/", round))
		rt.Repeat(map[string]func(*rapid.T){
			"change": func(rt *rapid.T) { m.change(rt, s, prefix) },
			"scan":   func(rt *rapid.T) { m.scan(rt, s, prefix) },
			"reopen": func(rt *rapid.T) {
				if rapid.IntRange(0, Scaled(400, 40)).Draw(rt, "rarely") == 0 {
					s = h.reopen(t, s, logEntries)
				}
			},
			"": func(rt *rapid.T) { m.check(rt, s, prefix) },
		})
	})
	requireDense(t, s, entries)
}

// suffixes keep the rows of a round few, so that changes meet.
var suffixes = rapid.SampledFrom([]store.Key{"", "\x00", "a", "a\x00", "aa", "b", "\xff"})

func (m *model) change(rt *rapid.T, s store.Store, prefix store.Key) {
	c := store.Change{Entry: fmt.Appendf(nil, "entry %d", *m.entries)}
	for _, suffix := range rapid.SliceOfNDistinct(suffixes, 0, 3, rapid.ID).Draw(rt, "required") {
		c.Require = append(c.Require, store.Require{Key: prefix + suffix, Version: m.version(rt, prefix+suffix)})
	}
	for _, suffix := range rapid.SliceOfNDistinct(suffixes, 0, 4, rapid.ID).Draw(rt, "written") {
		if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
			c.Delete = append(c.Delete, prefix+suffix)
			continue
		}
		c.Put = append(c.Put, store.Put{Key: prefix + suffix, Value: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(rt, "value")})
	}
	index, err := s.Commit(context.Background(), c)
	if !m.holds(c.Require) {
		if err == nil {
			*m.entries++
		}
		require.ErrorIs(rt, err, store.ErrConflict)
		return
	}
	require.NoError(rt, err)
	*m.entries++
	require.EqualValues(rt, *m.entries-1, index)
	m.apply(rt, s, c)
}

// version draws one that the row has, has had, or never had.
func (m *model) version(rt *rapid.T, key store.Key) store.Version {
	versions := append([]store.Version{0, m.current(key), m.current(key), m.current(key) + 1}, m.ever[key]...)
	return rapid.SampledFrom(versions).Draw(rt, "version")
}

func (m *model) current(key store.Key) store.Version {
	if _, there := m.rows[key]; !there {
		return 0
	}
	return m.ever[key][len(m.ever[key])-1]
}

func (m *model) holds(required []store.Require) bool {
	return !slices.ContainsFunc(required, func(r store.Require) bool { return m.current(r.Key) != r.Version })
}

func (m *model) apply(rt *rapid.T, s store.Store, c store.Change) {
	for _, key := range c.Delete {
		delete(m.rows, key)
	}
	for _, p := range c.Put {
		m.rows[p.Key] = string(p.Value)
		items, err := s.Get(context.Background(), p.Key)
		require.NoError(rt, err)
		if had := m.ever[p.Key]; len(had) > 0 {
			require.Greater(rt, items[0].Version, had[len(had)-1])
		}
		m.ever[p.Key] = append(m.ever[p.Key], items[0].Version)
	}
}

// check compares every row the model ever had, in one Get.
func (m *model) check(rt *rapid.T, s store.Store, prefix store.Key) {
	keys := []store.Key{prefix}
	for key := range m.ever {
		keys = append(keys, key)
	}
	items, err := s.Get(context.Background(), keys...)
	require.NoError(rt, err)
	for i, item := range items {
		require.Equal(rt, keys[i], item.Key)
		require.Equal(rt, m.rows[item.Key], string(item.Value))
		require.Equal(rt, m.current(item.Key), item.Version)
	}
}

func (m *model) scan(rt *rapid.T, s store.Store, round store.Key) {
	prefix, from := round+suffixes.Draw(rt, "prefix"), round+suffixes.Draw(rt, "from")
	var want []store.Item
	for key, value := range m.rows {
		if strings.HasPrefix(string(key), string(prefix)) && key >= from {
			want = append(want, store.Item{Key: key, Value: []byte(value), Version: m.current(key)})
		}
	}
	slices.SortFunc(want, func(a, b store.Item) int { return strings.Compare(string(a.Key), string(b.Key)) })
	snap, err := s.Snapshot(context.Background())
	require.NoError(rt, err)
	defer snap.Close()
	var got []store.Item
	require.NoError(rt, snap.Scan(context.Background(), prefix, from, func(i store.Item) error {
		got = append(got, i)
		return nil
	}))
	require.Equal(rt, want, got)
}
