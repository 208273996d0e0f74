package keyservice

import (
	"context"
	"errors"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// MaxAuditPage is the most entries one call of AuditEntries returns.
const MaxAuditPage = 1000

// LoggedEntry is one entry of the audit log with its index.
type LoggedEntry struct {
	Index uint64
	audit.Entry
}

var errPageFull = errors.New("the page is full")

// AuditEntries returns up to limit (1 to MaxAuditPage) entries of the log, from the index from on.
func (s *Service) AuditEntries(ctx context.Context, c authz.Caller, from uint64, limit int) ([]LoggedEntry, error) {
	if err := s.authorise(ctx, c, authz.ReadAudit, ""); err != nil {
		return nil, err
	}
	if limit < 1 || limit > MaxAuditPage {
		return nil, &Error{Code: CodeInvalid, Detail: "limit must be between 1 and 1000"}
	}
	if _, err := s.commit(ctx, c, authz.ReadAudit, decision{entry: audit.Entry{Outcome: audit.Done}}); err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	page := []LoggedEntry{}
	err = scanEntries(ctx, snap, from, func(e LoggedEntry) error {
		if page = append(page, e); len(page) == limit {
			return errPageFull
		}
		return nil
	})
	if err != nil && !errors.Is(err, errPageFull) {
		return nil, &Error{Code: CodeStorageUnavailable, Detail: "the audit log cannot be read", Err: err}
	}
	return page, nil
}

func scanEntries(ctx context.Context, snap store.Snapshot, from uint64, fn func(LoggedEntry) error) error {
	return snap.Scan(ctx, audit.Prefix, audit.EntryKey(from), func(it store.Item) error {
		index, err := audit.Index(it.Key)
		if err != nil {
			return err
		}
		e, err := audit.Decode(it.Value)
		if err != nil {
			return err
		}
		return fn(LoggedEntry{Index: index, Entry: e})
	})
}

// Discrepancy is a place where the stored state is older than what the audit log says happened: an older row was put
// back, or a row was removed (Stored 0).
type Discrepancy struct {
	Serial string
	What   string // "record revision", "next moving factor" or "guess budget"
	Logged uint64
	Stored uint64
}

// CompareAudit compares the whole log with the whole store, both as of one moment, and returns where a row is older
// than the log says. Its memory grows with the number of tokens, about 200 bytes each.
func (s *Service) CompareAudit(ctx context.Context, c authz.Caller) ([]Discrepancy, error) {
	if err := s.authorise(ctx, c, authz.CompareAudit, ""); err != nil {
		return nil, err
	}
	if _, err := s.commit(ctx, c, authz.CompareAudit, decision{entry: audit.Entry{Outcome: audit.Done}}); err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	found, err := s.compare(ctx, snap)
	if err != nil {
		return nil, hsmError(err)
	}
	return found, nil
}

// logged is the highest values the log names for one token.
type logged struct {
	revision, next uint64
	budgets        map[string]uint64 // by use
}

func (s *Service) compare(ctx context.Context, snap store.Snapshot) ([]Discrepancy, error) {
	tokens := map[string]*logged{}
	err := scanEntries(ctx, snap, 0, func(e LoggedEntry) error {
		if e.Serial != "" && (e.Revision > 0 || e.Next > 0 || e.Budget > 0) {
			remember(tokens, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	found := []Discrepancy{}
	for serial, l := range tokens {
		more, err := s.compareToken(ctx, snap, serial, l)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

func remember(tokens map[string]*logged, e LoggedEntry) {
	l, ok := tokens[e.Serial]
	if !ok {
		l = &logged{budgets: map[string]uint64{}}
		tokens[e.Serial] = l
	}
	l.revision, l.next = max(l.revision, e.Revision), max(l.next, e.Next)
	if e.Budget > 0 {
		l.budgets[e.Use] = max(l.budgets[e.Use], e.Budget)
	}
}

// compareToken holds one token's rows against the log. A row that fails its own check counts as missing.
func (s *Service) compareToken(ctx context.Context, snap store.Snapshot, serial string, l *logged) ([]Discrepancy, error) {
	r, err := stored(ctx, snap, recordKey(serial), func(it store.Item) (record, error) { return s.unseal(ctx, it) })
	if err != nil {
		return nil, err
	}
	st, err := stored(ctx, snap, stateRowKey(serial), func(it store.Item) (state, error) { return unmac[state](s, it, "token state") })
	if err != nil {
		return nil, err
	}
	all := []Discrepancy{{serial, "record revision", l.revision, r.Revision}, {serial, "next moving factor", l.next, st.Next}}
	for use, sequence := range l.budgets {
		b, err := stored(ctx, snap, budgetKey(r.Subject.Sum, use), func(it store.Item) (budget, error) { return unmac[budget](s, it, "guess budget") })
		if err != nil {
			return nil, err
		}
		all = append(all, Discrepancy{serial, "guess budget", sequence, b.Sequence})
	}
	older := all[:0]
	for _, d := range all {
		if d.Stored < d.Logged {
			older = append(older, d)
		}
	}
	return older, nil
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
