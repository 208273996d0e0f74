package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// attack writes rows as someone with the database, but without the HSM, would.
func (w *world) attack(puts []store.Put, deletes ...store.Key) {
	entry, err := audit.Encode(audit.Entry{Node: w.node, Action: "attack"})
	require.NoError(w.t, err)
	_, err = w.db.Commit(context.Background(), store.Change{Put: puts, Delete: deletes, Entry: entry})
	require.NoError(w.t, err)
}

func (w *world) row(key store.Key) store.Put {
	items, err := w.db.Get(context.Background(), key)
	require.NoError(w.t, err)
	require.NotZero(w.t, items[0].Version, "row %q", key)
	return store.Put{Key: key, Value: items[0].Value}
}

// refusedAndAlarmed says that a right password is refused because a row was tampered with, and that the log has it.
func (w *world) refusedAndAlarmed(p *phone, what string) {
	before := len(w.entries())
	_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.at(p.factor())})
	require.Equal(w.t, CodeTampered, CodeOf(err), what)
	log := w.entries()
	found := false
	for _, e := range log[before:] {
		found = found || (e.Outcome == audit.Tampered && e.Serial == p.serial)
	}
	require.True(w.t, found, "%s: the log has the alarm", what)
}

// Exchanging rows between customers is seen although each row carries a right seal or MAC of its own.
func TestExchangedRowsAreSeen(t *testing.T) {
	for _, temperature := range []string{"cold", "warm"} {
		t.Run(temperature, func(t *testing.T) {
			w := newWorld(t)
			victim, thief := w.enrol(card(1), "offline-60"), w.enrol(card(2), "offline-60")
			v, err := w.load(context.Background(), victim.serial)
			require.NoError(t, err)
			th, err := w.load(context.Background(), thief.serial)
			require.NoError(t, err)
			pairs := map[string][2]store.Key{
				"records": {recordKey(victim.serial), recordKey(thief.serial)},
				"states":  {stateRowKey(victim.serial), stateRowKey(thief.serial)},
				"budgets": {budgetKey(v.Subject, "second-pin"), budgetKey(th.Subject, "second-pin")},
			}
			for name, pair := range pairs {
				mine, theirs := w.row(pair[0]), w.row(pair[1])
				if temperature == "cold" {
					w.restart()
				}
				w.attack([]store.Put{{Key: mine.Key, Value: theirs.Value}, {Key: theirs.Key, Value: mine.Value}})
				w.refusedAndAlarmed(victim, name)
				w.refusedAndAlarmed(thief, name)
				w.attack([]store.Put{mine, theirs})
			}
			w.exchange(victim.serial, thief.serial, func(a, b *record) { a.Seed, b.Seed = b.Seed, a.Seed })
			w.refusedAndAlarmed(victim, "wrapped seeds")
			w.refusedAndAlarmed(thief, "wrapped seeds")
		})
	}
}

// exchange edits two records as swap does, and leaves everything else of their rows.
func (w *world) exchange(a, b string, swap func(a, b *record)) {
	var envelopes [2]envelope
	var records [2]record
	for i, serial := range []string{a, b} {
		var err error
		envelopes[i], err = store.Decode[envelope](w.row(recordKey(serial)).Value)
		require.NoError(w.t, err)
		records[i], err = store.Decode[record](envelopes[i].Body)
		require.NoError(w.t, err)
	}
	swap(&records[0], &records[1])
	for i, serial := range []string{a, b} {
		body, err := store.Encode(records[i])
		require.NoError(w.t, err)
		value, err := store.Encode(envelope{Body: body, Seal: envelopes[i].Seal})
		require.NoError(w.t, err)
		w.attack([]store.Put{{Key: recordKey(serial), Value: value}})
	}
}

func TestRemovedRowsAreSeen(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	tok, err := w.load(context.Background(), p.serial)
	require.NoError(t, err)
	for _, key := range []store.Key{stateRowKey(p.serial), budgetKey(tok.Subject, "second-pin")} {
		original := w.row(key)
		w.attack(nil, key)
		w.refusedAndAlarmed(p, string(key[:2]))
		w.attack([]store.Put{original})
	}
	require.True(t, w.try(p, p.password()).Accepted)
}

// A whole older pair of rows carries right seals: only the log knows better.
func TestTheAuditComparisonFindsOlderRowsPutBack(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	p, bystander := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
	require.True(t, w.try(bystander, bystander.password()).Accepted)
	tok, err := w.load(ctx, p.serial)
	require.NoError(t, err)
	keys := []store.Key{recordKey(p.serial), stateRowKey(p.serial), budgetKey(tok.Subject, "second-pin")}
	var older []store.Put
	for _, key := range keys {
		older = append(older, w.row(key))
	}
	found, err := w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Empty(t, found)

	typed := p.password()
	w.try(p, p.wrong())
	require.True(t, w.try(p, typed).Accepted)
	_, err = w.Suspend(ctx, branch, p.serial)
	require.NoError(t, err)
	w.attack(older)
	require.True(t, w.try(p, typed).Accepted, "out of reach of the seals, as the threat model says")

	w.attack(older)
	found, err = w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	what := map[string]bool{}
	for _, d := range found {
		require.Equal(t, p.serial, d.Serial)
		require.Less(t, d.Stored, d.Logged)
		what[d.What] = true
	}
	require.Equal(t, map[string]bool{"record revision": true, "next moving factor": true, "state sequence": true, "guess budget": true, audit.LoggedTwice: true}, what)
	log := w.entries()
	require.Equal(t, audit.Tampered, log[len(log)-2].Outcome, "and it is alarmed")

	w.attack(nil, keys...)
	found, err = w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Len(t, found, 5, "removed rows are found too")
}
