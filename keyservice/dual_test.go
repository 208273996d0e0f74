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

// samples make a world in which each action could be carried out, and return its parameters. An action without any fails
// the test: it must be tried what one officer alone can do with it.
var samples = map[string]func(w *world) any{
	ActionOfficers: func(w *world) any { return w.newOfficers("alice", "bob", "zoe") },
	ActionPruneAudit: func(w *world) any {
		if w.clock.Now().Before(birth.Add(auditKept + time.Hour)) {
			w.days()
		}
		_, q := w.archived(1)
		return q
	},
	ActionFeed:        func(*world) any { return SubjectFeed{Days: 1} },
	ActionImportClear: func(*world) any { return clearFile(makerSeed).agreement() },
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
	"an expired certificate":           {approving(bob, dated(birth.AddDate(-1, 0, 0), birth.Add(-time.Hour))), CodeSignatureInvalid},
	"a certificate of the future":      {approving(bob, dated(birth.AddDate(15, 0, 0), birth.AddDate(20, 0, 0))), CodeSignatureInvalid},
	"revoked after the approval":       {revokedMeanwhile, ""},
	"another case":                     {approving(bob, consent("Bob", "bob")), CodeSignatureInvalid},
	"another case of one's own name":   {approving(called("Alice"), consent("Alice", "alice")), CodeSignatureInvalid},
	"a certificate in another case":    {approving(bob, consent("bob", "Bob")), CodeSignatureInvalid},
	"letters that look alike":          {approving(bob, consent("bob", "b\u043eb")), CodeSignatureInvalid},
	"a name that looks alike":          {approving(called("b\u043eb"), consent("b\u043eb", "alice-renewed")), CodeSignatureInvalid},
	"a name with a space":              {approving(called("alice "), consent("alice ", "alice")), CodeSignatureInvalid},
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

// dated is bob's approval with a certificate that is good from one time to another.
func dated(from, to time.Time) func(w *world, p ProposalView) approval.Signed {
	return func(w *world, p ProposalView) approval.Signed {
		s := consent("bob", "bob")(w, p)
		s.Certificate = officersCA().until("bob", from, to)
		return s
	}
}

// called is somebody with the role whom nobody named an officer.
func called(name string) authz.Caller {
	return authz.Caller{Name: name, Roles: []authz.Role{authz.Officer}}
}

// revokedMeanwhile: bob approves, and bob's certificate is revoked before a node carries it out.
func revokedMeanwhile(w *world, p ProposalView) error {
	if err := approving(bob, consent("bob", "bob"))(w, p); err != nil {
		return err
	}
	w.Persons.Revoked = func([]*x509.Certificate) error { return errors.New("it was stolen") }
	defer func() { w.Persons.Revoked = nil }()
	_, err := w.CarryOut(context.Background())
	return err
}

// forged writes into the database that it was approved. Even under a right MAC, which takes the host, the signatures are
// missing.
func forged(w *world, p ProposalView) error {
	for _, state := range []ProposalState{ProposalApproved, ProposalRunning} {
		stored, _, err := w.loadProposal(context.Background(), p.ID)
		require.NoError(w.t, err)
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
	for action, sample := range samples {
		t.Run(action, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, nodes []*world) {
				parameters := sample(nodes[0])
				for name, c := range tries {
					tryAlone(t, nodes, action, parameters, name, c.try, c.code)
				}
				done := nodes[0].agreed(action, parameters)
				require.Equal(t, ProposalDone, done.State, "two can: %s", done.Result)
			})
		})
	}
}

// tryAlone lets one officer propose an action, and see where a try leads.
func tryAlone(t *testing.T, nodes []*world, action string, parameters any, name string, try alone, code Code) {
	t.Helper()
	w := nodes[0]
	p := w.propose(alice, action, parameters)
	before := w.head.Load()
	w.unchangedBut(func() {
		err := try(w, p)
		require.Equal(t, code == "", err == nil, "%s: %v", name, err)
		if err != nil {
			require.Equal(t, code, CodeOf(err), "%s: %v", name, err)
		}
		for _, node := range nodes {
			_, err = node.CarryOut(context.Background())
			require.NoError(t, err)
		}
	}, "p/", "w/", "n/", "m/", "o/")
	require.NotContains(t, w.officers(), "zoe", name)
	state := w.proposalOf(alice, p.ID).State
	require.NotContains(t, []ProposalState{ProposalApproved, ProposalRunning, ProposalDone}, state, name)
	if code == "" {
		return
	}
	log, err := w.AuditEntries(context.Background(), auditor, AuditQuery{Node: w.node, From: before, Limit: MaxAuditPage})
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(log.Entries, func(e LoggedEntry) bool {
		return e.Outcome == audit.Refused && e.Reason == string(code) || e.Outcome == audit.Denied && code == CodeDenied
	}), "%s: the log tells of it", name)
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
