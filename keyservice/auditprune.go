package keyservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/store"
)

// ActionPruneAudit removes old entries of a node's log from the database. Its parameters are an AuditPrune.
const ActionPruneAudit = audit.PrunedLog

// AuditPrune says which entries are removed: those that were exported and verified.
type AuditPrune struct {
	Node   string `json:"node"`   // whose log
	Before uint64 `json:"before"` // the entry that the log begins with afterwards
	Root   []byte `json:"root"`   // of the tree over the entries before it, as they are in the archive: 32 bytes
}

// auditKept is how long entries stay in the database in any case: repeated requests look for the first decision's.
const auditKept = 7 * 24 * time.Hour

// pruneChunk is how many entries one commit removes, and of about how many tokens at most. It shares its batch with the requests of that moment.
const pruneChunk = 1000

// checkPrune says what is wrong with the parameters.
func (s *Service) checkPrune(ctx context.Context, p approval.Proposal) (*Error, error) {
	var q AuditPrune
	if err := p.Into(&q); err != nil {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameters are node, before and root", Err: err}, nil
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	b, _, err := s.beginningOf(ctx, q.Node)
	if err != nil {
		return nil, err
	}
	if b.First >= q.Before {
		return prunable("the log begins at entry %d already", b.First), nil
	}
	if refusal, err := s.checkArchived(ctx, snap, q); refusal != nil || err != nil {
		return refusal, err
	}
	return s.checkOld(ctx, snap, q)
}

func prunable(format string, a ...any) *Error {
	return &Error{Code: CodeDocumentInvalid, Detail: "the entries cannot be removed: " + fmt.Sprintf(format, a...)}
}

// checkArchived looks whether the archive that was verified holds this log: its tree has the root that was signed here.
func (s *Service) checkArchived(ctx context.Context, snap store.Snapshot, q AuditPrune) (*Error, error) {
	if store.CheckNode(q.Node) != nil {
		return prunable("no node has such a name"), nil
	}
	newest, err := s.storedCheckpoint(ctx, snap, q.Node, nil)
	if err != nil {
		return nil, err
	}
	if q.Before >= uint64(newest.Tree.N) { // the last entry that was signed is looked for at each start
		return prunable("the newest checkpoint of %s tells of %d entries, of which the last one stays", q.Node, newest.Tree.N), nil
	}
	root, err := tlog.TreeHash(int64(q.Before), audit.Hashes(q.Node, newest.Tree, s.tiles(ctx)))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(root[:], q.Root) {
		return prunable("the archive is not of this log"), nil
	}
	return nil, nil
}

// checkOld looks whether the last entry to go is old enough.
func (s *Service) checkOld(ctx context.Context, snap store.Snapshot, q AuditPrune) (*Error, error) {
	now, err := s.earliest(ctx)
	if err != nil {
		return nil, err
	}
	row, err := rowIn(ctx, snap, audit.EntryKey(audit.Position{Node: q.Node, Index: q.Before - 1}))
	if err != nil {
		return nil, storeErrorOf(err)
	}
	_, e, err := s.Audit.Open(row)
	switch {
	case row.Version == 0 || err != nil:
		return prunable("entry %d is not what the node wrote, or is missing: compare the audit log", q.Before-1), nil
	case time.UnixMilli(e.Time).Add(auditKept).After(now):
		return prunable("entry %d is younger than %d days", q.Before-1, auditKept/(24*time.Hour)), nil
	}
	return nil, nil
}

// earliest is the earlier of the node's clock and the store's: a clock that is far ahead removes nothing too early.
func (s *Service) earliest(ctx context.Context) (time.Time, error) {
	now, err := s.Store.Now(ctx)
	if err != nil {
		return time.Time{}, storeError(err)
	}
	if own := s.Clock(); own.Before(now) {
		now = own
	}
	return now, nil
}

// prune removes the entries, the oldest first, and moves the log's beginning in the same commits. What a call that was cut
// short has removed is not there for the next one.
func (s *Service) prune(ctx context.Context, x *execution) (decision, *Error, error) {
	var q AuditPrune
	if err := x.Proposal.Into(&q); err != nil {
		return decision{}, &Error{Code: CodeDocumentInvalid, Detail: "the parameters cannot be read", Err: err}, nil
	}
	for {
		done := false
		err := x.commit(ctx, func() (d decision, err error) {
			d, done, err = s.pruneChunk(ctx, q)
			return d, err
		})
		var tam *tampered
		if errors.As(err, &tam) && (tam.what == auditEntry || tam.what == keptRow) {
			refusal := prunable("some of them were changed or removed: compare the audit log")
			refusal.Err = err
			return decision{}, refusal, nil
		}
		if err != nil {
			return decision{}, nil, err
		}
		if done {
			return decision{entry: audit.Entry{Detail: audit.PrunedUntil(q.Node, q.Before)}}, nil, nil
		}
	}
}

// pruneChunk decides to remove the next entries; done says that they are the last ones.
func (s *Service) pruneChunk(ctx context.Context, q AuditPrune) (d decision, done bool, err error) {
	ring := s.ring.Load()
	b, require, err := s.beginningOf(ctx, q.Node)
	if err != nil {
		return decision{}, false, err
	}
	from, until := b.First, min(q.Before, b.First+pruneChunk)
	keys, said, err := s.leaving(ctx, q.Node, &b, until)
	if err != nil {
		return decision{}, false, err
	}
	change := store.Change{Require: []store.Require{require}, Delete: keys}
	if err := s.keep(ctx, said, &change, &b); err != nil {
		return decision{}, false, err
	}
	row, err := s.mac(require.Key, b)
	change.Put = append(change.Put, row)
	return decision{
		ring:   ring,
		change: change,
		entry:  audit.Entry{Detail: audit.PrunedEntries(q.Node, from, b.First)},
	}, b.First >= q.Before, err
}

const auditEntry = "audit entry" // as errors name it

// leaving finds the rows that go, and what they say of tokens and of dual control, and moves the beginning behind them. An entry that was changed or removed in the database
// is left where it is, and so are all after it: what happened there must be found out first.
func (s *Service) leaving(ctx context.Context, node string, b *beginning, until uint64) (keys []store.Key, said map[string]audit.Kept, err error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, nil, storeError(err)
	}
	defer snap.Close()
	said = map[string]audit.Kept{}
	from := audit.EntryKey(audit.Position{Node: node, Index: b.First})
	err = snap.Scan(ctx, audit.NodePrefix(node), from, func(it store.Item) error {
		if b.First >= until || len(said) >= pruneChunk {
			return errChunkFull
		}
		p, e, err := s.Audit.Open(it)
		if err == nil && p.Index != b.First {
			err = fmt.Errorf("%w: entry %d of %s is missing", audit.ErrTampered, b.First, node)
		}
		if err != nil {
			return &tampered{what: auditEntry, err: err}
		}
		keys = append(keys, it.Key)
		b.First, b.Until = p.Index+1, max(b.Until, e.Time)
		for serial, k := range audit.Said(e) {
			said[serial] = said[serial].And(k)
		}
		for key, k := range saidOfControl(e) {
			said[string(key)] = said[string(key)].And(k)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return nil, nil, err
	}
	if b.First < until && len(said) < pruneChunk {
		return nil, nil, &tampered{what: auditEntry, err: fmt.Errorf("%w: entry %d of %s is missing", audit.ErrTampered, b.First, node)}
	}
	return keys, said, nil
}
