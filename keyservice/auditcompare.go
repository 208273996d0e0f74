package keyservice

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// Discrepancy is a place where the database is not what the audit logs say it must be, or where they contradict each
// other: an older row was put back (Stored is lower), a row was removed (Stored 0), an entry was changed or removed, an
// entry claims a write that another one claimed already (an older row was put back before it, and has been written over
// since; without a Node: two tokens' entries claim writes of their subject's guess budget, Logged to Stored at most), or
// writes that no entry tells of lie between Logged and Stored.
type Discrepancy struct {
	Serial   string // of the token; empty for the logs' own entries and for what officers agree on
	What     string
	Node     string // whose log the entry is in; empty if no entry is meant
	Logged   uint64 // the log's value; for entries, the index
	Stored   uint64
	Proposal string // the officers', if one is meant
}

// CompareAudit compares the logs of all nodes with each other and with the whole store, as of one moment, and returns
// where they differ. What it finds is logged and alarmed. One comparison runs at a time, else CodeBusy. Its memory grows
// with the number of tokens, about 500 bytes each.
func (s *Service) CompareAudit(ctx context.Context, c authz.Caller) ([]Discrepancy, error) {
	if err := s.authorise(ctx, c, authz.CompareAudit, ""); err != nil {
		return nil, err
	}
	if !s.scan.try() {
		return nil, &Error{Code: CodeBusy, Detail: "a comparison is running; one at a time"}
	}
	defer s.scan.done()
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
		return nil, s.failed(ctx, c, authz.CompareAudit, "", err)
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

func (s *Service) compare(ctx context.Context, snap store.Snapshot, end uint64) ([]Discrepancy, error) {
	logs, stray, err := s.logs(ctx, snap, end)
	if err != nil {
		return nil, err
	}
	tokens, control, found, err := s.readKept(ctx, snap)
	if err != nil {
		return nil, err
	}
	for range stray {
		found = append(found, Discrepancy{What: entryChanged})
	}
	budgets := map[store.Key]*audit.Sequences{}
	err = s.merged(ctx, snap, logs, func(e LoggedEntry) {
		found = append(found, remember(tokens, e)...)
		found = append(found, control.remember(e)...)
	})
	if err != nil {
		return nil, storeError(err)
	}
	for serial, l := range tokens {
		more, err := s.compareToken(ctx, snap, serial, l, budgets)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	unknown, err := s.unknownTokens(ctx, snap, tokens)
	if err != nil {
		return nil, err
	}
	agreed, err := s.compareControlled(ctx, snap, control)
	return slices.Concat(found, unknown, agreed), err
}

// merged calls fn for the entries of all logs: of one log in its order, of several about in the order of time, so that
// what they say of one token comes together.
func (s *Service) merged(ctx context.Context, snap store.Snapshot, logs []AuditLog, fn func(LoggedEntry)) error {
	var sources []*source
	for _, log := range logs {
		next, stop := iter.Pull2(s.read(ctx, snap, log))
		defer stop()
		sources = append(sources, &source{next: next})
	}
	for {
		var first *source
		for _, src := range sources {
			if err := src.fill(); err != nil {
				return err
			}
			if src.full && (first == nil || src.entry.Time < first.entry.Time) {
				first = src
			}
		}
		if first == nil {
			return nil
		}
		fn(first.entry)
		first.full = false
	}
}

// source is one log being read, and its next entry.
type source struct {
	next  func() (LoggedEntry, error, bool)
	entry LoggedEntry
	full  bool // entry is there
}

func (s *source) fill() (err error) {
	if !s.full {
		s.entry, err, s.full = s.next()
	}
	return err
}

// read is scanLog for who reads several logs at once. An error is the last that comes.
func (s *Service) read(ctx context.Context, snap store.Snapshot, log AuditLog) iter.Seq2[LoggedEntry, error] {
	return func(yield func(LoggedEntry, error) bool) {
		err := s.scanLog(ctx, snap, log, 0, func(e LoggedEntry) error {
			if !yield(e, nil) {
				return errFound
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFound) {
			yield(LoggedEntry{}, err)
		}
	}
}

// remember takes note of what an entry says about tokens, and returns what is wrong with that.
func remember(tokens audit.Tokens, e LoggedEntry) (found []Discrepancy) {
	if !e.Genuine() {
		return []Discrepancy{{What: e.Reason, Node: e.Node, Logged: e.Index}}
	}
	for _, c := range tokens.Remember(e.Entry) {
		found = append(found, Discrepancy{Serial: c.Serial, What: c.What, Node: e.Node, Logged: e.Index})
	}
	return found
}

// compareToken holds one token's rows against the logs. A row that fails its own check counts as missing. What the logs say
// of guess budgets is added to budgets, by their rows: two tokens of a subject have one.
func (s *Service) compareToken(ctx context.Context, snap store.Snapshot, serial string, l *audit.Writes, budgets map[store.Key]*audit.Sequences) ([]Discrepancy, error) {
	r, err := stored(ctx, snap, recordKey(serial), func(it store.Item) (record, error) { return s.unseal(ctx, it, false) })
	if err != nil {
		return nil, err
	}
	st, err := stored(ctx, snap, stateRowKey(serial), func(it store.Item) (state, error) { return unmac[state](s, it, "token state") })
	if err != nil {
		return nil, err
	}
	all := []Discrepancy{
		{Serial: serial, What: "record revision", Logged: l.Revisions.End().Last, Stored: r.Revision},
		{Serial: serial, What: "next moving factor", Logged: l.States.End().High, Stored: st.Next},
		{Serial: serial, What: "state sequence", Logged: l.States.End().Last, Stored: st.Sequence},
	}
	var twice []Discrepancy
	for use, sequence := range l.Budgets {
		key := budgetKey(r.Subject, use)
		if r.Serial != "" {
			twice = append(twice, addTo(budgets, key, serial, *sequence)...)
		}
		b, err := stored(ctx, snap, key, func(it store.Item) (budget, error) { return unmac[budget](s, it, "guess budget") })
		if err != nil {
			return nil, err
		}
		if b.Schema == 0 && s.outlived(r) {
			continue // what the subject still has stands under another pseudonym
		}
		all = append(all, Discrepancy{Serial: serial, What: "guess budget", Logged: sequence.End().Last, Stored: b.Sequence})
	}
	live, err := s.compareLive(ctx, snap, r)
	if err != nil {
		return nil, err
	}
	maker, err := s.compareHolder(ctx, snap, r)
	if err != nil {
		return nil, err
	}
	return slices.Concat(older(append(all, live, maker)), silent(serial, l.Silent(r.Revision, st.Sequence)), twice), nil
}

// outlived says that a token ended before what names it in the keys of other rows moved on to another version of the lookup
// key.
func (s *Service) outlived(r record) bool {
	return r.Status == Deactivated && r.Subject.Key != s.ring.Load().activeOf(lookupLabel)
}

// addTo adds what was logged of a budget under one token to what was logged of it under others; it returns what was
// logged under both.
func addTo(all map[store.Key]*audit.Sequences, key store.Key, serial string, s audit.Sequences) (twice []Discrepancy) {
	if all[key] == nil {
		all[key] = &audit.Sequences{}
	}
	for _, r := range s {
		if all[key].Add(r) == audit.LoggedTwice {
			twice = append(twice, Discrepancy{Serial: serial, What: audit.LoggedTwice, Logged: r.First, Stored: r.Last})
		}
	}
	return twice
}

// silent names the writes of a token that the logs do not tell of.
func silent(serial string, gaps []audit.Gap) (found []Discrepancy) {
	for _, g := range gaps {
		found = append(found, Discrepancy{Serial: serial, What: audit.NotLogged, Logged: g.First - 1, Stored: g.Last})
	}
	return found
}

// unknownTokens finds the tokens that no log tells of, nor any entry that was removed.
func (s *Service) unknownTokens(ctx context.Context, snap store.Snapshot, tokens audit.Tokens) (found []Discrepancy, err error) {
	prefix := recordKey("")
	err = snap.Scan(ctx, prefix, prefix, func(it store.Item) error {
		serial := strings.TrimPrefix(string(it.Key), string(prefix))
		if checkSerial(serial) == nil && tokens[serial] == nil {
			found = append(found, Discrepancy{Serial: serial, What: audit.NotLogged, Stored: 1})
		}
		return nil
	})
	if err != nil {
		return nil, storeError(err)
	}
	return found, nil
}

// compareLive looks whether a token that lives is its subject's live one.
func (s *Service) compareLive(ctx context.Context, snap store.Snapshot, r record) (Discrepancy, error) {
	d := Discrepancy{Serial: r.Serial, What: "live token"}
	if r.Serial == "" || r.Status == Deactivated {
		return d, nil
	}
	d.Logged = 1
	p, err := stored(ctx, snap, liveKey(r.Class, r.kind(), r.Subject), func(it store.Item) (pointer, error) { return unmac[pointer](s, it, "live token") })
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
