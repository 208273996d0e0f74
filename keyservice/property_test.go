package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// For any interleaving of right, repeated, old and wrong passwords by serial and by subject, SMS passwords,
// resynchronisations, unlocks, suspensions, clock changes, restarts, and commits whose answer is lost or that are not
// made: no password is accepted twice, the watermark never falls, and misses vanish only when they are forgiven.
func TestNoInterleavingAcceptsAPasswordTwice(t *testing.T) { interleave(t, newWorld(t)) }

// Nor is it, if each request goes to any of three nodes, whose clocks differ by a minute.
func TestNoInterleavingOfNodesAcceptsAPasswordTwice(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 0, 30*time.Second, -30*time.Second)
	interleave(t, nodes...)
	nodes[1].requireNothingFound()
}

func interleave(t *testing.T, nodes ...*world) {
	w, n := nodes[0], 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		p := w.enrol(card(n), rapid.SampledFrom([]string{"offline-60", "counter-6", "sha-256", "pin-60"}).Draw(r, "profile"))
		if p.policy.PINDigits > 0 {
			p.pin = pin
			require.NoError(t, w.setPIN(p.serial, pin))
		}
		m := &model{nodes: nodes, world: w, phone: p, card: card(n), accepted: map[uint64]bool{}, answered: map[string]bool{}}
		m.sms = w.optedIn(m.card, "second-pin").Serial
		actions := m.actions()
		for name, action := range m.faults() {
			actions[name] = action
		}
		actions[""] = m.invariants
		r.Repeat(actions)
		for _, w := range nodes {
			w.store.before, w.store.after = nil, nil
		}
	})
}

// model remembers what must never be forgotten.
type model struct {
	*world   // the node that is asked
	nodes    []*world
	phone    *phone
	card     string
	sms      string // serial of the card's SMS token
	made     []seed.Password
	accepted map[uint64]bool // moving factors
	answered map[string]bool // challenges
	next     uint64
	misses   int
	unsure   bool // the last decision may have been made
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"right":  func(r *rapid.T) { m.send(r, m.phone.password()) },
		"repeat": func(r *rapid.T) { m.send(r, m.old(r)) },
		"wrong":  func(r *rapid.T) { m.send(r, m.phone.wrong()) },
		"ask":    m.ask,
		"resync": func(r *rapid.T) {
			first := m.phone.factor()
			m.resync(m.phone.at(first), m.phone.at(first+1))
			m.phone.counter = max(m.phone.counter, m.token().state.Next)
		},
		"guess a resync": func(*rapid.T) { m.resync(m.phone.wrong(), m.phone.wrong()) },
		"suspend":        func(*rapid.T) { m.operate(m.Suspend) },
		"resume":         func(*rapid.T) { m.operate(m.Resume) },
		"unlock": func(*rapid.T) {
			if m.operate(m.Unlock) {
				m.misses = 0
			}
		},
	}
}

func (m *model) faults() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"restart":      func(*rapid.T) { m.restart() },
		"another node": func(r *rapid.T) { m.world = rapid.SampledFrom(m.nodes).Draw(r, "node") },
		"lose the next answer": func(*rapid.T) {
			s := m.store
			s.after = func(store.Change) error { s.after = nil; return store.ErrUnknown }
		},
		"fail the next commit": func(*rapid.T) {
			s := m.store
			s.before = func(store.Change) error { s.before = nil; return store.ErrFailed }
		},
		"time": func(r *rapid.T) {
			m.clock.add(time.Duration(rapid.IntRange(-90, 300).Draw(r, "seconds")) * time.Second)
		},
		"drift": func(r *rapid.T) {
			m.phone.drift = time.Duration(rapid.IntRange(-60, 60).Draw(r, "drift")) * time.Second
		},
	}
}

// send sends a password by serial or as a payment page does.
func (m *model) send(r *rapid.T, typed seed.Password) {
	m.made = append(m.made, typed)
	request := VerifyRequest{Serial: m.phone.serial, Use: "second-pin", OTP: typed}
	if len(typed.Reveal()) != m.phone.policy.Digits || rapid.Bool().Draw(r, "by subject") {
		request = bySubject(m.card, typed)
	}
	v, err := m.Verify(context.Background(), coreBanking, request)
	switch {
	case err != nil:
		m.mayFail(err)
	case v.Accepted && v.Kind == KindSMS:
		m.accept(m.smsToken().state.Answered.ID)
	case v.Accepted:
		factor := m.token().state.Next - 1
		require.Equal(m.t, m.phone.at(factor).Reveal(), typed.Reveal(), "the watermark stands at the accepted password")
		require.False(m.t, m.accepted[factor], "a password was accepted twice")
		m.accepted[factor] = true
	case v.Reason == ReasonMismatch:
		m.misses++
	}
}

func (m *model) accept(id string) {
	require.False(m.t, m.answered[id], "an SMS password was accepted twice")
	m.answered[id] = true
}

// mayFail notes that a decision was not made, or that nobody knows.
func (m *model) mayFail(err error) {
	code := CodeOf(err)
	require.Contains(m.t, []Code{CodeOutcomeUnknown, CodeStorageUnavailable}, code, "%v", err)
	m.unsure = m.unsure || code == CodeOutcomeUnknown
}

// ask adds an SMS password to those that may be sent.
func (m *model) ask(*rapid.T) {
	made, err := m.challenged(coreBanking, m.card, nil)
	if CodeOf(err) == CodeChallengesPending {
		return
	}
	if err != nil {
		m.mayFail(err)
		return
	}
	code, err := m.CollectCode(context.Background(), smsGateway, made.ID)
	if err != nil {
		m.mayFail(err)
		return
	}
	m.made = append(m.made, code.typed())
}

func (m *model) resync(first, second seed.Password) {
	v, err := m.Resync(context.Background(), mobileBank, ResyncRequest{Serial: m.phone.serial, First: first, Second: second})
	if err != nil {
		m.mayFail(err)
		return
	}
	if v.Accepted {
		last := m.token().state.Next - 1
		require.Equal(m.t, m.phone.at(last).Reveal(), second.Reveal())
		for _, factor := range []uint64{last - 1, last} {
			require.False(m.t, m.accepted[factor], "a password was accepted twice")
			m.accepted[factor] = true
		}
		m.misses = 0
	}
	m.made = append(m.made, first, second)
}

func (m *model) token() token    { return m.loaded(m.phone.serial) }
func (m *model) smsToken() token { return m.loaded(m.sms) }

func (m *model) loaded(serial string) token {
	tok, err := m.load(context.Background(), serial)
	require.NoError(m.t, err)
	return tok
}

// old is any password that was made before, right or wrong, used or not.
func (m *model) old(r *rapid.T) seed.Password {
	if len(m.made) == 0 {
		return m.phone.password()
	}
	return m.made[rapid.IntRange(0, len(m.made)-1).Draw(r, "which")]
}

func (m *model) operate(change func(context.Context, authz.Caller, string) (Status, error)) bool {
	_, err := change(context.Background(), branch, m.phone.serial)
	if err != nil && CodeOf(err) != CodeTransition {
		m.mayFail(err)
	}
	return err == nil
}

func (m *model) invariants(*rapid.T) {
	tok, total := m.token(), 0
	for _, n := range m.guesses(m.card).Days {
		total += n
	}
	if m.unsure { // what nobody knew was decided or not, and is known now
		m.unsure = false
		require.True(m.t, total == m.misses || total == m.misses+1 || total == 0, "misses were %d and are %d", m.misses, total)
		m.misses = total
		if tok.state.Next > m.next {
			m.accepted[tok.state.Next-1] = true
		}
		if a := m.smsToken().state.Answered; a != nil {
			m.answered[a.ID] = true
		}
	}
	require.GreaterOrEqual(m.t, tok.state.Next, m.next, "the watermark fell")
	m.next = tok.state.Next
	require.Equal(m.t, m.misses, total, "a miss vanished")
}
