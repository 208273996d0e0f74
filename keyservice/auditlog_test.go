package keyservice

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// An entry that was edited, removed, moved or invented in the database is named by its index, both to who reads the log
// and by the comparison, which also says whose decision is no longer logged; everything else can still be read.
func TestTheLogsOwnEntriesAreChecked(t *testing.T) {
	attacks := map[string]struct {
		attack func(w *world, index uint64)
		what   string
	}{
		"edited": {func(w *world, index uint64) {
			row := w.row(entryKey(index))
			row.Value[len(row.Value)-40] ^= 1
			w.attack([]store.Put{row})
		}, entryChanged},
		"garbage": {func(w *world, index uint64) {
			w.attack([]store.Put{{Key: entryKey(index), Value: []byte{0xff}}})
		}, entryChanged},
		"removed": {func(w *world, index uint64) { w.attack(nil, entryKey(index)) }, entryMissing},
		"replaced by its neighbour": {func(w *world, index uint64) {
			w.attack([]store.Put{{Key: entryKey(index), Value: w.row(entryKey(index - 1)).Value}})
		}, entryChanged},
	}
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), "offline-60")
			v := w.try(p, p.password())
			require.True(t, v.Accepted)
			a.attack(w, v.Audit.Index)
			log := w.entries()
			for i, e := range log {
				require.EqualValues(t, i, e.Index, "every index stands there once")
				require.Equal(t, e.Index == v.Audit.Index, e.Outcome == audit.Tampered, "entry %d", i)
			}
			require.Equal(t, a.what, log[v.Audit.Index].Reason)
			found, err := w.CompareAudit(context.Background(), auditor)
			require.NoError(t, err)
			require.Equal(t, []Discrepancy{
				{What: a.what, Node: "node-1", Logged: v.Audit.Index}, {Serial: p.serial, What: audit.NotLogged, Logged: 3, Stored: 4},
			}, found, "and whom the entry was about")
		})
	}
}

// The last entries before the comparison's own cannot be cut off unseen either, and a row beyond the end is no entry.
func TestACutOrLengthenedLogIsSeen(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	last := w.try(p, p.password()).Audit.Index
	w.attack(nil, entryKey(last), entryKey(last-1))
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.ElementsMatch(t, []Discrepancy{
		{What: entryMissing, Node: "node-1", Logged: last - 1}, {What: entryMissing, Node: "node-1", Logged: last},
		{Serial: p.serial, What: audit.NotLogged, Logged: 2, Stored: 4},
	}, found)

	w.attack([]store.Put{{Key: entryKey(1 << 60), Value: w.row(entryKey(0)).Value}})
	found, err = w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Contains(t, found, Discrepancy{What: entryChanged, Node: "node-1", Logged: 1 << 60})
}

// Wrong activation codes are counted in the state; an older state put back gives the tries back, and the log tells.
func TestActivationTriesPutBackAreFound(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	older := w.row(stateRowKey(issued.Serial))
	_, err := w.Activate(context.Background(), mobileBank, p.request(card(2), issued, code))
	require.Equal(t, CodeActivationWrong, CodeOf(err))
	w.attack([]store.Put{older})
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Equal(t, []Discrepancy{{Serial: issued.Serial, What: "state sequence", Logged: 2, Stored: 1}}, found)
}

// The row that makes a token its subject's live one is found missing by the comparison and by whoever deactivates it.
func TestARemovedLiveRowIsFound(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	tok, err := w.load(context.Background(), p.serial)
	require.NoError(t, err)
	live := liveKey(tok.Class, tok.kind(), tok.Subject)
	w.attack(nil, live)
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Equal(t, []Discrepancy{{Serial: p.serial, What: "live token", Logged: 1, Stored: 0}}, found)
	_, err = w.Deactivate(context.Background(), branch, p.serial)
	require.Equal(t, CodeTampered, CodeOf(err))

	second := w.enrol(card(1), "offline-60")
	_, err = w.Deactivate(context.Background(), branch, p.serial)
	require.Equal(t, CodeTampered, CodeOf(err), "another token's live row is left alone")
	_, err = w.Deactivate(context.Background(), branch, second.serial)
	require.NoError(t, err)
}

func TestOneComparisonRunsAtATime(t *testing.T) {
	w := newWorld(t)
	require.True(t, w.scan.try())
	_, err := w.CompareAudit(context.Background(), auditor)
	require.Equal(t, CodeBusy, CodeOf(err))
	w.scan.done()
	_, err = w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
}

// The alarm of a tampered row names the token, also where the request did not.
func TestAnAlarmNamesTheToken(t *testing.T) {
	w := newWorld(t)
	issued := w.issued(card(1), "offline-60")
	w.attack(nil, stateRowKey(issued.Serial))
	_, err := w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeTampered, CodeOf(err))
	log := w.entries()
	require.Equal(t, issued.Serial, log[len(log)-2].Serial)
	require.Equal(t, audit.Tampered, log[len(log)-2].Outcome)
}

// While the store cannot write, guesses cannot be counted: they are not looked at.
func TestWhatCannotBeCountedIsNotLookedAt(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	ask := func(typed seed.Password) error {
		_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
		return err
	}
	w.store.before = func(store.Change) error { return fmt.Errorf("%w: %w", store.ErrFailed, store.ErrNoSpace) }
	require.Equal(t, CodeStorageFull, CodeOf(ask(p.wrong())), "the first finds out")
	made := w.hsm.made()
	for range 50 {
		require.Equal(t, CodeStorageFull, CodeOf(ask(p.wrong())))
	}
	require.Equal(t, made, w.hsm.made(), "no HMAC is made for the others")
	w.store.before = nil
	require.True(t, w.try(p, p.password()).Accepted, "there is space again, and nothing else is needed")
}

func TestWhatIsNoCodeIDIsNoCode(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"", "x", "0123456789abcdef0123456789abcdeF", "0123456789abcdef0123456789abcdef", string(make([]byte, 2000))} {
		_, err := w.CollectCode(context.Background(), smsGateway, id)
		require.Equal(t, CodeCodeNotFound, CodeOf(err), "%.40q", id)
	}
}

// A row that was put back is found though it has been written over since, as the attacker has it done by using it: the
// log then says the same twice.
func TestARowPutBackIsFoundAfterItsUse(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
	older, typed := w.row(stateRowKey(p.serial)), p.password()
	require.True(t, w.try(p, typed).Accepted)
	w.attack([]store.Put{older})
	require.True(t, w.try(p, typed).Accepted, "nothing in the rows can tell")
	w.onlyLoggedTwice(p.serial)
}

func TestABudgetPutBackIsFoundAfterItsUse(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	o, err := w.ownerOf(context.Background(), ClassCard, seed.NewSubject(card(1)))
	require.NoError(t, err)
	older := w.row(budgetKey(o.subject, "second-pin"))
	w.try(p, p.wrong())
	w.attack([]store.Put{older})
	w.try(p, p.wrong())
	w.onlyLoggedTwice(p.serial)
}

func (w *world) onlyLoggedTwice(serial string) {
	last := w.entries()
	at := uint64(0)
	for _, e := range last {
		if e.Action == string(authz.VerifyOTP) {
			at = e.Index
		}
	}
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(w.t, err)
	require.Equal(w.t, []Discrepancy{{Serial: serial, What: audit.LoggedTwice, Node: "node-1", Logged: at}}, found)
}

// Also when the budget's further guesses are logged under the subject's other token.
func TestABudgetPutBackIsFoundUnderTheOtherToken(t *testing.T) {
	w := newWorld(t)
	offline, ctx := w.enrol(card(1), "offline-60"), context.Background()
	sms := w.optedIn(card(1), "second-pin").Serial
	o, err := w.ownerOf(ctx, ClassCard, seed.NewSubject(card(1)))
	require.NoError(t, err)
	older := w.row(budgetKey(o.subject, "second-pin"))
	w.try(offline, offline.wrong())
	w.attack([]store.Put{older})
	code := w.ask(card(1), nil)
	wrong := bySubject(card(1), offline.wrong())
	require.False(t, w.verify(wrong).Accepted)
	log := w.entries()
	require.Equal(t, sms, log[len(log)-2].Serial, "logged under the token whose password %v waits", code.ExpiresAt)
	found, err := w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, Discrepancy{What: audit.LoggedTwice, Logged: 1, Stored: 1}, Discrepancy{What: found[0].What, Logged: found[0].Logged, Stored: found[0].Stored})
}
