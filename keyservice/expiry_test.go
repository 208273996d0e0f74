package keyservice

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// fill puts n idempotency rows into the bucket of a day.
func (w *world) fill(day uint32, n int) {
	puts := make([]store.Put, n)
	for i := range n {
		row, err := w.mac(bucketOf(day)+store.Key(fmt.Sprintf("%032d", i)), outcome{Schema: schema})
		require.NoError(w.t, err)
		puts[i] = row
	}
	for chunk := range slices.Chunk(puts, 1000) {
		w.attack(chunk)
	}
}

func (w *world) inBucket(day uint32) int {
	n := 0
	for _, key := range w.idempotencyKeys() {
		n += count(key >= bucketOf(day) && key < bucketOf(day+1))
	}
	return n
}

// Rows before the day before yesterday go, in commits that are small and logged; everything else stays.
func TestExpiryDeletesWhatIsOldAndNothingElse(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	first, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	today := dayOf(w.clock.Now())
	w.fill(today-400, 3)
	w.fill(today-3, 2*expiryChunk+1)
	for _, kept := range []uint32{today - 2, today - 1, today + 1} {
		w.fill(kept, 2)
	}
	w.unchangedBut(func() {
		largest, commits := 0, 0
		w.store.before = func(c store.Change) error {
			largest, commits = max(largest, len(c.Delete)), commits+count(len(c.Delete) > 0)
			return nil
		}
		deleted, err := w.Expire(context.Background())
		require.NoError(t, err)
		require.Equal(t, 2*expiryChunk+4, deleted)
		require.Equal(t, expiryChunk, largest)
		require.Equal(t, 3, commits)
		w.store.before = nil
	}, "i/", "w/")
	for day, n := range map[uint32]int{today - 400: 0, today - 3: 0, today - 2: 2, today - 1: 2, today: 1, today + 1: 2} {
		require.Equal(t, n, w.inBucket(day), "bucket %d", int(day)-int(today))
	}
	log := w.entries()
	for _, e := range log[len(log)-4 : len(log)-1] {
		require.Equal(t, []string{"ramzban", "idempotency.expire", "done"}, []string{e.Actor, e.Action, string(e.Outcome)})
	}
	v, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.Equal(t, again(first), v)
	deleted, err := w.Expire(context.Background())
	require.NoError(t, err)
	require.Zero(t, deleted)
	require.Equal(t, string("idempotency.expire"), log[len(log)-2].Action, "nothing to do makes no entry")
}

// unchangedBut says that fn changes no rows but those with the prefixes, and the log.
func (w *world) unchangedBut(fn func(), prefixes ...string) {
	before := w.stored()
	fn()
	after := w.stored()
	for _, rows := range []map[store.Key]string{before, after} {
		for key := range rows {
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(string(key), p) }) {
				delete(rows, key)
			}
		}
	}
	require.Equal(w.t, before, after)
}

// Expiry that was stopped or failed goes on where it was.
func TestExpiryGoesOnAfterAFailure(t *testing.T) {
	w := newWorld(t)
	old := dayOf(w.clock.Now()) - 3
	w.fill(old, 3*expiryChunk)
	n := 0
	w.store.before = func(c store.Change) error {
		if n += count(len(c.Delete) > 0); n == 2 && len(c.Delete) > 0 {
			return store.ErrFailed
		}
		return nil
	}
	deleted, err := w.Expire(context.Background())
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
	require.Equal(t, expiryChunk, deleted)
	w.store.before = nil
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = w.Expire(stopped)
	require.Error(t, err)
	require.Equal(t, 2*expiryChunk, w.inBucket(old))
	w.reopen()
	deleted, err = w.Expire(context.Background())
	require.NoError(t, err)
	require.Equal(t, 2*expiryChunk, deleted)
	require.Zero(t, w.inBucket(old))
}

func TestBucketsFollowEachOther(t *testing.T) {
	for _, now := range []time.Time{time.Unix(0, 0), time.Unix(86400, 0), time.Date(2026, 3, 21, 0, 0, 0, 0, time.UTC), time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)} {
		buckets := bucketsOf(now)
		require.Equal(t, bucketOf(dayOf(now)), buckets[todays])
		slices.Reverse(buckets)
		require.True(t, slices.IsSorted(buckets))
		require.Len(t, slices.Compact(buckets), min(4, int(dayOf(now))+2))
		require.Equal(t, bucketOf(oldestDay(now)), buckets[0])
		require.Equal(t, bucketOf(dayOf(now)+1), buckets[len(buckets)-1])
	}
}

// For any interleaving of requests under a few keys, restarts, clocks that are set (so that no two readings are more than
// a day off each other), lost answers and expiry: a request is decided at most once within 24 hours, and every later
// answer is the first one.
func TestNoInterleavingDecidesARequestTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		p := w.enrol(card(n), "counter-6")
		typed := map[string]seed.Password{}
		for _, key := range []string{"a", "b", "c"} {
			typed[key] = p.password()
		}
		m := &retries{world: w, phone: p, name: fmt.Sprint(n), typed: typed, decided: map[string]time.Duration{}, first: map[string]Verdict{}}
		r.Repeat(map[string]func(*rapid.T){
			"request": m.request,
			"lost":    m.lost,
			"restart": func(*rapid.T) { w.restart() },
			"expire":  func(*rapid.T) { m.expireOld() },
			"time passes": func(r *rapid.T) {
				m.pass(time.Duration(rapid.IntRange(0, 12*60).Draw(r, "minutes")) * time.Minute)
			},
			"clock is set": func(r *rapid.T) { m.set(time.Duration(rapid.IntRange(-12*60, 12*60).Draw(r, "minutes")) * time.Minute) },
			"":             func(*rapid.T) {},
		})
		m.set(0)
	})
}

// retries remembers what was decided, and when by a clock that nobody sets.
type retries struct {
	*world
	phone   *phone
	name    string
	typed   map[string]seed.Password
	true    time.Duration            // time that has passed
	wrong   time.Duration            // how far the service's clock is off
	decided map[string]time.Duration // when, by key
	first   map[string]Verdict
}

func (m *retries) pass(d time.Duration) {
	m.true += d
	m.clock.add(d)
}

func (m *retries) set(wrong time.Duration) {
	m.clock.add(wrong - m.wrong)
	m.wrong = wrong
}

func (m *retries) expireOld() {
	_, err := m.Expire(context.Background())
	require.NoError(m.t, err)
}

func (m *retries) request(r *rapid.T) {
	key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "key")
	v, err := m.keyed(m.name+key, m.phone, m.typed[key])
	require.NoError(m.t, err)
	m.check(key, v)
}

// held says that the password was not looked at, so that nothing was decided that a retry could repeat.
func held(v Verdict) bool { return v.Reason == ReasonThrottled || v.Reason == ReasonLocked }

// check holds an answer against what must have been decided before.
func (m *retries) check(key string, v Verdict) {
	if when, was := m.decided[key]; was && m.true-when <= 24*time.Hour {
		require.True(m.t, v.Repeated, "decided again %v after its decision", m.true-when)
	}
	if v.Repeated {
		first := m.first[key]
		require.Equal(m.t, again(first), v)
		return
	}
	if !held(v) {
		m.decided[key], m.first[key] = m.true, v
	}
}

// lost is a request whose answer does not arrive, and its retry.
func (m *retries) lost(r *rapid.T) {
	key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "key")
	m.store.after = func(store.Change) error { return store.ErrUnknown }
	_, err := m.keyed(m.name+key, m.phone, m.typed[key])
	m.store.after = nil
	require.Equal(m.t, CodeOutcomeUnknown, CodeOf(err))
	v, err := m.keyed(m.name+key, m.phone, m.typed[key])
	require.NoError(m.t, err)
	require.True(m.t, v.Repeated || held(v), "the decision was written, only its answer was lost")
	if v.Audit.Index != m.first[key].Audit.Index {
		v.Repeated = false // the lost one decided it
	}
	m.check(key, v)
}
