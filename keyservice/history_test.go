package keyservice

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// operation is one request about one token, as a client sends it.
type operation struct {
	kind   string // "serial", "subject", "resync", "suspend", "resume"
	factor uint64 // of the password, or of the first of two
}

// sequential is what one token is, if its requests come one after the other while the clock stands still.
type sequential struct {
	next      uint64
	run       int // misses since the last success
	pairs     int // misses of resynchronising
	suspended bool
}

// step is the specification: what the token answers, and what it is then.
func (q sequential) step(op operation, policy uint64, resync uint64) (string, sequential) {
	switch op.kind {
	case "suspend", "resume":
		if q.suspended == (op.kind == "suspend") {
			return string(CodeTransition), q
		}
		q.suspended = !q.suspended
		return "done", q
	case "resync":
		return q.resync(op.factor, resync)
	}
	return q.verify(op, policy)
}

func (q sequential) verify(op operation, window uint64) (string, sequential) {
	throttled := q.run >= limits.FreeMisses
	switch {
	case q.suspended && op.kind == "serial":
		return string(ReasonNotActive), q
	case throttled:
		return string(ReasonThrottled), q
	case !q.suspended && op.factor >= q.next && op.factor <= q.next+window:
		q.next, q.run = op.factor+1, 0
		return "accepted", q
	case !q.suspended && op.factor+1 == q.next:
		return string(ReasonAlreadyUsed), q
	}
	q.run++
	return string(ReasonMismatch), q
}

func (q sequential) resync(factor, window uint64) (string, sequential) {
	switch {
	case q.suspended:
		return string(ReasonNotActive), q
	case q.pairs >= limits.FreeMisses:
		return string(ReasonThrottled), q
	case factor >= q.next && factor <= q.next+window:
		return "accepted", sequential{next: factor + 2}
	}
	q.pairs++
	return string(ReasonMismatch), q
}

func specification(window, resync uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return sequential{} },
		Step: func(state, in, out any) (bool, any) {
			want, after := state.(sequential).step(in.(operation), window, resync)
			return want == out.(string), after
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %v", in, out) },
	}
}

// Whatever ten clients send about one token at once, by serial and by subject, verifying, resynchronising, suspending
// and resuming: their answers are those of some order one after the other.
func TestConcurrentHistoriesAreLinearisable(t *testing.T) {
	w := newWorld(t)
	policy := policies()["counter-8"]
	model := specification(policy.LookAhead, policy.ResyncAhead)
	for round := range 12 {
		p := w.enrol(card(round), "counter-8")
		history := sent(p, card(round), uint64(round), w)
		require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(model, history, time.Minute), "round %d: %+v", round, history)
	}
}

// Nor does it matter to which of three nodes they send it.
func TestConcurrentHistoriesOfNodesAreLinearisable(t *testing.T) {
	nodes := newCluster(t, 0, 0, 0)
	policy := policies()["counter-8"]
	model := specification(policy.LookAhead, policy.ResyncAhead)
	for round := range 12 {
		p := nodes[0].enrol(card(round), "counter-8")
		history := sent(p, card(round), uint64(round), nodes...)
		require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(model, history, time.Minute), "round %d: %+v", round, history)
	}
	nodes[2].requireNothingFound()
}

// sent lets ten clients send eight requests each, to any node, and notes when each began and ended.
func sent(p *phone, subject string, round uint64, nodes ...*world) []porcupine.Operation {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var history []porcupine.Operation
	began := time.Now()
	for client := range 10 {
		random := rand.New(rand.NewPCG(round, uint64(client)))
		wg.Go(func() {
			for range 8 {
				op := randomOperation(random)
				call := time.Since(began).Nanoseconds()
				out := nodes[random.IntN(len(nodes))].carryOut(p, subject, op)
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: op, Call: call, Output: out, Return: time.Since(began).Nanoseconds()})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return history
}

// randomOperation mostly sends passwords that many clients send at once.
func randomOperation(random *rand.Rand) operation {
	kinds := []string{"serial", "serial", "serial", "subject", "subject", "subject", "resync", "suspend", "resume", "resume"}
	return operation{kind: kinds[random.IntN(len(kinds))], factor: uint64(random.IntN(12))}
}

func (w *world) carryOut(p *phone, subject string, op operation) string {
	ctx, serial := context.Background(), VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.at(op.factor)}
	switch op.kind {
	case "serial":
		return said(w.Verify(ctx, coreBanking, serial))
	case "subject":
		return said(w.Verify(ctx, coreBanking, bySubject(subject, p.at(op.factor))))
	case "resync":
		v, err := w.Resync(ctx, mobileBank, ResyncRequest{Serial: p.serial, First: p.at(op.factor), Second: p.at(op.factor + 1)})
		return said(Verdict{Accepted: v.Accepted, Reason: v.Reason}, err)
	}
	change := w.Suspend
	if op.kind == "resume" {
		change = w.Resume
	}
	if _, err := change(ctx, branch, p.serial); err != nil {
		return string(CodeOf(err))
	}
	return "done"
}

func said(v Verdict, err error) string {
	switch {
	case err != nil:
		return string(CodeOf(err))
	case v.Accepted:
		return "accepted"
	}
	return string(v.Reason)
}
