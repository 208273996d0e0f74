package keyservice

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// What ended long ago is dropped, feeds with it; what has not is kept. Its document is not taken again, the log and the
// database still agree, and a row that is put back is found.
func TestWhatIsOverIsDropped(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	w.enrol(card(1), "counter-6")
	fed := w.agreed(ActionFeed, SubjectFeed{Days: 1})
	signed := w.signedProposal(alice, ActionOfficers, w.newOfficers("alice", "bob"))
	waiting, err := w.Propose(ctx, alice, signed)
	require.NoError(t, err)
	w.clock.add(approval.DefaultLife + proposalKept - time.Hour)
	young := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
	carry := func() {
		ended, err := w.CarryOut(ctx)
		require.NoError(t, err)
		require.Zero(t, ended)
	}
	old := w.row(proposalKey(fed.ID))
	carry()
	list, err := w.Proposals(ctx, alice)
	require.NoError(t, err)
	require.Len(t, list.Proposals, 3)

	w.skew = 2 * time.Hour // one clock alone drops nothing
	w.store.Store = clockBehind{w.store.Store, w.clock.Now}
	carry()
	w.row(proposalKey(fed.ID))
	w.skew, w.store.Store = 0, w.db
	w.clock.add(2 * time.Hour)
	carry()
	list, err = w.Proposals(ctx, alice)
	require.NoError(t, err)
	require.Equal(t, []ProposalView{young}, list.Proposals)
	w.rows(func(it store.Item) { require.NotEqual(t, feedKey(fed.ID), it.Key) })
	_, err = w.Proposal(ctx, alice, waiting.ID)
	require.Equal(t, CodeProposalNotFound, CodeOf(err))
	_, err = w.Propose(ctx, alice, signed)
	require.Equal(t, CodeProposalClosed, CodeOf(err), "it has expired")
	w.requireNothingFound()
	w.restart()
	carry()
	w.attack([]store.Put{old})
	require.Equal(t, []Discrepancy{{What: audit.NotLogged, Proposal: fed.ID, Stored: 4}}, w.compared())
}

// clockBehind is a store whose clock stands elsewhere.
type clockBehind struct {
	store.Store
	at func() time.Time
}

func (c clockBehind) Now(context.Context) (time.Time, error) { return c.at(), nil }

func TestDroppingOnBothEngines(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, ctx := nodes[0], context.Background()
		fed := w.agreed(ActionFeed, SubjectFeed{Days: 1})
		p, _, err := w.loadProposal(ctx, fed.ID)
		require.NoError(t, err)
		l, err := w.lease(ctx, proposalsJob)
		require.NoError(t, err)
		require.NoError(t, w.drop(ctx, l, p))
		require.ErrorIs(t, w.drop(ctx, l, p), errLeaseLost, "once")
		w.rows(func(it store.Item) { require.NotContains(t, []store.Key{proposalKey(fed.ID), feedKey(fed.ID)}, it.Key) })
		w.requireNothingFound()
	})
}

// Damaged rows are listed as such and alarmed once; everything else is listed, proposed, carried out and renewed.
func TestDamagedRowsStopNothingElse(t *testing.T) {
	eachEngine(t, func(t *testing.T, nodes []*world) {
		w, ctx := nodes[0], context.Background()
		w.enrol(card(1), "counter-6")
		w.reveal(key(wrapLabel, 2), key(deriveLabel, 2))
		good, bad := w.begins(wrapLabel, 1, 2), w.begins(deriveLabel, 1, 2)
		spoilt := w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob"))
		approved := w.approve(bob, w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob")))
		rows := []store.Put{w.row(rotationKey(bad)), w.row(proposalKey(spoilt.ID))}
		for i := range rows {
			rows[i].Value[len(rows[i].Value)-1] ^= 1
		}
		w.attack(append(rows, store.Put{Key: proposalRows + "\x1b[2J", Value: []byte{1}}, store.Put{Key: rotationRows + "x", Value: nil}))
		for _, node := range nodes {
			node.restart()
		}
		for range 2 {
			_, err := w.CarryOut(ctx)
			require.NoError(t, err)
			list, err := w.Proposals(ctx, alice)
			require.NoError(t, err)
			require.Equal(t, []string{"", spoilt.ID}, list.Damaged)
			require.Len(t, list.Proposals, 3)
			renewed := w.renewsAll(good)
			require.Equal(t, []any{RotationWaiting, 1, 0}, []any{renewed.State, renewed.Seen, renewed.Left["token record"]}, "for the damaged rows")
			rotations, err := w.Rotations(ctx, alice)
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"", bad}, rotations.Damaged)
			require.Len(t, rotations.Rotations, 1)
		}
		require.Equal(t, ProposalDone, w.proposalOf(alice, approved.ID).State)
		w.propose(alice, ActionOfficers, w.newOfficers("alice", "carol"))
		_, err := w.Rotation(ctx, alice, bad)
		require.Equal(t, CodeTampered, CodeOf(err))
		_, err = w.Approve(ctx, bob, spoilt.ID, w.signedApproval(bob, spoilt.Signed.Document))
		require.Equal(t, CodeTampered, CodeOf(err))
		alarms := 0
		page, err := w.AuditEntries(ctx, auditor, AuditQuery{Node: w.node, Limit: MaxAuditPage})
		require.NoError(t, err)
		for _, e := range page.Entries {
			alarms += count(e.Outcome == audit.Tampered && e.Actor == itself.Name)
		}
		require.Equal(t, 4, alarms)
	})
}

// An alarm that does not get into the log is raised again.
func TestAnAlarmThatWasNotWritten(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	row := w.row(proposalKey(w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob")).ID))
	row.Value[len(row.Value)-1] ^= 1
	w.attack([]store.Put{row})
	alarms := func() (n int) {
		for _, e := range w.entries() {
			n += count(e.Outcome == audit.Tampered && e.Reason == proposalRow)
		}
		return n
	}
	w.store.before = func(store.Change) error { return store.ErrFailed }
	_, err := w.CarryOut(ctx)
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
	w.store.before = nil
	require.Zero(t, alarms())
	for range 2 {
		_, err = w.CarryOut(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, alarms())
	}
}

// captured are the rows of a proposal of a change of officers, by state, as whoever can read the database saw them.
func (w *world) captured(action string, parameters any) map[ProposalState]store.Put {
	rows := map[ProposalState]store.Put{}
	w.store.after = func(c store.Change) error {
		for _, put := range c.Put {
			if p, err := w.openProposal(store.Item{Key: put.Key, Value: slices.Clone(put.Value), Version: 1}); err == nil {
				rows[p.State] = store.Put{Key: put.Key, Value: slices.Clone(put.Value)}
			}
		}
		return nil
	}
	require.Equal(w.t, ProposalDone, w.agreed(action, parameters).State)
	w.store.after = nil
	return rows
}

// Rows with right MACs that are put back have nothing done again: not while the node runs, not long after, and not when one
// who wanted it is no officer any more.
func TestARowPutBackCarriesNothingOutAgain(t *testing.T) {
	type attack struct {
		state ProposalState
		then  func(w *world)
	}
	for name, a := range map[string]attack{
		"approved, at once":             {ProposalApproved, func(*world) {}},
		"running, at once":              {ProposalRunning, func(*world) {}},
		"approved, later":               {ProposalApproved, func(w *world) { w.restart(); w.clock.add(approval.DefaultLife) }},
		"running, later":                {ProposalRunning, func(w *world) { w.restart(); w.clock.add(approval.DefaultLife + runLimit + time.Second) }},
		"running, without its proposer": {ProposalRunning, func(w *world) { w.restart(); w.agreed3("bob", "carol") }},
		"running, without its approver": {ProposalRunning, func(w *world) { w.restart(); w.agreed3("alice", "carol") }},
	} {
		t.Run(name, func(t *testing.T) {
			w, ctx := newWorld(t), context.Background()
			rows := w.captured(ActionOfficers, w.newOfficers("alice", "bob", "carol", "zoe"))
			w.agreed3("alice", "bob", "carol")
			a.then(w)
			before := w.officers()
			w.attack([]store.Put{rows[a.state]})
			for range 2 {
				_, err := w.CarryOut(ctx)
				require.NoError(t, err)
			}
			require.Equal(t, before, w.officers())
			require.NotContains(t, before, "zoe")
			alarmed := slices.ContainsFunc(w.entries(), func(e LoggedEntry) bool { return e.Outcome == audit.Tampered && e.Reason == proposalRow })
			failed := slices.ContainsFunc(w.entries(), func(e LoggedEntry) bool { return e.Outcome == audit.Failed && e.Action == ActionOfficers })
			require.True(t, alarmed != failed, "it is said in the log")
			require.NotEmpty(t, w.compared())
		})
	}
}

// agreed3 has carol and another one change the officers.
func (w *world) agreed3(names ...string) {
	by := map[bool]string{true: "alice", false: "bob"}[slices.Contains(names, "alice")]
	proposer := alice
	if by == "bob" {
		proposer = bob
	}
	v := w.approve(carol, w.propose(proposer, ActionOfficers, w.newOfficers(names...)))
	_, err := w.CarryOut(context.Background())
	require.NoError(w.t, err)
	require.Equal(w.t, ProposalDone, w.proposalOf(carol, v.ID).State)
}

// A row whose parameters were changed is not the proposal that was signed, whatever MAC it carries: not under its own id, and
// not under the one that fits it.
func TestParametersChangedInTheRow(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	p := w.approve(bob, w.propose(alice, ActionOfficers, w.newOfficers("alice", "bob")))
	stored, _, err := w.loadProposal(ctx, p.ID)
	require.NoError(t, err)
	other := stored
	other.document.Parameters = w.proposing(alice, ActionOfficers, w.newOfficers("alice", "zoe")).Parameters
	other.Signed.Document = w.encoded(other.document)
	under, _, err := w.writeProposal(other)
	require.NoError(t, err)
	other.id = approval.ID(other.Signed.Document)
	fitting, _, err := w.writeProposal(other)
	require.NoError(t, err)
	w.attack([]store.Put{under, fitting})
	_, err = w.CarryOut(ctx)
	require.NoError(t, err)
	_, err = w.Proposal(ctx, alice, p.ID)
	require.Equal(t, CodeTampered, CodeOf(err))
	v := w.proposalOf(alice, other.id)
	require.Equal(t, ProposalFailed, v.State)
	require.Contains(t, v.Result, "signature")
	require.Equal(t, []string{"alice", "bob", "carol"}, w.officers())
}

// A feed that nobody opened by two signatures is none, whatever row there is.
func TestAFeedTakesItsProposal(t *testing.T) {
	w := newWorld(t)
	_, err := w.FeedSubjects(context.Background(), alice, w.propose(alice, ActionFeed, SubjectFeed{Days: 1}).ID, []FedSubject{{ClassCard, seed.NewSubject(card(1))}})
	require.Equal(t, CodeProposalClosed, CodeOf(err))
}

// A certificate that expired between the approval and the moment it is carried out, and a role that was taken away, count no
// longer.
func TestWhoSignedMustStillCount(t *testing.T) {
	for name, meanwhile := range map[string]func(w *world){
		"expired": func(w *world) { w.clock.add(2 * time.Hour) },
		"without the role": func(w *world) {
			var clients []authz.Client
			for _, c := range []authz.Caller{alice, carol, zoe, {Name: "bob", Roles: []authz.Role{authz.Auditor}}} {
				clients = append(clients, authz.Client{Name: c.Name, Certificates: []string{c.Name}, Roles: c.Roles})
			}
			var err error
			w.Persons.Directory, err = authz.NewDirectory(clients)
			require.NoError(w.t, err)
		},
	} {
		w, ctx := newWorld(t), context.Background()
		p := w.propose(alice, ActionOfficers, w.newOfficers("alice", "zoe"))
		_, err := w.Approve(ctx, bob, p.ID, dated(birth.Add(-time.Hour), birth.Add(time.Hour))(w, p))
		require.NoError(t, err)
		meanwhile(w)
		_, err = w.CarryOut(ctx)
		require.NoError(t, err)
		v := w.proposalOf(alice, p.ID)
		require.Equal(t, ProposalFailed, v.State, name)
		require.Contains(t, v.Result, "certificate", name)
		require.Equal(t, []string{"alice", "bob", "carol"}, w.officers(), name)
	}
}

// A node whose clock is set back takes nothing in that has expired by the database's.
func TestAClockSetBackRevivesNothing(t *testing.T) {
	w := newCluster(t, 0)[0]
	now, err := w.Store.Now(context.Background())
	require.NoError(t, err)
	p := w.proposing(alice, ActionOfficers, w.newOfficers("alice", "bob"))
	p.CreatedAt = now.UTC().Truncate(time.Second).Add(-4 * 24 * time.Hour)
	p.ExpiresAt = p.CreatedAt.Add(approval.DefaultLife)
	w.skew = p.CreatedAt.Add(time.Hour).Sub(w.clock.Now())
	_, err = w.Propose(context.Background(), alice, officersCA().sign(w.encoded(p), "alice"))
	require.Equal(t, CodeProposalClosed, CodeOf(err))
}
