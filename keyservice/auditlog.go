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

// LoggedEntry is one entry of the audit log with its index. An entry that was changed or removed in the database stands
// as one of outcome audit.Tampered that says so.
type LoggedEntry struct {
	Index uint64
	audit.Entry
}

// Reasons of entries that stand for what is no longer there.
const (
	entryChanged = "audit entry changed"
	entryMissing = "audit entry missing"
)

var errPageFull = errors.New("the page is full")

// AuditEntries returns up to limit (1 to MaxAuditPage) entries of the log, from the index from on.
func (s *Service) AuditEntries(ctx context.Context, c authz.Caller, from uint64, limit int) ([]LoggedEntry, error) {
	if err := s.authorise(ctx, c, authz.ReadAudit, ""); err != nil {
		return nil, err
	}
	if limit < 1 || limit > MaxAuditPage {
		return nil, &Error{Code: CodeInvalid, Detail: "limit must be between 1 and 1000"}
	}
	end, err := s.commit(ctx, c, authz.ReadAudit, decision{entry: audit.Entry{Outcome: audit.Done}})
	if err != nil {
		return nil, err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	page := []LoggedEntry{}
	err = s.scanLog(ctx, snap, from, end, func(e LoggedEntry) error {
		if page = append(page, e); len(page) == limit {
			return errPageFull
		}
		return nil
	})
	if err != nil && !errors.Is(err, errPageFull) {
		return nil, storeError(err)
	}
	return page, nil
}

// scanLog calls fn for every index from from to end, and beyond if the log goes on. Entries that were changed, and
// indexes up to end that have none, come as what they are.
func (s *Service) scanLog(ctx context.Context, snap store.Snapshot, from, end uint64, fn func(LoggedEntry) error) error {
	next := from
	missing := func(until uint64) error {
		for ; next < until; next++ {
			if err := fn(LoggedEntry{next, audit.Entry{Outcome: audit.Tampered, Reason: entryMissing}}); err != nil {
				return err
			}
		}
		return nil
	}
	err := snap.Scan(ctx, audit.Prefix, audit.EntryKey(from), func(it store.Item) error {
		index, e, err := s.Audit.Open(it)
		if err != nil {
			e = audit.Entry{Outcome: audit.Tampered, Reason: entryChanged}
			if index > end || index < next { // a row that never was one of the log's
				return fn(LoggedEntry{index, e})
			}
		}
		if err := missing(index); err != nil {
			return err
		}
		next = index + 1
		return fn(LoggedEntry{index, e})
	})
	if err != nil {
		return err
	}
	return missing(end + 1)
}
