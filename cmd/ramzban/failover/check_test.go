package failover

import (
	"context"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice"
	"ramzban/keyservice/audit"
)

// check ends the load and holds the service to everything that it answered.
func (l *load) check() {
	l.t.Helper()
	l.end()
	result, _ := porcupine.CheckOperationsVerbose(specification, l.history, time.Minute)
	require.Equal(l.t, porcupine.Ok, result, "the answers fit no order of events")
	l.checkLogs()
	for _, n := range l.nodes {
		found, err := n.CompareAudit(context.Background(), bank)
		require.NoError(l.t, err)
		require.Empty(l.t, found)
	}
	for _, c := range l.customers {
		l.replay(c)
	}
	l.t.Logf("%d passwords accepted, %d answers unknown, %d that nothing was decided", len(l.accepted), l.unknown, l.none)
}

// checkLogs: every acknowledged acceptance is in the log where the answer said; no counter of a token was accepted twice,
// whether anybody was told or not.
func (l *load) checkLogs() {
	l.t.Helper()
	logged, once := map[audit.Position]keyservice.LoggedEntry{}, map[request]audit.Position{}
	logs, err := l.nodes[0].AuditLogs(context.Background(), bank)
	require.NoError(l.t, err)
	for _, log := range logs {
		for _, e := range l.entries(log.Node) {
			at := audit.Position{Node: log.Node, Index: e.Index}
			logged[at] = e
			if e.Outcome != audit.Accepted {
				continue
			}
			r := request{e.Serial, e.Next - 1}
			require.NotContains(l.t, once, r, "accepted at %v too", at)
			once[r] = at
		}
	}
	for _, a := range l.accepted {
		e := logged[a.at]
		require.Equal(l.t, []any{audit.Accepted, a.serial, a.counter + 1}, []any{e.Outcome, e.Serial, e.Next}, "the entry at %v was acknowledged", a.at)
	}
}

// entries reads a whole log. Reading is logged too, so the end is a page that is not full.
func (l *load) entries(of string) (all []keyservice.LoggedEntry) {
	l.t.Helper()
	for {
		page, err := l.nodes[0].AuditEntries(context.Background(), bank, keyservice.AuditQuery{Node: of, From: uint64(len(all)), Limit: keyservice.MaxAuditPage})
		require.NoError(l.t, err)
		all = append(all, page.Entries...)
		if len(page.Entries) < keyservice.MaxAuditPage {
			return all
		}
	}
}

// replay sends the last two passwords that are used up again, to every node.
func (l *load) replay(c *customer) {
	l.t.Helper()
	for _, n := range l.nodes {
		for back := range min(2, c.next) {
			password, err := c.password(c.next - 1 - back)
			require.NoError(l.t, err)
			v, err := n.Verify(context.Background(), bank, keyservice.VerifyRequest{Serial: c.serial, Use: use, OTP: password})
			require.NoError(l.t, err)
			require.False(l.t, v.Accepted, "a password was accepted twice")
			require.Contains(l.t, []keyservice.Reason{keyservice.ReasonAlreadyUsed, keyservice.ReasonMismatch}, v.Reason)
		}
	}
}
