package keyservice

import (
	"context"
	"errors"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// Discrepancy is a place where the database is not what the audit log says it must be: an older row was put back, a row
// was removed (Stored 0), an entry of the log itself was changed or removed, or an entry gives a value that an earlier
// one gave already: then an older row was put back before it, and has been written over since.
type Discrepancy struct {
	Serial string // empty for the log's own entries
	What   string
	Logged uint64 // the log's value; for entries, the index
	Stored uint64
}

// loggedTwice is what of a token was given its value, or a lower one, a second time. Every write of a row counts on.
const loggedTwice = "logged twice"

// CompareAudit compares the whole log with the whole store, both as of one moment, and returns where they differ. What
// it finds is logged and alarmed. One comparison runs at a time, else CodeBusy. Its memory grows with the number of
// tokens, about 200 bytes each.
func (s *Service) CompareAudit(ctx context.Context, c authz.Caller) ([]Discrepancy, error) {
	if err := s.authorise(ctx, c, authz.CompareAudit, ""); err != nil {
		return nil, err
	}
	if !s.scan.TryLock() {
		return nil, &Error{Code: CodeBusy, Detail: "a comparison is running; one at a time"}
	}
	defer s.scan.Unlock()
	end, err := s.commit(ctx, c, authz.CompareAudit, decision{entry: audit.Entry{Outcome: audit.Done}})
	if err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	found, err := s.compare(ctx, snap, end)
	if err != nil {
		return nil, hsmError(err)
	}
	return found, s.alarm(ctx, c, found)
}

// alarm logs that a comparison found something.
func (s *Service) alarm(ctx context.Context, c authz.Caller, found []Discrepancy) error {
	if len(found) == 0 {
		return nil
	}
	s.Log.ErrorContext(ctx, "the database is not what the audit log says", "discrepancies", len(found), "first", found[0].What,
		"serial", found[0].Serial, "request_id", RequestID(ctx))
	d := decision{entry: audit.Entry{Outcome: audit.Tampered, Reason: found[0].What, Serial: found[0].Serial}}
	_, err := s.commit(ctx, c, authz.CompareAudit, d)
	return err
}

// logged is the highest values the log names for one token.
type logged struct {
	revision, next, state uint64
	budgets               map[string]uint64 // by use
}

func (s *Service) compare(ctx context.Context, snap store.Snapshot, end uint64) ([]Discrepancy, error) {
	tokens, found := map[string]*logged{}, []Discrepancy{}
	err := s.scanLog(ctx, snap, 0, end, func(e LoggedEntry) error {
		if e.Reason == entryChanged || e.Reason == entryMissing {
			found = append(found, Discrepancy{What: e.Reason, Logged: e.Index})
			return nil
		}
		about := []audit.Entry{e.Entry}
		for _, p := range e.Also {
			about = append(about, audit.Entry{Serial: p.Serial, Revision: p.Revision, Next: p.Next, State: p.State})
		}
		for _, a := range about {
			if !remember(tokens, a) {
				found = append(found, Discrepancy{Serial: a.Serial, What: loggedTwice, Logged: e.Index})
			}
		}
		return nil
	})
	if err != nil {
		return nil, storeError(err)
	}
	for serial, l := range tokens {
		more, err := s.compareToken(ctx, snap, serial, l)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// remember takes note of what an entry says about its token, if it says anything. It returns false if a row did not count
// on from what an earlier entry says.
func remember(tokens map[string]*logged, e audit.Entry) bool {
	if e.Serial == "" || e.Revision+e.State+e.Budget == 0 {
		return true
	}
	l, ok := tokens[e.Serial]
	if !ok {
		l = &logged{budgets: map[string]uint64{}}
		tokens[e.Serial] = l
	}
	on := counts(&l.revision, e.Revision)
	on = counts(&l.state, e.State) && on
	l.next = max(l.next, e.Next)
	sequence := l.budgets[e.Use]
	on = counts(&sequence, e.Budget) && on
	if e.Budget > 0 {
		l.budgets[e.Use] = sequence
	}
	return on
}

// counts raises the highest value so far; false if an entry gives one that is not higher. 0: it gives none.
func counts(highest *uint64, given uint64) bool {
	on := given == 0 || given > *highest
	*highest = max(*highest, given)
	return on
}

// compareToken holds one token's rows against the log. A row that fails its own check counts as missing.
func (s *Service) compareToken(ctx context.Context, snap store.Snapshot, serial string, l *logged) ([]Discrepancy, error) {
	r, err := stored(ctx, snap, recordKey(serial), func(it store.Item) (record, error) { return s.unseal(ctx, it, false) })
	if err != nil {
		return nil, err
	}
	st, err := stored(ctx, snap, stateRowKey(serial), func(it store.Item) (state, error) { return unmac[state](s, it, "token state") })
	if err != nil {
		return nil, err
	}
	all := []Discrepancy{
		{serial, "record revision", l.revision, r.Revision},
		{serial, "next moving factor", l.next, st.Next},
		{serial, "state sequence", l.state, st.Sequence},
	}
	for use, sequence := range l.budgets {
		b, err := stored(ctx, snap, budgetKey(r.Subject.Sum, use), func(it store.Item) (budget, error) { return unmac[budget](s, it, "guess budget") })
		if err != nil {
			return nil, err
		}
		all = append(all, Discrepancy{serial, "guess budget", sequence, b.Sequence})
	}
	live, err := s.compareLive(ctx, snap, r)
	if err != nil {
		return nil, err
	}
	seed, err := s.compareHolder(ctx, snap, r)
	if err != nil {
		return nil, err
	}
	return older(append(all, live, seed)), nil
}

// compareLive looks whether a token that lives is its subject's live one.
func (s *Service) compareLive(ctx context.Context, snap store.Snapshot, r record) (Discrepancy, error) {
	d := Discrepancy{Serial: r.Serial, What: "live token"}
	if r.Serial == "" || r.Status == Deactivated {
		return d, nil
	}
	d.Logged = 1
	p, err := stored(ctx, snap, liveKey(r.Class, r.kind(), r.Subject.Sum), func(it store.Item) (pointer, error) { return unmac[pointer](s, it, "live token") })
	if p.Serial == r.Serial {
		d.Stored = 1
	}
	return d, err
}

func older(all []Discrepancy) []Discrepancy {
	var older []Discrepancy
	for _, d := range all {
		if d.Stored < d.Logged {
			older = append(older, d)
		}
	}
	return older
}

// stored reads one row of a snapshot; the zero value stands for a row that is missing or fails its check.
func stored[T any](ctx context.Context, snap store.Snapshot, key store.Key, read func(store.Item) (T, error)) (T, error) {
	var v T
	err := snap.Scan(ctx, key, key, func(it store.Item) error {
		if it.Key != key {
			return nil
		}
		got, err := read(it)
		var t *tampered
		if errors.As(err, &t) {
			return nil
		}
		v = got
		return err
	})
	return v, err
}
