package keyservice

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore"
)

// One person alone cannot restore once more with the officers' documents: what was restored knows them, and what was decided
// since is later than they are. Where only what was there before is shown, a witness has seen more.
func TestDocumentsAreForOneRestore(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	l := w.lostNow(w.takeBackup(), true)
	signed, consent := l.documents()
	l.change = func(o *Restore) { o.Proposal, o.Approval = signed, consent }
	after, _ := l.restored()
	used := p.on(after)
	after.clock.add(5 * time.Minute)
	require.True(t, after.try(used, used.password()).Accepted)

	again := l
	again.archive = after.archiveDir()
	after.export(again.archive)
	requireClosed(t, again, "carried out before")
	_, err := after.Propose(context.Background(), alice, signed)
	require.Error(t, err)
	to := places["badger"](t)
	_, err = l.run(to)
	require.NoError(t, err, "nothing that it is shown tells of the first one")
	require.ErrorIs(t, l.serve(to).CheckAnchor(context.Background(), after.signed()), ErrRollback)
}

func requireClosed(t *testing.T, l lost, says string) {
	t.Helper()
	to := places["badger"](t)
	_, err := l.run(to)
	require.Equal(t, CodeProposalClosed, CodeOf(err), "%v", err)
	require.ErrorContains(t, err, says)
	to.requireUntouched(t)
}

// Documents that are older than what was lost were not made for that loss; and none are good for longer than a day.
func TestDocumentsAreMadeAfterTheLoss(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	file := w.takeBackup()
	early := w.lostNow(file, true)
	signed, consent := early.documents()
	w.clock.add(time.Minute)
	require.True(t, w.try(p, p.password()).Accepted)
	l := w.lostNow(file, true)
	early.archive = l.archive
	early.change = func(o *Restore) { o.Proposal, o.Approval = signed, consent }
	requireClosed(t, early, "must sign another one")
	early = l
	early.archive, early.node = "", "node-after"
	early.change = func(o *Restore) {
		before := l
		before.now = w.now().Add(-time.Second)
		o.Proposal, o.Approval = before.documents()
	}
	requireClosed(t, early, "must sign another one")

	long := l
	long.life = MaxRestoreLife + time.Second
	_, err := long.run(places["badger"](t))
	require.Equal(t, CodeDocumentInvalid, CodeOf(err))
	long.life = MaxRestoreLife
	_, err = long.run(places["badger"](t))
	require.NoError(t, err)
}

// A clock that is behind what is to be restored would make the fence too low; one that is far ahead finds the documents expired.
func TestARestoreHoldsTheClockAgainstWhatItRestores(t *testing.T) {
	w := newWorld(t)
	l := w.lostNow(w.takeBackup(), true)
	signed, consent := l.documents()
	for name, c := range map[string]struct {
		wrong    time.Duration
		elsewhen bool // the documents were made by another machine's clock, which is right
		code     Code
	}{
		"behind":                        {-maxClockLag - time.Second, false, CodeInvalid},
		"behind the officers', too":     {-maxClockLag - time.Second, true, CodeDocumentInvalid},
		"far ahead, and the documents":  {100 * time.Hour, true, CodeProposalClosed},
		"ahead, and the documents good": {time.Minute, true, ""},
		"a little behind":               {-time.Minute, true, ""},
	} {
		l.now, l.change = w.now().Add(c.wrong), nil
		if c.elsewhen {
			l.change = func(o *Restore) { o.Proposal, o.Approval = signed, consent }
		}
		to := places["badger"](t)
		result, err := l.run(to)
		if c.code != "" {
			require.Equal(t, c.code, CodeOf(err), "%s: %v", name, err)
			require.ErrorContains(t, err, "this machine's clock", name)
			to.requireUntouched(t)
			continue
		}
		require.NoError(t, err, name)
		require.False(t, result.Now.Before(w.now()), "the fence is counted from the latest time that anything tells of")
	}
}

// joined is a node that joins a cluster late.
func (w *world) joined(node string) *world {
	late := &world{t: w.t, node: node, dsn: w.dsn, clock: w.clock, revealed: w.revealed}
	late.open = func() (database, error) {
		return pgstore.Open(context.Background(), pgstore.Options{DSN: late.dsn, Node: node, Sequencer: late.logbook.Sequence, Log: quiet})
	}
	late.begin()
	return late
}

// Of a node that joined after the backup, and of which neither anchor nor archive is there, the officers must know: what it
// decided would live again. Where its decisions stand between others they are missed, too.
func TestANodeThatJoinedAfterTheBackup(t *testing.T) {
	first := newCluster(t, 0)[0]
	p := first.enrol(card(1), "counter-6")
	file := first.takeBackup()
	late := first.joined("node-2")
	seen := p.password()
	require.True(t, late.try(p, seen).Accepted)

	l := first.lostNow(file, true)
	l.nodes = []string{"node-1", "node-2"}
	after, result := l.restoredTo(places["badger"](t))
	require.False(t, result.Complete)
	require.Contains(t, result.Closed, ClosedLog{Node: "node-2"})
	require.Equal(t, Suspended, after.status(p.serial))
	after.requireNothingFound()

	require.True(t, first.try(p, p.password()).Accepted)
	l = first.lostNow(file, true)
	to := places["badger"](t)
	_, err := l.run(to)
	require.ErrorContains(t, err, "no log tells of")
	to.requireUntouched(t)

	late.export(l.archive)
	_, err = l.run(to)
	require.ErrorContains(t, err, "there is a log of node-2")
	to.requireUntouched(t)
	l.nodes = []string{"node-2", "node-1"}
	_, err = l.run(to)
	require.Equal(t, CodeDocumentInvalid, CodeOf(err), "names are sorted")
	l.nodes, l.anchor = nil, append(l.anchor, late.anchor()...)
	after, result = l.restoredTo(to)
	require.True(t, result.Complete)
	require.Equal(t, ReasonAlreadyUsed, after.try(p.on(after), p.at(p.counter-1)).Reason)
	require.False(t, after.try(p.on(after), seen).Accepted)
	after.requireNothingFound()
}
