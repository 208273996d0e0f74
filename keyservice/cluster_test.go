package keyservice

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// atOnce lets every node do the same at the same time.
func atOnce[T any](nodes []*world, do func(*world) T) []T {
	var wg sync.WaitGroup
	start, results := make(chan struct{}), make([]T, len(nodes))
	for i, w := range nodes {
		wg.Go(func() {
			<-start
			results[i] = do(w)
		})
	}
	close(start)
	wg.Wait()
	return results
}

// A password that is sent to every node at once is accepted by one; the others say that it is used.
func TestEveryNodeButOneRefusesAPassword(t *testing.T) {
	nodes := newCluster(t, 0, 0, 0)
	for i, profile := range []string{"offline-60", "counter-6", "sha-512"} {
		p := nodes[0].enrol(card(i), profile)
		for range 10 {
			typed, said := p.password(), map[string]int{}
			for _, v := range atOnce(nodes, func(w *world) Verdict { return w.try(p, typed) }) {
				said[string(v.Reason)]++
			}
			require.Equal(t, map[string]int{"": 1, string(ReasonAlreadyUsed): 2}, said)
			nodes[0].clock.add(time.Minute)
		}
	}
	nodes[1].requireNothingFound()
}

// Misses are counted whichever node they are sent to: strangers get no more guesses from three nodes than from one.
func TestGuessesCountOnEveryNode(t *testing.T) {
	nodes := newCluster(t, 0, 0, 0)
	p := nodes[0].enrol(card(1), "offline-60")
	wrong, said := p.wrong(), map[Reason]int{}
	for range 10 {
		for _, v := range atOnce(nodes, func(w *world) Verdict { return w.try(p, wrong) }) {
			said[v.Reason]++
		}
	}
	require.Equal(t, map[Reason]int{ReasonMismatch: limits.FreeMisses, ReasonThrottled: 30 - limits.FreeMisses}, said)
}

// What a node holds in memory is a hint: what another node changed holds from the next request on.
func TestAChangeHoldsOnEveryNodeAtOnce(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	p, ctx := nodes[0].enrol(card(1), "counter-6"), context.Background()
	for range 5 {
		require.True(t, nodes[1].try(p, p.password()).Accepted, "the seed is warm there now")
		_, err := nodes[0].Suspend(ctx, branch, p.serial)
		require.NoError(t, err)
		require.Equal(t, ReasonNotActive, nodes[1].try(p, p.password()).Reason)
		_, err = nodes[1].Resume(ctx, branch, p.serial)
		require.NoError(t, err)
		require.True(t, nodes[0].try(p, p.password()).Accepted)
	}
	_, err := nodes[0].Deactivate(ctx, branch, p.serial)
	require.NoError(t, err)
	require.Equal(t, ReasonNotActive, nodes[1].try(p, p.password()).Reason)
}

// A request that is repeated at another node, at once or later, gets the first answer; it names the node that decided.
func TestARepeatAtAnotherNodeGetsTheFirstAnswer(t *testing.T) {
	nodes := newCluster(t, 0, 0, 0)
	p := nodes[0].enrol(card(1), "counter-6")
	for i := range 10 {
		key, typed := card(i), p.password()
		answers := atOnce(nodes, func(w *world) Verdict {
			v, err := w.keyed(key, p, typed)
			require.NoError(t, err)
			return v
		})
		decided := 0
		for _, v := range answers {
			require.True(t, v.Accepted)
			require.Equal(t, answers[0].Audit, v.Audit)
			decided += count(!v.Repeated)
		}
		require.Equal(t, 1, decided)
		log, err := nodes[i%3].AuditEntries(context.Background(), auditor, AuditQuery{Node: answers[0].Audit.Node, From: answers[0].Audit.Index, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, audit.Accepted, log.Entries[0].Outcome)
	}
}

// Each node's log is dense and names its node in every entry; all can be read at any node.
func TestEachNodeHasALogOfItsOwn(t *testing.T) {
	nodes := newCluster(t, 0, 0)
	begun := nodes[0].head.Load()
	p, ctx := nodes[0].enrol(card(1), "counter-6"), context.Background()
	for range 3 {
		nodes[1].try(p, p.password())
	}
	logs, err := nodes[0].AuditLogs(ctx, auditor)
	require.NoError(t, err)
	require.Equal(t, []AuditLog{{"node-1", 0, begun + 5}, {"node-2", 0, 3}}, logs)
	for _, l := range logs {
		page, err := nodes[1].AuditEntries(ctx, auditor, AuditQuery{Node: l.Node, Limit: MaxAuditPage})
		require.NoError(t, err)
		require.GreaterOrEqual(t, uint64(len(page.Entries)), l.Entries)
		for i, e := range page.Entries {
			require.Equal(t, audit.Position{Node: l.Node, Index: uint64(i)}, audit.Position{Node: e.Node, Index: e.Index})
		}
	}
	for _, node := range []string{"", "node-3", "node"} {
		_, err = nodes[0].AuditEntries(ctx, auditor, AuditQuery{Node: node, Limit: 1})
		require.ErrorContains(t, err, "node-1, node-2", "whose log is meant must be said")
	}
}

// Whatever is done to the log of one node, or to a row between two nodes, is found at any other.
func TestLogsThatContradictEachOtherAreFound(t *testing.T) {
	last := func(w *world) store.Key {
		return audit.EntryKey(audit.Position{Node: w.node, Index: w.head.Load() - 1})
	}
	attacks := map[string]struct {
		attack func(nodes []*world, p *phone)
		what   []string
	}{
		"a row put back, and used at another node": {func(nodes []*world, p *phone) {
			older, typed := nodes[0].row(stateRowKey(p.serial)), p.password()
			require.True(t, nodes[0].try(p, typed).Accepted)
			nodes[0].attack([]store.Put{older})
			require.True(t, nodes[1].try(p, typed).Accepted, "nothing in the rows can tell")
		}, []string{audit.LoggedTwice}},
		"the end of a log cut off": {func(nodes []*world, p *phone) {
			require.True(t, nodes[1].try(p, p.password()).Accepted)
			nodes[0].attack(nil, last(nodes[1]))
		}, []string{audit.NotLogged}},
		"a whole log removed": {func(nodes []*world, p *phone) {
			require.True(t, nodes[1].try(p, p.password()).Accepted)
			require.True(t, nodes[1].try(p, p.password()).Accepted)
			nodes[0].attack(nil, last(nodes[1]), entryOf(nodes[1], 0))
		}, []string{audit.NotLogged}},
		"an entry moved to another log": {func(nodes []*world, p *phone) {
			require.True(t, nodes[1].try(p, p.password()).Accepted)
			row := nodes[1].row(last(nodes[1]))
			nodes[0].attack([]store.Put{{Key: audit.EntryKey(audit.Position{Node: "node-3", Index: 0}), Value: row.Value}}, row.Key)
		}, []string{entryChanged, audit.NotLogged}},
		"rows that are no entries": {func(nodes []*world, _ *phone) {
			nodes[0].attack([]store.Put{{Key: "a/", Value: []byte{1}}, {Key: "a/node-2/short", Value: []byte{1}}, {Key: "a/No!/12345678", Value: []byte{1}}})
		}, []string{entryChanged, entryChanged, entryChanged}},
	}
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			nodes := newCluster(t, 0, 0)
			a.attack(nodes, nodes[0].enrol(card(1), "counter-6"))
			for _, w := range nodes {
				found, err := w.CompareAudit(context.Background(), auditor)
				require.NoError(t, err)
				var what []string
				for _, d := range found {
					what = append(what, d.What)
				}
				what = slices.DeleteFunc(what, func(what string) bool { return what == entryMissing }) // a node knows how long its own log is
				require.ElementsMatch(t, a.what, what, "%+v", found)
			}
		})
	}
}

func entryOf(w *world, index uint64) store.Key {
	return audit.EntryKey(audit.Position{Node: w.node, Index: index})
}

// The lease is taken and lost by the database's clock: a node that is an hour ahead does not take what another holds.
func TestALeaseIsTimedByTheDatabase(t *testing.T) {
	nodes := newCluster(t, 0, time.Hour)
	ctx := context.Background()
	nodes[0].holdsLease(nodes[0].Service)
	_, err := nodes[1].lease(ctx, "job")
	require.ErrorIs(t, err, errLeaseHeld)

	nodes[0].leaseTerm = time.Millisecond
	l := nodes[0].holdsLease(nodes[0].Service)
	require.Eventually(t, func() bool {
		_, err := nodes[1].lease(ctx, "job")
		return err == nil
	}, 10*time.Second, time.Millisecond)
	work := decision{change: store.Change{Put: []store.Put{{Key: "work", Value: []byte{1}}}}, entry: audit.Entry{Outcome: audit.Done}}
	require.ErrorIs(t, nodes[0].commitUnder(ctx, l, authz.Action("work"), work), errLeaseLost)
}

// Three nodes whose clocks differ by a minute in all: every password of now is accepted at any of them, and none that is
// further off than validity, drift bound and the node's own error together. A phone's clock is right here.
func TestClockSkewChangesNoVerdictBeyondTheProfile(t *testing.T) {
	const skew = 30 * time.Second
	nodes := newCluster(t, 0, skew, -skew)
	for n, profile := range []string{"offline-60", "sha-256"} {
		p := nodes[0].enrol(card(n), profile)
		policy, random := policies()[profile], rand.New(rand.NewPCG(1, uint64(n)))
		beyond := policy.Validity + policy.DriftBound + skew
		for range 30 {
			p.w.clock.add(policy.Period + time.Duration(random.IntN(240))*time.Second)
			fresh := p.factor()
			w := nodes[random.IntN(len(nodes))]
			old := fresh - uint64(beyond/policy.Period) - 1
			require.False(t, w.try(p, p.at(old)).Accepted, "too old")
			require.False(t, w.try(p, p.at(fresh+uint64(beyond/policy.Period)+1)).Accepted, "of the future")
			v := w.try(p, p.at(fresh))
			require.True(t, v.Accepted, "%s at %s, %v into its step", v.Reason, w.node, p.w.clock.Now().Sub(time.Unix(int64(fresh)*int64(policy.Period/time.Second), 0)))
			for _, v := range atOnce(nodes, func(w *world) Verdict { return w.try(p, p.at(fresh)) }) {
				require.Equal(t, ReasonAlreadyUsed, v.Reason)
			}
		}
	}
}
