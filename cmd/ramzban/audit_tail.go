package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// followEvery is how often a followed log is asked for what is new.
const followEvery = 2 * time.Second

// watching are the actions of whoever looks at a log: showing them would have no end. Those of one who was denied are shown.
var watching = []string{"audit.read", "audit.checkpoint"}

func auditTailCommand() *cobra.Command {
	var o client.Options
	t := tail{every: followEvery}
	c := &cobra.Command{
		Use:   "tail",
		Short: "Print the last entries of all nodes' logs, and those to come",
		Long: "Prints the last entries of the logs of all nodes in the order of time. With --follow it goes on with those to come, until it\n" +
			"is interrupted; it asks every two seconds, and reading is itself logged. Entries that tell of reading a log, or of\n" +
			"signing it, are left out without --all.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := t.q.check(); err != nil {
				return err
			}
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			t.api, t.out = api, c.OutOrStdout()
			if err := t.run(c.Context()); err != nil && c.Context().Err() == nil {
				return fmt.Errorf("reading the audit log: %w", explainCall(err))
			}
			return nil
		},
	}
	clientFlags(c, &o, "auditor")
	t.q.filterFlags(c)
	f := c.Flags()
	f.StringVar(&t.q.node, "node", "", "only those that node `NAME` decided")
	f.IntVar(&t.q.limit, "limit", 20, "begin with the last `N` entries")
	f.BoolVar(&t.follow, "follow", false, "go on with those to come")
	f.BoolVar(&t.all, "all", false, "also entries that tell of reading a log, or of signing it")
	f.BoolVar(&t.asJSON, "json", false, "print JSON, one entry a line")
	return c
}

// tail prints the end of logs.
type tail struct {
	api                 *client.Client
	out                 io.Writer
	q                   entriesQuery
	every               time.Duration
	follow, all, asJSON bool

	next map[string]uint64 // by node: what was not looked at yet
}

func (t *tail) run(ctx context.Context) error {
	entries, err := t.last(ctx)
	if err != nil {
		return err
	}
	if err := printEntries(t.out, entries, len(t.next), t.asJSON); err != nil {
		return err
	}
	ticks := time.NewTicker(t.every)
	defer ticks.Stop()
	for t.follow {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		if err := t.more(ctx); err != nil {
			return err
		}
	}
	return nil
}

// logs are those that are looked at.
func (t *tail) logs(ctx context.Context) ([]wire.AuditLog, error) {
	answer, err := t.api.AuditLogs(ctx)
	if err != nil {
		return nil, err
	}
	logs := slices.DeleteFunc(answer.Logs, func(l wire.AuditLog) bool { return t.q.node != "" && l.Node != t.q.node })
	if len(logs) == 0 {
		return nil, fmt.Errorf("no node %s has a log", t.q.node)
	}
	return logs, nil
}

// last finds the last entries of all logs together.
func (t *tail) last(ctx context.Context) ([]wire.AuditEntry, error) {
	logs, err := t.logs(ctx)
	if err != nil {
		return nil, err
	}
	t.next = map[string]uint64{}
	var found []wire.AuditEntry
	for _, l := range logs {
		of, err := t.lastOf(ctx, l)
		if err != nil {
			return nil, err
		}
		t.next[l.Node] = l.Entries
		found = append(found, of...)
	}
	byTime(found)
	return found[max(0, len(found)-t.q.limit):], nil
}

// lastOf looks further and further back in a log until it has found enough.
func (t *tail) lastOf(ctx context.Context, l wire.AuditLog) ([]wire.AuditEntry, error) {
	for window := uint64(4 * t.q.limit); ; window *= 4 {
		from := l.Entries - min(l.Entries, window)
		found, err := t.between(ctx, l.Node, from, l.Entries)
		if err != nil {
			return nil, err
		}
		if from == 0 || len(found) >= t.q.limit {
			return found[max(0, len(found)-t.q.limit):], nil
		}
	}
}

// between reads what is to be shown of a part of a log.
func (t *tail) between(ctx context.Context, node string, from, end uint64) ([]wire.AuditEntry, error) {
	q := t.q
	q.node = node
	var found []wire.AuditEntry
	for from < end {
		page, err := t.api.AuditEntries(ctx, q.page(from))
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if e.Index < end && t.shows(e) {
				found = append(found, e)
			}
		}
		from = page.Next
	}
	return found, nil
}

func (t *tail) shows(e wire.AuditEntry) bool {
	return t.all || e.Outcome != "done" || !slices.Contains(watching, e.Action)
}

// more prints what has come since, also of nodes that are new.
func (t *tail) more(ctx context.Context) error {
	logs, err := t.logs(ctx)
	if err != nil {
		return err
	}
	var found []wire.AuditEntry
	for _, l := range logs {
		of, err := t.between(ctx, l.Node, t.next[l.Node], l.Entries)
		if err != nil {
			return err
		}
		t.next[l.Node] = l.Entries
		found = append(found, of...)
	}
	byTime(found)
	if t.asJSON {
		return printJSON(t.out, found)
	}
	return printRows(t.out, found, len(t.next))
}

func byTime(entries []wire.AuditEntry) {
	slices.SortStableFunc(entries, func(a, b wire.AuditEntry) int { return a.Time.Compare(b.Time) })
}
