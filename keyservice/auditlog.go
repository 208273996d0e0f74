package keyservice

import (
	"context"
	"errors"
	"math"
	"slices"
	"sort"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// MaxAuditPage is the most entries one call of AuditEntries returns.
const MaxAuditPage = 1000

// LoggedEntry is one entry of its node's log with its index. An entry that was changed or removed in the database stands
// as one of outcome audit.Tampered that says so.
type LoggedEntry struct {
	Index uint64
	audit.Entry
}

// genuine tells an entry from what stands for one that was changed or removed.
func (e LoggedEntry) genuine() bool { return e.Schema != 0 }

// AuditLog is the log of one node.
type AuditLog struct {
	Node    string
	Entries uint64 // its indexes are below this
}

// Reasons of entries that stand for what is no longer there.
const (
	entryChanged = "audit entry changed"
	entryMissing = "audit entry missing"
)

var errPageFull = errors.New("the page is full")

// AuditLogs returns the logs of all nodes, in the order of their names.
func (s *Service) AuditLogs(ctx context.Context, c authz.Caller) (logs []AuditLog, err error) {
	err = s.readLogs(ctx, c, func(_ store.Snapshot, all []AuditLog) error {
		logs = all
		return nil
	})
	return logs, err
}

// AuditEntries returns up to limit (1 to MaxAuditPage) entries of a node's log, from the index from on. The node may be
// empty if there is only one log.
func (s *Service) AuditEntries(ctx context.Context, c authz.Caller, node string, from uint64, limit int) ([]LoggedEntry, error) {
	page := []LoggedEntry{}
	err := s.readLogs(ctx, c, func(snap store.Snapshot, logs []AuditLog) error {
		if limit < 1 || limit > MaxAuditPage {
			return &Error{Code: CodeInvalid, Detail: "limit must be between 1 and 1000"}
		}
		log, err := logOf(logs, node)
		if err != nil {
			return err
		}
		err = s.scanLog(ctx, snap, log, from, func(e LoggedEntry) error {
			if page = append(page, e); len(page) == limit {
				return errPageFull
			}
			return nil
		})
		if errors.Is(err, errPageFull) {
			return nil
		}
		return err
	})
	return page, err
}

// readLogs calls fn with a snapshot in which this reading is logged, and the logs there.
func (s *Service) readLogs(ctx context.Context, c authz.Caller, fn func(store.Snapshot, []AuditLog) error) error {
	if err := s.authorise(ctx, c, authz.ReadAudit, ""); err != nil {
		return err
	}
	end, err := s.commit(ctx, c, authz.ReadAudit, decision{entry: audit.Entry{Outcome: audit.Done}})
	if err != nil {
		return err
	}
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return storeError(err)
	}
	defer snap.Close()
	logs, _, err := s.logs(ctx, snap, end)
	if err == nil {
		err = fn(snap, logs)
	}
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return storeError(err)
}

// logOf finds a node's log.
func logOf(logs []AuditLog, node string) (AuditLog, error) {
	var names []string
	for _, l := range logs {
		if l.Node == node || node == "" && len(logs) == 1 {
			return l, nil
		}
		names = append(names, l.Node)
	}
	return AuditLog{}, &Error{Code: CodeInvalid, Detail: "each node has a log of its own: name one of " + strings.Join(names, ", ")}
}

// logs finds the logs in a snapshot that holds this node's entry of index end, and the keys that belong to none. To go
// from one log to the next takes a look at one row each.
func (s *Service) logs(ctx context.Context, snap store.Snapshot, end uint64) (logs []AuditLog, stray []store.Key, err error) {
	nodes := []string{s.Node}
	for from := audit.Prefix; ; {
		key, err := firstKey(ctx, snap, audit.Prefix, from)
		if err != nil {
			return nil, nil, err
		}
		if key == "" {
			break
		}
		p, err := audit.PositionOf(key)
		if store.CheckNode(p.Node) != nil || err != nil {
			stray, from = append(stray, key), key+"\x00"
			continue
		}
		nodes, from = append(nodes, p.Node), store.Key(strings.TrimSuffix(string(audit.NodePrefix(p.Node)), "/")+"0") // "0" follows "/"
	}
	slices.Sort(nodes)
	for _, node := range slices.Compact(nodes) {
		entries := end + 1
		if node != s.Node {
			if entries, err = s.logEnd(ctx, snap, node); err != nil {
				return nil, nil, err
			}
		}
		logs = append(logs, AuditLog{node, entries})
	}
	return logs, stray, nil
}

// firstKey returns the first key with the prefix at or after from; empty if there is none.
func firstKey(ctx context.Context, snap store.Snapshot, prefix, from store.Key) (first store.Key, err error) {
	err = snap.Scan(ctx, prefix, from, func(it store.Item) error {
		first = it.Key
		return errFound
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return first, err
}

// logEnd finds the index after a log's last genuine entry: by bisection, because nothing reads a log of many millions
// backwards.
func (s *Service) logEnd(ctx context.Context, snap store.Snapshot, node string) (uint64, error) {
	var failed error
	end := sort.Search(math.MaxInt, func(index int) bool {
		err := s.scanGenuine(ctx, snap, audit.Position{Node: node, Index: uint64(index)}, func(LoggedEntry) error { return errFound })
		if err != nil && !errors.Is(err, errFound) {
			failed = err
		}
		return err == nil
	})
	return uint64(end), failed
}

// scanGenuine calls fn for the entries of a log from a position on. Rows that are not what a node wrote are left out:
// comparing the log finds them.
func (s *Service) scanGenuine(ctx context.Context, snap store.Snapshot, from audit.Position, fn func(LoggedEntry) error) error {
	return snap.Scan(ctx, audit.NodePrefix(from.Node), audit.EntryKey(from), func(it store.Item) error {
		p, e, err := s.Audit.Open(it)
		if err != nil {
			return nil
		}
		return fn(LoggedEntry{p.Index, e})
	})
}

// scanLog calls fn for every index of a log from from on. Entries that were changed, and indexes that have none, come as
// what they are; so do rows that never were the log's.
func (s *Service) scanLog(ctx context.Context, snap store.Snapshot, log AuditLog, from uint64, fn func(LoggedEntry) error) error {
	next := from
	tampered := func(index uint64, reason string) error {
		return fn(LoggedEntry{index, audit.Entry{Node: log.Node, Outcome: audit.Tampered, Reason: reason}})
	}
	missing := func(until uint64) error {
		for ; next < until; next++ {
			if err := tampered(next, entryMissing); err != nil {
				return err
			}
		}
		return nil
	}
	first := audit.EntryKey(audit.Position{Node: log.Node, Index: from})
	err := snap.Scan(ctx, audit.NodePrefix(log.Node), first, func(it store.Item) error {
		p, e, err := s.Audit.Open(it)
		if err != nil && (p.Index >= log.Entries || p.Index < next) {
			return tampered(p.Index, entryChanged)
		}
		if err := missing(p.Index); err != nil {
			return err
		}
		next = p.Index + 1
		if err != nil {
			return tampered(p.Index, entryChanged)
		}
		return fn(LoggedEntry{p.Index, e})
	})
	if err != nil {
		return err
	}
	return missing(log.Entries)
}
