package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
)

// eachEngine runs a test on one node with its embedded database, and on two that share one.
func eachEngine(t *testing.T, run func(t *testing.T, nodes []*world)) {
	t.Run("badger", func(t *testing.T) { run(t, []*world{newWorld(t)}) })
	t.Run("postgres", func(t *testing.T) { run(t, newCluster(t, 0, 0)) })
}

func TestTwoOfficersChangeTheOfficers(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, other, ctx := nodes[0], nodes[len(nodes)-1], context.Background()
		require.Equal(t, []string{"alice", "bob", "carol"}, w.officers())
		made := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob", "zoe"))
		require.Equal(t, approval.ID(made.Signed.Document), made.ID)
		list, err := other.Proposals(ctx, bob)
		require.NoError(t, err)
		require.Equal(t, Control{Caller: "bob", Installation: w.installation(), Officers: []string{"alice", "bob", "carol"}, Proposals: []ProposalView{made}}, list)

		ended, err := w.CarryOut(ctx)
		require.NoError(t, err)
		require.Zero(t, ended, "nobody approved it yet")
		approved := other.approve(bob, made)
		require.Equal(t, "bob", approved.Approver)
		require.Equal(t, []string{"alice", "bob", "carol"}, w.officers())
		select {
		case <-other.Approved():
		default:
			require.Fail(t, "the node was not told that there is something to carry out")
		}
		ended, err = other.CarryOut(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, ended)
		require.Equal(t, []string{"alice", "bob", "zoe"}, w.officers())
		done := w.proposalOf(zoe, made.ID)
		require.Equal(t, ProposalDone, done.State)
		require.Equal(t, "alice, bob, zoe", done.Result)
		for _, w := range nodes {
			ended, err = w.CarryOut(ctx)
			require.NoError(t, err)
			require.Zero(t, ended, "once")
		}
		nodes[0].restart()
		require.Equal(t, []string{"alice", "bob", "zoe"}, w.officers(), "the configuration names the first ones only")
	})
}

// The log tells the whole story, and what it keeps verifies without the service.
func TestTheLogHoldsWhatVerifiesOffline(t *testing.T) {
	w := newWorld(t)
	done := w.agreed(ActionOfficers, w.newOfficers("alice", "bob"))
	var story []string
	var papers []approval.Signed
	for _, e := range w.entries() {
		if e.Action == "officers.begin" {
			require.Equal(t, "alice, bob, carol", e.Detail)
		}
		if e.Proposal != done.ID {
			continue
		}
		story = append(story, e.Actor+" "+e.Action+" "+string(e.Outcome))
		if e.Document != nil {
			papers = append(papers, approval.Signed{Document: e.Document, Signature: e.Signature, Certificate: e.Certificate})
		}
	}
	require.Equal(t, []string{
		"alice proposal.make done", "bob proposal.approve done", "ramzban officers.change begun", "ramzban officers.change done", "alice proposal.read done",
	}, story)
	require.Len(t, papers, 2)
	rules := approval.Rules{Installation: w.installation(), Officers: []string{"alice", "bob", "carol"}, At: w.now()}
	p, a, err := w.verifier().Approved(papers[0], papers[1], rules)
	require.NoError(t, err)
	require.Equal(t, "alice", p.Proposer)
	require.Equal(t, "bob", a.Approver)
	require.Equal(t, audit.Outcome("begun"), audit.Begun)
}
