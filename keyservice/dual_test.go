package keyservice

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// samples are parameters of every action that could be carried out as things are in a new world. An action without any
// fails the test: it must be tried what one officer alone can do with it.
var samples = map[string]func(w *world) any{
	ActionOfficers: func(w *world) any { return w.newOfficers("alice", "bob", "zoe") },
	ActionFeed:     func(*world) any { return SubjectFeed{Days: 1} },
	ActionRotate: func(w *world) any {
		w.reveal(key(dataLabel, 2))
		return KeyRotation{Label: dataLabel, From: 1, To: 2}
	},
	ActionRetire: func(w *world) any {
		w.rotatedTo(deriveLabel, 2)
		return KeyVersion{Label: deriveLabel, Version: 1}
	},
	ActionDestroy: func(w *world) any {
		old, err := w.masterKeyOf(wrapLabel, 7, 9) // one for each engine: in the end it is destroyed
		require.NoError(w.t, err)
		if w.ring.Load().find(old) == nil {
			w.rotatedTo(wrapLabel, old.Version)
			w.rotatedTo(wrapLabel, 8)
			w.retires(wrapLabel, old.Version)
		}
		return KeyVersion{Label: wrapLabel, Version: old.Version}
	},
}

func TestEveryActionIsTried(t *testing.T) {
	require.Equal(t, slices.Sorted(maps.Keys(newWorld(t).actions)), slices.Sorted(maps.Keys(samples)))
}

// alone is something that one officer, alice, or people who are no officers can try, to have what alice proposed carried
// out; it returns the code it is refused with, "" if nothing needs to be refused.
type alone func(w *world, p ProposalView) error

func approving(by authz.Caller, signed func(w *world, p ProposalView) approval.Signed) alone {
	return func(w *world, p ProposalView) error {
		_, err := w.Approve(context.Background(), by, p.ID, signed(w, p))
		return err
	}
}

// consent is an approval that names one person and is signed with a certificate of this name.
func consent(names, certificate string) func(w *world, p ProposalView) approval.Signed {
	return func(w *world, p ProposalView) approval.Signed {
		now, err := w.latest(context.Background())
		require.NoError(w.t, err)
		return officersCA().sign(w.encoded(approval.Approve(p.Signed.Document, names, now)), certificate)
	}
}

// foreign is an approval by bob with a certificate of another authority, which says that it is bob's.
func foreign(w *world, p ProposalView) approval.Signed {
	now, err := w.latest(context.Background())
	require.NoError(w.t, err)
	return newCA().sign(w.encoded(approval.Approve(p.Signed.Document, "bob", now)), "bob")
}

// later does something at a time.
func (w *world) later(by time.Duration, do func() error) error {
	w.skew += by
	defer func() { w.skew -= by }()
	return do()
}

var tries = map[string]struct {
	try  alone
	code Code
}{
	"just wait":                          {func(*world, ProposalView) error { return nil }, ""},
	"approve it oneself":                 {approving(alice, consent("alice", "alice")), CodeSamePerson},
	"with one's other certificate":       {approving(alice, consent("alice", "alice-renewed")), CodeSamePerson},
	"in another's name":                  {approving(alice, consent("bob", "alice-renewed")), CodeSamePerson},
	"with what another one signed":       {approving(alice, consent("bob", "bob")), CodeSamePerson},
	"another officer, but one's own key": {approving(bob, consent("bob", "alice-renewed")), CodeSignatureInvalid},
	"another officer, but one's name":    {approving(bob, consent("alice", "alice")), CodeSamePerson},
	"who is no officer":                  {approving(zoe, consent("zoe", "zoe")), CodeNotOfficer},
	"who is none, with an officer's":     {approving(zoe, consent("bob", "bob")), CodeSignatureInvalid},
	"who has not the role":               {approving(ex, consent("ex", "ex")), CodeDenied},
	"who has not the role, signing":      {approving(bob, consent("ex", "ex")), CodeSignatureInvalid},
	"an issuer":                          {approving(branch, consent("bob", "bob")), CodeDenied},
	"nobody":                             {approving(authz.Caller{}, consent("bob", "bob")), CodeDenied},
	"another authority's bob":            {approving(bob, foreign), CodeSignatureInvalid},
	"no signature": {approving(bob, func(w *world, p ProposalView) approval.Signed {
		s := consent("bob", "bob")(w, p)
		s.Signature = nil
		return s
	}), CodeSignatureInvalid},
	"another certificate": {approving(bob, func(w *world, p ProposalView) approval.Signed {
		s := consent("bob", "bob")(w, p)
		s.Certificate, _ = officersCA().of("bob-renewed")
		return s
	}), CodeSignatureInvalid},
	"nothing at all":                   {approving(bob, func(*world, ProposalView) approval.Signed { return approval.Signed{} }), CodeDocumentInvalid},
	"the proposal as its own approval": {approving(bob, func(_ *world, p ProposalView) approval.Signed { return officersCA().sign(p.Signed.Document, "bob") }), CodeDocumentInvalid},
	"an approval of another proposal":  {approvingAnother, CodeDocumentInvalid},
	"an approval that was used before": {replaying, CodeDocumentInvalid},
	"the approval of a withdrawn one":  {withdrawn, CodeProposalClosed},
	"a withdrawal by another": {func(w *world, p ProposalView) error {
		_, err := w.Withdraw(context.Background(), bob, p.ID)
		return err
	}, CodeNotProposer},
	"propose it again": {func(w *world, p ProposalView) error {
		_, err := w.Propose(context.Background(), alice, p.Signed)
		return err
	}, CodeProposalExists},
	"propose what another one signed": {func(w *world, p ProposalView) error {
		_, err := w.Propose(context.Background(), alice, w.signedProposal(bob, p.Document.Action, p.Document.Parameters))
		return err
	}, CodeSignatureInvalid},
	"propose in another's name": {func(w *world, p ProposalView) error {
		_, err := w.Propose(context.Background(), alice, officersCA().sign(w.encoded(w.proposing(bob, p.Document.Action, p.Document.Parameters)), "alice"))
		return err
	}, CodeSignatureInvalid},
	"propose as no officer": {func(w *world, p ProposalView) error {
		_, err := w.Propose(context.Background(), zoe, w.signedProposal(zoe, p.Document.Action, p.Document.Parameters))
		return err
	}, CodeNotOfficer},
	"propose for another installation": {forElsewhere, CodeDocumentInvalid},
	"propose what was altered":         {altered, CodeSignatureInvalid},
	"an id that is none": {func(w *world, p ProposalView) error {
		_, err := w.Approve(context.Background(), bob, "../"+p.ID, w.signedApproval(bob, p.Signed.Document))
		return err
	}, CodeProposalNotFound},
	"too late": {func(w *world, p ProposalView) error {
		return w.later(400*24*time.Hour, func() error { return approving(bob, consent("bob", "bob"))(w, p) })
	}, CodeProposalClosed},
	"an approval of the future": {func(w *world, p ProposalView) error {
		s := new(approval.Signed)
		_ = w.later(400*24*time.Hour, func() error { *s = consent("bob", "bob")(w, p); return nil })
		return approving(bob, func(*world, ProposalView) approval.Signed { return *s })(w, p)
	}, CodeDocumentInvalid},
	"a revoked certificate":            {revoked, CodeSignatureInvalid},
	"a row that says it was approved":  {forged, ""},
	"the row of one that was approved": {exchanged, ""},
}

// approvingAnother: bob approves one proposal, and alice's friend at the transport puts it on another.
func approvingAnother(w *world, p ProposalView) error {
	other := w.proposing(alice, p.Document.Action, p.Document.Parameters)
	_, err := w.Approve(context.Background(), bob, p.ID, w.signedApproval(bob, w.encoded(other)))
	return err
}

// replaying uses the approval of an earlier proposal of the same.
func replaying(w *world, p ProposalView) error {
	earlier := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob", "carol"))
	signed := w.signedApproval(bob, earlier.Signed.Document)
	_, err := w.Approve(context.Background(), bob, earlier.ID, signed)
	require.NoError(w.t, err)
	_, err = w.Approve(context.Background(), bob, earlier.ID, signed)
	require.Equal(w.t, CodeProposalClosed, CodeOf(err), "it is good for once")
	_, err = w.Approve(context.Background(), bob, p.ID, signed)
	return err
}

func withdrawn(w *world, p ProposalView) error {
	v, err := w.Withdraw(context.Background(), alice, p.ID)
	require.NoError(w.t, err)
	require.Equal(w.t, ProposalWithdrawn, v.State)
	_, err = w.Withdraw(context.Background(), alice, p.ID)
	require.Equal(w.t, CodeProposalClosed, CodeOf(err))
	return approving(bob, consent("bob", "bob"))(w, p)
}

func forElsewhere(w *world, p ProposalView) error {
	other := p.Document
	other.Installation = "0000000000000000"
	_, err := w.Propose(context.Background(), alice, officersCA().sign(w.encoded(other), "alice"))
	return err
}

func altered(w *world, p ProposalView) error {
	other := p.Document
	other.Nonce = "00000000000000000000000000000000"
	_, err := w.Propose(context.Background(), alice, approval.Signed{Document: w.encoded(other), Signature: p.Signed.Signature, Certificate: p.Signed.Certificate})
	return err
}

func revoked(w *world, p ProposalView) error {
	w.Persons.Revoked = func([]*x509.Certificate) error { return errors.New("it was stolen") }
	defer func() { w.Persons.Revoked = nil }()
	return approving(bob, consent("bob", "bob"))(w, p)
}

// forged writes into the database that it was approved. Even under a right MAC, which takes the host, the signatures are
// missing.
func forged(w *world, p ProposalView) error {
	stored, _, err := w.loadProposal(context.Background(), p.ID)
	require.NoError(w.t, err)
	for _, state := range []ProposalState{ProposalApproved, ProposalRunning} {
		stored.State, stored.Approver, stored.ApprovedAt = state, "bob", stored.MadeAt
		stored.Approval = new(foreign(w, p))
		row, _, err := w.writeProposal(stored)
		require.NoError(w.t, err)
		row.Value[len(row.Value)-1] ^= 1
		w.attack([]store.Put{row})
		_, err = w.CarryOut(context.Background())
		require.NoError(w.t, err)
		row.Value[len(row.Value)-1] ^= 1
		w.attack([]store.Put{row})
		_, err = w.CarryOut(context.Background())
		require.NoError(w.t, err)
		require.Equal(w.t, ProposalFailed, w.proposalOf(alice, p.ID).State)
	}
	return nil
}

// exchanged puts the row of an approved proposal in the place of this one.
func exchanged(w *world, p ProposalView) error {
	other := w.approve(bob, w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob", "carol")))
	row, before := w.row(proposalKey(other.ID)), w.row(proposalKey(p.ID))
	row.Key = before.Key
	w.attack([]store.Put{row})
	_, err := w.CarryOut(context.Background())
	require.NoError(w.t, err)
	_, err = w.Proposal(context.Background(), alice, p.ID)
	require.Equal(w.t, CodeTampered, CodeOf(err))
	w.attack([]store.Put{before})
	return nil
}

// One officer alone can have none of the actions carried out, whatever is tried, on any engine; and two can.
func TestOneOfficerAloneCanDoNothing(t *testing.T) {
	for action, parameters := range samples {
		eachEngine(t, func(t *testing.T, nodes []*world) {
			w, ctx := nodes[0], context.Background()
			for name, c := range tries {
				p := w.propose(alice, action, parameters(w))
				before := len(w.entries())
				w.unchangedBut(func() {
					err := c.try(w, p)
					require.Equal(t, c.code == "", err == nil, "%s, %s: %v", action, name, err)
					if err != nil {
						require.Equal(t, c.code, CodeOf(err), "%s, %s: %v", action, name, err)
					}
					for _, node := range nodes {
						_, err = node.CarryOut(ctx)
						require.NoError(t, err)
					}
				}, "p/", "w/", "n/", "m/", "o/")
				require.NotContains(t, w.officers(), "zoe", "%s, %s", action, name)
				state := w.proposalOf(alice, p.ID).State
				require.NotContains(t, []ProposalState{ProposalApproved, ProposalRunning, ProposalDone}, state, "%s, %s", action, name)
				if c.code != "" {
					require.True(t, slices.ContainsFunc(w.entries()[before:], func(e LoggedEntry) bool {
						return (e.Outcome == audit.Refused || e.Outcome == audit.Denied) && (e.Reason == string(c.code) || c.code == CodeDenied)
					}), "%s, %s: the log tells of it", action, name)
				}
			}
			require.Equal(t, ProposalDone, w.agreed(action, parameters(w)).State, "two can")
		})
	}
}

// What an officer approved who is no officer any more, when it is to be carried out, counts no longer; nor what was proposed
// by one.
func TestRemovedOfficersCountNoLonger(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, ctx := nodes[0], context.Background()
		without := w.approve(carol, w.propose(alice, ActionOfficers, w.newOfficers("alice", "carol")))
		w.clock.add(time.Second)
		target := w.approve(bob, w.propose(carol, ActionOfficers, w.newOfficers("alice", "bob", "carol", "zoe")))
		byBob := w.propose(bob, ActionOfficers, w.newOfficers("bob", "carol"))
		byAlice := w.propose(alice, ActionOfficers, w.newOfficers("alice", "zoe"))
		ended, err := w.CarryOut(ctx)
		require.NoError(t, err)
		require.Equal(t, 2, ended, "in the order of their approvals")
		require.Equal(t, ProposalDone, w.proposalOf(alice, without.ID).State)
		require.Equal(t, ProposalFailed, w.proposalOf(alice, target.ID).State)
		require.Equal(t, []string{"alice", "carol"}, w.officers())

		_, err = w.Approve(ctx, alice, byBob.ID, w.signedApproval(alice, byBob.Signed.Document))
		require.Equal(t, CodeNotOfficer, CodeOf(err), "its proposer is none any more")
		_, err = w.Approve(ctx, bob, byAlice.ID, w.signedApproval(bob, byAlice.Signed.Document))
		require.Equal(t, CodeNotOfficer, CodeOf(err))
		_, err = w.Propose(ctx, bob, w.signedProposal(bob, ActionOfficers, w.newOfficers("alice", "bob")))
		require.Equal(t, CodeNotOfficer, CodeOf(err))
		w.approve(carol, byAlice)
		_, err = w.CarryOut(ctx)
		require.NoError(t, err)
		require.Contains(t, w.proposalOf(alice, byAlice.ID).Result, "changed since", "it was proposed for other officers")
		require.Equal(t, []string{"alice", "carol"}, w.officers())
	})
}

// A list of officers that nobody could approve anything with, or who are not known, is not even taken.
func TestOfficersThatCannotBe(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	for name, parameters := range map[string]any{
		"nobody":         w.newOfficers(),
		"one":            w.newOfficers("alice"),
		"one, twice":     w.newOfficers("alice", "alice"),
		"not sorted":     w.newOfficers("bob", "alice"),
		"unknown":        w.newOfficers("alice", "mallory"),
		"without role":   w.newOfficers("alice", "ex"),
		"a certificate":  w.newOfficers("alice", "bob-renewed"),
		"something else": map[string]any{"officers": []string{"alice", "bob"}},
		"and more":       map[string]any{"officers": []string{"alice", "bob"}, "instead_of": w.officers(), "by": 1},
	} {
		_, err := w.Propose(ctx, alice, w.signedProposal(alice, ActionOfficers, parameters))
		require.Contains(t, []Code{CodeInvalid, CodeDocumentInvalid}, CodeOf(err), name)
	}
	_, err := w.Propose(ctx, alice, w.signedProposal(alice, "officers.remove", map[string]any{}))
	require.Equal(t, CodeDocumentInvalid, CodeOf(err))
	require.ErrorContains(t, err, ActionOfficers)
	list, err := w.Proposals(ctx, alice)
	require.NoError(t, err)
	require.Empty(t, list.Proposals)
}

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
