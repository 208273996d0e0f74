package keyservice

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// Approved at every node at once, by two officers, it is approved once and carried out once.
func TestConcurrentApprovalsAreOne(t *testing.T) {
	nodes := newCluster(t, 0, 0, 0)
	ctx := context.Background()
	for i := range 5 {
		names := [][]string{{"alice", "bob", "carol", "zoe"}, {"alice", "bob", "carol"}}[i%2]
		p := nodes[0].propose(alice, ActionOfficers, nodes[0].newOfficers(names...))
		approvals := map[string]approval.Signed{"bob": nodes[0].signedApproval(bob, p.Signed.Document), "carol": nodes[0].signedApproval(carol, p.Signed.Document)}
		outcome := map[Code]int{}
		for _, err := range atOnce(nodes, func(w *world) error {
			by := map[string]authz.Caller{"node-1": bob, "node-2": carol, "node-3": bob}[w.node]
			_, err := w.Approve(ctx, by, p.ID, approvals[by.Name])
			return err
		}) {
			if err == nil {
				outcome[""]++
				continue
			}
			outcome[CodeOf(err)]++
		}
		require.Equal(t, map[Code]int{"": 1, CodeProposalClosed: 2}, outcome)
		atOnce(nodes, func(w *world) int {
			ended, err := w.CarryOut(ctx)
			require.NoError(t, err)
			return ended
		})
		require.Eventually(t, func() bool {
			nodes[i%3].clock.add(leaseTerm)
			_, err := nodes[i%3].CarryOut(ctx)
			require.NoError(t, err)
			return nodes[0].proposalOf(alice, p.ID).State == ProposalDone
		}, time.Minute, 100*time.Millisecond)
		require.Equal(t, names, nodes[1].officers())
		done := 0
		for _, w := range nodes {
			page, err := w.AuditEntries(ctx, auditor, AuditQuery{Node: w.node, Limit: MaxAuditPage})
			require.NoError(t, err)
			for _, e := range page.Entries {
				done += count(e.Proposal == p.ID && e.Action == ActionOfficers && e.Outcome == audit.Done)
			}
		}
		require.Equal(t, 1, done)
	}
}

// A node that dies at any moment of carrying something out, and one whose store fails there, leaves it to be ended, once.
func TestWhatWasBegunIsEnded(t *testing.T) {
	for crash := range 5 {
		w, ctx, runs, commits := newWorld(t), context.Background(), 0, 0
		action := executor{
			check: func(context.Context, approval.Proposal) (*Error, error) { return nil, nil },
			run: func(ctx context.Context, x *execution) (decision, *Error, error) {
				runs++
				err := x.commit(ctx, func() (decision, error) {
					row, err := w.mac("x/step", pointer{Schema: schema, Serial: "step"})
					return decision{change: store.Change{Put: []store.Put{row}}, entry: audit.Entry{Detail: "a step"}}, err
				})
				if err != nil {
					return decision{}, nil, err
				}
				items, err := w.Store.Get(ctx, "x/last")
				require.NoError(t, err)
				row, err := w.mac("x/last", pointer{Schema: schema, Serial: "last"})
				return decision{change: store.Change{Require: requireItems(items), Put: []store.Put{row}}, entry: audit.Entry{Detail: "all of it"}}, nil, err
			},
		}
		w.actions["test.count"] = action
		p := w.approve(bob, w.propose(alice, "test.count", map[string]any{}))
		w.store.before = func(c store.Change) error {
			if commits++; commits > crash {
				return store.ErrFailed // and everything after it: the process is gone
			}
			return nil
		}
		_, err := w.CarryOut(ctx)
		require.Equal(t, crash < 4, err != nil, "lease, intent, step, end: %v", err)
		w.store.before = nil
		w.restart()
		w.actions["test.count"] = action
		ended, err := w.CarryOut(ctx)
		require.NoError(t, err)
		require.Equal(t, count(crash < 4), ended)
		done := w.proposalOf(alice, p.ID)
		require.Equal(t, ProposalDone, done.State)
		require.Equal(t, "all of it", done.Result)
		outcomes := map[audit.Outcome]int{}
		for _, e := range w.entries() {
			if e.Action == "test.count" && e.Detail != "a step" {
				outcomes[e.Outcome]++
			}
		}
		require.Equal(t, map[audit.Outcome]int{audit.Begun: 1, audit.Done: 1}, outcomes)
		require.LessOrEqual(t, runs, 2)
	}
}

// An action that cannot be done now is tried again; one that must not be done ends, and says why.
func TestOutagesAreTriedAgainAndRefusalsEnd(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	var outage error
	var refusal *Error
	w.actions["test.try"] = executor{
		check: func(context.Context, approval.Proposal) (*Error, error) { return nil, nil },
		run:   func(context.Context, *execution) (decision, *Error, error) { return decision{}, refusal, outage },
	}
	p := w.approve(bob, w.propose(alice, "test.try", map[string]any{}))
	outage = errors.New("the HSM is away")
	for range 3 {
		_, err := w.CarryOut(ctx)
		require.Error(t, err)
		require.Equal(t, ProposalRunning, w.proposalOf(alice, p.ID).State)
	}
	outage, refusal = nil, &Error{Code: CodeTransition, Detail: "3 records depend on it"}
	ended, err := w.CarryOut(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	v := w.proposalOf(alice, p.ID)
	require.Equal(t, []any{ProposalFailed, "3 records depend on it"}, []any{v.State, v.Result})
	log := w.entries()
	i := slices.IndexFunc(log, func(e LoggedEntry) bool { return e.Outcome == audit.Failed })
	require.Equal(t, []string{"test.try", string(CodeTransition), p.ID}, []string{log[i].Action, log[i].Reason, log[i].Proposal})
}

// Approved is not begun after it has expired, however it came to wait.
func TestAnApprovalExpiresToo(t *testing.T) {
	w := newWorld(t)
	p := w.approve(bob, w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob")))
	w.clock.add(approval.DefaultLife)
	_, err := w.CarryOut(context.Background())
	require.NoError(t, err)
	require.Equal(t, ProposalFailed, w.proposalOf(alice, p.ID).State)
	require.Equal(t, []string{"alice", "bob", "carol"}, w.officers())
	waiting := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
	w.clock.add(approval.DefaultLife)
	require.Equal(t, ProposalExpired, w.proposalOf(bob, waiting.ID).State)
}

func TestOneOfficerCannotFillTheDatabase(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	for range maxProposalsADay {
		w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
	}
	_, err := w.Propose(ctx, alice, w.signedProposal(alice, ActionOfficers, w.newOfficers("alice", "bob")))
	require.Equal(t, CodeProposalsPending, CodeOf(err))
	w.clock.add(time.Second)
	w.propose(bob, ActionOfficers, w.newOfficers("alice", "bob"))
	list, err := w.Proposals(ctx, bob)
	require.NoError(t, err)
	require.Len(t, list.Proposals, MaxProposals)
	require.Equal(t, "bob", list.Proposals[0].Document.Proposer, "the newest first")
	w.clock.add(24 * time.Hour)
	w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
}

// The officers' row is made once. If it is taken away or changed in the database, nothing can be agreed on, and it is alarmed.
func TestOfficersTakenAwayAreAlarmed(t *testing.T) {
	attacks := map[string]func(w *world){
		"removed": func(w *world) { w.attack(nil, officersKey) },
		"changed": func(w *world) {
			row := w.row(officersKey)
			row.Value[len(row.Value)-1] ^= 1
			w.attack([]store.Put{row})
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			signed := w.signedProposal(alice, ActionOfficers, w.newOfficers("alice", "bob"))
			attack(w)
			for range 2 {
				_, err := w.Propose(context.Background(), alice, signed)
				require.Contains(t, []Code{CodeNotOfficer, CodeTampered}, CodeOf(err))
				w.restart()
			}
			require.True(t, slices.ContainsFunc(w.entries(), func(e LoggedEntry) bool { return e.Outcome == audit.Tampered && e.Reason == officersRow }))
			w.enrol(card(1), "offline-60")
		})
	}
}
