package archive

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"time"

	"ramzban/keyservice/audit"
)

// Options of Verify.
type Options struct {
	Keys    []audit.PublicKey // that are trusted; at least one
	Anchors []Anchor          // checkpoints that witnesses keep; if there is any, then of every log
	Pruned  bool              // older segments were removed on purpose: what is there is verified
	Report  func(done uint64) // is told how many entries were read, from time to time; may be nil

	Installation string // whose logs they must be; empty: of one installation, whichever it is
}

// Anchor is a checkpoint from elsewhere: what a witness saw.
type Anchor struct {
	Name   string // its file, as findings name it
	Signed []byte // the signed note
}

// Verify makes every tree anew from its entries, holds it against all checkpoints, and the logs against each other. What is
// wrong is in the report; an error means that it could not be looked at. Its memory grows with the number of tokens, about
// 500 bytes each, of which signed entries tell.
func Verify(ctx context.Context, archive fs.FS, o Options) (Report, error) {
	names, err := nodes(archive)
	if err != nil {
		return Report{}, err
	}
	v := &verification{Options: o, report: Report{Findings: []Finding{}}}
	for _, node := range names {
		dir, err := fs.Sub(archive, node)
		if err != nil {
			return Report{}, err
		}
		c, err := list(dir)
		if err != nil {
			return Report{}, err
		}
		v.logs = append(v.logs, &log{verification: v, node: node, dir: dir, contents: c})
	}
	v.anchors()
	if err := v.merge(ctx); err != nil {
		return Report{}, err
	}
	v.finish()
	return v.report, nil
}

// verification is one run of Verify.
type verification struct {
	Options // Installation is that of the first checkpoint, if none was given
	report  Report
	logs    []*log
	tokens  audit.Tokens
	named   map[string]logged // logs that entries speak of, and where
	read    uint64
}

// logged is an entry that could be read, and where it stands.
type logged struct {
	audit.Entry
	index uint64
	file  string
	line  int
}

// merge reads all logs at once, about in the order of time, so that what they say of one token comes together.
func (v *verification) merge(ctx context.Context) error {
	v.tokens, v.named = audit.Tokens{}, map[string]logged{}
	var sources []*source
	for _, l := range v.logs {
		next, stop := iter.Pull(l.entries(ctx))
		defer stop()
		sources = append(sources, &source{next: next})
	}
	for {
		var first *source
		for _, s := range sources {
			if s.fill(); s.full && (first == nil || s.entry.Time < first.entry.Time) {
				first = s
			}
		}
		if first == nil || v.report.full() {
			return v.failed()
		}
		v.remember(first.entry)
		first.full = false
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// failed returns why a log could not be read to its end.
func (v *verification) failed() error {
	for _, l := range v.logs {
		if l.err != nil {
			return fmt.Errorf("reading the archive of %s: %w", l.node, l.err)
		}
	}
	return nil
}

// source is one log being read, and its next entry.
type source struct {
	next  func() (logged, bool)
	entry logged
	full  bool // entry is there
}

func (s *source) fill() {
	if !s.full {
		s.entry, s.full = s.next()
	}
}

// reportEvery is how many entries are read between two reports.
const reportEvery = 1 << 14

func (v *verification) remember(e logged) {
	for _, c := range v.tokens.Remember(e.Entry) {
		v.report.add(Finding{Node: e.Node, File: e.file, Line: e.line, Index: at(e.index), Serial: c.Serial, What: c.What})
	}
	if named := audit.LogNamedIn(e.Entry); named != "" && len(v.named) < maxNodes {
		v.named[named] = e
	}
	if v.read++; v.Report != nil && v.read%reportEvery == 0 {
		v.Report(v.read)
	}
}

// finish adds what only all logs together tell.
func (v *verification) finish() {
	until := int64(0)
	whole := true
	for _, l := range v.logs {
		v.report.Logs = append(v.report.Logs, l.Log)
		if signed := l.Time.UnixMilli(); until == 0 || signed < until {
			until = signed
		}
		whole = whole && l.First == 0 && l.Signed > 0 && l.told == l.Entries
	}
	v.absent()
	if whole {
		v.silent(until)
	}
	slices.SortStableFunc(v.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(value(a.Index), value(b.Index)))
	})
}

// absent finds logs that entries of others speak of, and that are not there.
func (v *verification) absent() {
	for node, e := range v.named {
		if !slices.ContainsFunc(v.logs, func(l *log) bool { return l.node == node }) {
			v.report.add(Finding{Node: node, What: FileMissing, Detail: fmt.Sprintf("entry %d of %s speaks of this log: export it, too", e.index, e.Node)})
		}
	}
}

func value(index *uint64) uint64 {
	if index == nil {
		return 0
	}
	return *index
}

// skew is how far the clocks of two nodes may be apart here. It is far more than the service tolerates.
const skew = time.Hour

// silent finds writes that no log tells of, though each log reaches beyond their time: entries, or a whole log, are missing.
// Where a log begins later than at entry 0 nothing can be said.
func (v *verification) silent(until int64) {
	for serial, w := range v.tokens {
		for _, g := range w.Silent(w.Revisions.End().Last, w.States.End().Last) {
			if g.Until+skew.Milliseconds() < until {
				v.report.add(Finding{Node: "all", Serial: serial, What: audit.NotLogged, Detail: fmt.Sprintf("writes %d to %d of the token are in no log: is one missing?", g.First, g.Last)})
			}
		}
	}
}
