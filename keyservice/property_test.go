package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// For any interleaving of right, repeated, old and wrong passwords, clock changes, suspensions and restarts: no password
// is accepted twice, the watermark never falls, and misses never vanish.
func TestNoInterleavingAcceptsAPasswordTwice(t *testing.T) {
	w := newWorld(t)
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		p := w.enrol(card(n), rapid.SampledFrom([]string{"offline-60", "counter-6", "sha-256"}).Draw(r, "profile"))
		m := &model{world: w, phone: p, accepted: map[uint64]bool{}}
		r.Repeat(map[string]func(*rapid.T){
			"right":   func(*rapid.T) { m.send(p.password()) },
			"repeat":  func(r *rapid.T) { m.send(m.old(r)) },
			"wrong":   func(*rapid.T) { m.send(p.wrong()) },
			"suspend": func(*rapid.T) { m.operate(w.Suspend) },
			"resume":  func(*rapid.T) { m.operate(w.Resume) },
			"restart": func(*rapid.T) { w.restart() },
			"time": func(r *rapid.T) {
				w.clock.add(time.Duration(rapid.IntRange(-90, 300).Draw(r, "seconds")) * time.Second)
			},
			"drift": func(r *rapid.T) { p.drift = time.Duration(rapid.IntRange(-60, 60).Draw(r, "drift")) * time.Second },
			"":      m.invariants,
		})
	})
}

// model remembers what must never be forgotten.
type model struct {
	*world
	phone    *phone
	made     []seed.Password
	accepted map[uint64]bool // moving factors
	next     uint64
	misses   int
}

func (m *model) send(typed seed.Password) {
	m.made = append(m.made, typed)
	v := m.try(m.phone, typed)
	if v.Accepted {
		factor := m.token().state.Next - 1
		require.Equal(m.t, m.phone.at(factor).Reveal(), typed.Reveal(), "the watermark stands at the accepted password")
		require.False(m.t, m.accepted[factor], "a password was accepted twice")
		m.accepted[factor] = true
	}
	if v.Reason == ReasonMismatch {
		m.misses++
	}
}

func (m *model) token() token {
	tok, err := m.load(context.Background(), m.phone.serial)
	require.NoError(m.t, err)
	return tok
}

// old is any password that was sent before, right or wrong.
func (m *model) old(r *rapid.T) seed.Password {
	if len(m.made) == 0 {
		return m.phone.password()
	}
	return m.made[rapid.IntRange(0, len(m.made)-1).Draw(r, "which")]
}

func (m *model) operate(change func(context.Context, authz.Caller, string) (Status, error)) {
	_, err := change(context.Background(), branch, m.phone.serial)
	require.True(m.t, err == nil || CodeOf(err) == CodeTransition, "%v", err)
}

func (m *model) invariants(*rapid.T) {
	tok := m.token()
	require.GreaterOrEqual(m.t, tok.state.Next, m.next, "the watermark fell")
	m.next = tok.state.Next
	b, _, err := m.loadBudget(context.Background(), tok.Subject.Sum, "second-pin", true)
	require.NoError(m.t, err)
	total := 0
	for _, n := range b.Days {
		total += n
	}
	require.Equal(m.t, m.misses, total, "a miss vanished")
}
