package keyservice

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// MaxAuditPage is the most entries one call of AuditEntries returns; maxScanned is the most it looks at.
const (
	MaxAuditPage = 1000
	maxScanned   = 20_000
)

// LoggedEntry is one entry of its node's log with its index. An entry that was changed or removed in the database stands
// as one of outcome audit.Tampered that says so.
type LoggedEntry struct {
	Index uint64
	audit.Entry
}

// Genuine tells an entry from what stands for one that was changed or removed.
func (e LoggedEntry) Genuine() bool { return e.Schema != 0 }

// AuditLog is the log of one node.
type AuditLog struct {
	Node    string
	First   uint64 // older entries were removed from the database, on purpose: they are in the archive
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

// AuditQuery says which entries of a log are wanted. Entries that were changed or removed in the database come whatever
// else it says: nobody knows what they told.
type AuditQuery struct {
	Node  string // whose log; may be empty if there is only one
	From  uint64 // the first index
	Limit int    // how many at most, 1 to MaxAuditPage; a stream has no limit

	// The zero value of each of these asks for any.
	Serial, Action, Actor string
	Outcome               audit.Outcome
	Since, Until          time.Time // of the deciding node's clock; until then and not at that moment
}

// check looks at what is asked for.
func (q AuditQuery) check() error {
	if q.Serial == "" {
		return nil
	}
	return checkSerial(q.Serial)
}

// wants tells whether an entry is asked for.
func (q AuditQuery) wants(e LoggedEntry) bool {
	about := func(p audit.Part) bool { return p.Serial == q.Serial }
	at := time.UnixMilli(e.Time)
	return !e.Genuine() ||
		(q.Serial == "" || e.Serial == q.Serial || slices.ContainsFunc(e.Also, about)) &&
			(q.Action == "" || e.Action == q.Action) && (q.Actor == "" || e.Actor == q.Actor) &&
			(q.Outcome == "" || e.Outcome == q.Outcome) &&
			!at.Before(q.Since) && (q.Until.IsZero() || at.Before(q.Until))
}

// AuditPage is some of the entries that a query asks for. Who reads on does so from Next; there are no more when that is
// End, the number of entries that the log had.
type AuditPage struct {
	Entries   []LoggedEntry
	Next, End uint64
}

// AuditEntries returns entries of a node's log. A page may be short, or empty, before the log ends: so that a query which
// few entries answer takes no longer than another, at most maxScanned are looked at.
func (s *Service) AuditEntries(ctx context.Context, c authz.Caller, q AuditQuery) (AuditPage, error) {
	var page AuditPage
	err := s.readLogs(ctx, c, func(snap store.Snapshot, logs []AuditLog) error {
		if q.Limit < 1 || q.Limit > MaxAuditPage {
			return &Error{Code: CodeInvalid, Detail: "limit must be between 1 and 1000"}
		}
		if err := q.check(); err != nil {
			return err
		}
		log, err := logOf(logs, q.Node)
		if err != nil {
			return err
		}
		page, err = s.page(ctx, snap, log, q)
		return err
	})
	return page, err
}

// page reads one page of a log.
func (s *Service) page(ctx context.Context, snap store.Snapshot, log AuditLog, q AuditQuery) (AuditPage, error) {
	p := AuditPage{Entries: []LoggedEntry{}, Next: q.From, End: log.Entries}
	scanned := 0
	err := s.scanLog(ctx, snap, log, q.From, func(e LoggedEntry) error {
		if len(p.Entries) == q.Limit || scanned == maxScanned {
			return errPageFull
		}
		scanned++
		p.Next = max(p.Next, e.Index+1) // a row that is no entry has no place
		if q.wants(e) {
			p.Entries = append(p.Entries, e)
		}
		return nil
	})
	if errors.Is(err, errPageFull) {
		err = nil
	} else if err == nil {
		p.Next = max(p.Next, p.End)
	}
	return p, err
}

// AuditStream is all entries of a log that a query asks for, as the log was when the stream was opened.
type AuditStream struct {
	Log   AuditLog
	Pages iter.Seq2[AuditPage, error] // ends after an error
}

// StreamAudit opens a stream. Each page is read when it is asked for, in a moment of its own, so that a slow reader holds
// nothing up; ctx is that of all of them.
func (s *Service) StreamAudit(ctx context.Context, c authz.Caller, q AuditQuery) (AuditStream, error) {
	var log AuditLog
	err := s.readLogs(ctx, c, func(_ store.Snapshot, logs []AuditLog) (err error) {
		if err := q.check(); err != nil {
			return err
		}
		log, err = logOf(logs, q.Node)
		return err
	})
	q.Limit = MaxAuditPage
	return AuditStream{Log: log, Pages: func(yield func(AuditPage, error) bool) {
		for q.From < log.Entries {
			page, err := s.nextPage(ctx, log, q)
			if !yield(page, err) || err != nil {
				return
			}
			q.From = page.Next
		}
	}}, err
}

// nextPage reads a page of a stream; entries that came after the stream was opened are left out.
func (s *Service) nextPage(ctx context.Context, log AuditLog, q AuditQuery) (AuditPage, error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return AuditPage{}, storeError(err)
	}
	defer snap.Close()
	page, err := s.page(ctx, snap, log, q)
	if err != nil {
		return AuditPage{}, storeError(err)
	}
	if page.Next == q.From {
		return AuditPage{}, &Error{Code: CodeLogChanged, Detail: "too many rows stand in the log that are no entries: compare it with the database"}
	}
	page.Entries = slices.DeleteFunc(page.Entries, func(e LoggedEntry) bool { return e.Genuine() && e.Index >= log.Entries })
	return page, nil
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
	var tam *tampered
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.As(err, &tam):
		return s.failed(ctx, c, authz.ReadAudit, "", err)
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
	begin, err := s.beginnings(ctx, snap)
	if err != nil {
		return nil, nil, err
	}
	nodes := slices.AppendSeq([]string{s.Node}, maps.Keys(begin))
	for from := audit.Prefix; ; {
		key, err := firstKey(ctx, snap, audit.Prefix, from)
		if err != nil {
			return nil, nil, storeError(err)
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
				return nil, nil, storeError(err)
			}
		}
		first := begin[node].First
		logs = append(logs, AuditLog{node, first, max(first, entries)})
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
	from = max(from, log.First)
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
