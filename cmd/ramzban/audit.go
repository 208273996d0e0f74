package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
)

func auditCommand() *cobra.Command {
	return group("audit", "The auditor's view: what was decided, and whether it is still as it was signed",
		auditEntriesCommand(), auditTailCommand(), auditCompareCommand(), auditExportCommand(),
		auditVerifyCommand(), auditProveCommand(), auditReceiptCommand(), auditPruneCommand())
}

func auditEntriesCommand() *cobra.Command {
	var o client.Options
	var q entriesQuery
	var asJSON bool
	c := &cobra.Command{
		Use:   "entries",
		Short: "Print entries of the audit log",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := q.check(); err != nil {
				return err
			}
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			entries, logs, err := readEntries(c.Context(), api, q)
			if err != nil {
				return fmt.Errorf("reading the audit log: %w", explainCall(err))
			}
			return showEntries(c.OutOrStdout(), c.ErrOrStderr(), entries, q.limit, logs, asJSON)
		},
	}
	clientFlags(c, &o, "auditor")
	f := c.Flags()
	f.StringVar(&q.node, "node", "", "only those that node `NAME` decided; without it, those of all nodes in the order of time")
	f.Uint64Var(&q.from, "from", 0, "the first entry's `INDEX`; with several nodes only together with --node")
	f.IntVar(&q.limit, "limit", 100, "print at most `N` entries")
	q.filterFlags(c)
	f.BoolVar(&asJSON, "json", false, "print JSON, one entry a line")
	return c
}

// entriesQuery says which entries are asked for.
type entriesQuery struct {
	node  string // whose; empty: all nodes'
	from  uint64 // the first index
	limit int    // how many are shown

	// The zero value of each of these is any.
	serial, action, actor, outcome string
	since, until                   moment
}

// filterFlags adds what entries can be asked for by.
func (q *entriesQuery) filterFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&q.serial, "serial", "", "only those of one token's `SERIAL`")
	f.StringVar(&q.action, "action", "", "only those of one `ACTION`, such as otp.verify")
	f.StringVar(&q.actor, "actor", "", "only those that one `CLIENT` asked for")
	f.StringVar(&q.outcome, "outcome", "", "only those that ended in one `OUTCOME`, such as refused")
	f.Var(&q.since, "since", "only those from this `TIME` on: 2026-11-22T10:00:00Z, or a date")
	f.Var(&q.until, "until", "only those before this `TIME`")
}

// moment is a time as a flag.
type moment struct{ time.Time }

// Set is part of a flag's value.
func (m *moment) Set(text string) (err error) {
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if m.Time, err = time.Parse(layout, text); err == nil {
			return nil
		}
	}
	return errors.New("a time is written as 2026-11-22T10:00:00Z, or as a date; without a zone it is UTC")
}

// String is part of a flag's value.
func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

// Type is part of a flag's value.
func (m *moment) Type() string { return "time" }

// page is what the service is asked for.
func (q entriesQuery) page(from uint64) client.AuditQuery {
	return client.AuditQuery{
		Node: q.node, From: from, Limit: auditPage, Serial: q.serial, Action: q.action, Actor: q.actor, Outcome: q.outcome,
		Since: q.since.Time, Until: q.until.Time,
	}
}

func (q entriesQuery) check() error {
	if q.limit < 1 {
		return fmt.Errorf("--limit must be 1 or more, not %d", q.limit)
	}
	if q.serial == "" {
		return nil
	}
	if err := checkSerial(q.serial); err != nil {
		return fmt.Errorf("--serial: %w", err)
	}
	return nil
}

// showEntries prints at most limit entries of so many logs, and says beside them if there are none or more.
func showEntries(out, notes io.Writer, entries []wire.AuditEntry, limit, logs int, asJSON bool) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(notes, "no entries")
		return err
	}
	if err := printEntries(out, entries[:min(limit, len(entries))], logs, asJSON); err != nil {
		return err
	}
	if len(entries) <= limit {
		return nil
	}
	next := fmt.Sprintf("--from %d", entries[limit].Index)
	if logs > 1 {
		next = "--limit with a higher number, or --node NAME --from INDEX"
	}
	_, err := fmt.Fprintln(notes, "more entries follow:", next)
	return err
}

// auditPage is how many entries are asked for at once.
const auditPage = 500

// readEntries reads until it has more entries than the limit, or there are none left. Those of several logs come in the
// order of time. It also returns of how many logs.
func readEntries(ctx context.Context, api *client.Client, q entriesQuery) (found []wire.AuditEntry, logs int, err error) {
	nodes := []string{q.node}
	if q.node == "" {
		if nodes, err = nodesOf(ctx, api); err != nil {
			return nil, 0, err
		}
	}
	if len(nodes) > 1 && q.from > 0 {
		return nil, 0, fmt.Errorf("--from counts in one node's log: add --node, one of %s", strings.Join(nodes, ", "))
	}
	for _, q.node = range nodes {
		of, err := readLog(ctx, api, q)
		if err != nil {
			return nil, 0, err
		}
		found = append(found, of...)
	}
	if len(nodes) > 1 {
		slices.SortStableFunc(found, func(a, b wire.AuditEntry) int { return a.Time.Compare(b.Time) })
	}
	return found, len(nodes), nil
}

func nodesOf(ctx context.Context, api *client.Client) ([]string, error) {
	answer, err := api.AuditLogs(ctx)
	var nodes []string
	for _, l := range answer.Logs {
		nodes = append(nodes, l.Node)
	}
	return nodes, err
}

// readLog reads one log until it has more entries than the limit, or the log ends.
func readLog(ctx context.Context, api *client.Client, q entriesQuery) ([]wire.AuditEntry, error) {
	var found []wire.AuditEntry
	for from := q.from; len(found) <= q.limit; {
		page, err := api.AuditEntries(ctx, q.page(from))
		if err != nil {
			return nil, err
		}
		found = append(found, page.Entries...)
		if page.Next >= page.End {
			break
		}
		from = page.Next
	}
	return found, nil
}

// printEntries writes a table of 80 columns, or one JSON object a line. With several logs, each entry's node stands at its
// end.
func printEntries(w io.Writer, entries []wire.AuditEntry, logs int, asJSON bool) error {
	if asJSON {
		return printJSON(w, entries)
	}
	if _, err := fmt.Fprintln(w, auditRow("INDEX", "TIME (UTC)", "ACTOR", "ACTION", "OUTCOME", "SERIAL")); err != nil {
		return err
	}
	return printRows(w, entries, logs)
}

// printRows writes a table's rows.
func printRows(w io.Writer, entries []wire.AuditEntry, logs int) error {
	for _, e := range entries {
		outcome := e.Outcome
		if e.Reason != "" {
			outcome += ": " + e.Reason
		}
		if logs > 1 {
			outcome += " (" + e.Node + ")"
		}
		row := auditRow(fmt.Sprint(e.Index), e.Time.UTC().Format(time.DateTime), e.Actor, e.Action, outcome, e.Serial)
		if more := told(e); more != "" {
			indent := "\n" + strings.Repeat(" ", auditIndent)
			row += indent + strings.Join(fold(more, columns-auditIndent), indent)
		}
		if _, err := fmt.Fprintln(w, row); err != nil {
			return err
		}
	}
	return nil
}

// told is what an entry says in words, after the beginning of the proposal that it belongs to.
func told(e wire.AuditEntry) string {
	if e.Proposal == "" {
		return e.Detail
	}
	return strings.TrimSpace(e.Proposal[:min(8, len(e.Proposal))] + "… " + e.Detail)
}

// auditIndent is where the second line of a row begins.
const auditIndent = 27

// auditRow puts what does not fit beside the rest on a second line.
func auditRow(index, at, actor, action, outcome, serial string) string {
	row := fmt.Sprintf("%6s %-19s %-12s %-16s %-12s", index, at, actor, action, serial)
	if len(row)+1+len(outcome) <= 80 {
		return strings.TrimRight(row+" "+outcome, " ")
	}
	return strings.TrimRight(row, " ") + "\n" + strings.Repeat(" ", auditIndent) + outcome
}

func auditCompareCommand() *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "compare",
		Short: "Compare the database with the audit logs of all nodes; fails if they differ",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			// The service gives up first, after its timeouts.comparison.
			ctx, cancel := context.WithTimeout(c.Context(), maxComparison+time.Minute)
			defer cancel()
			answer, err := api.CompareAudit(ctx)
			if err != nil {
				return fmt.Errorf("comparing the audit log: %w", explainCall(err))
			}
			return printComparison(c.OutOrStdout(), answer.Discrepancies, asJSON)
		},
	}
	clientFlags(c, &o, "auditor")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one discrepancy a line")
	return c
}

func printComparison(w io.Writer, found []wire.Discrepancy, asJSON bool) error {
	if asJSON {
		if err := printJSON(w, found); err != nil {
			return err
		}
	} else if err := printDiscrepancies(w, found); err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("the database is not what the audit log says in %d places: suspend those tokens and find out who changed it", len(found))
	}
	return nil
}

func printDiscrepancies(w io.Writer, found []wire.Discrepancy) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(w, "the database agrees with the audit log")
		return err
	}
	for _, d := range found {
		if _, err := fmt.Fprintln(w, describe(d)); err != nil {
			return err
		}
	}
	return nil
}

// describe says what is wrong in words.
func describe(d wire.Discrepancy) string {
	where := d.Serial
	switch {
	case d.Proposal != "":
		where = "proposal " + d.Proposal
	case d.What == "officers":
		where = "dual control"
	}
	if d.Node != "" {
		where = strings.TrimSpace(fmt.Sprintf("%s  entry %d of %s", where, d.Logged, d.Node))
	}
	switch {
	case d.Node != "":
		return fmt.Sprintf("%s: %s", where, d.What)
	case d.What == "logged twice":
		return fmt.Sprintf("%s  %s, under another token too: guesses among %d to %d", where, d.What, d.Logged, d.Stored)
	case d.What == "not logged":
		return fmt.Sprintf("%s  %s: writes %d to %d", where, d.What, d.Logged+1, d.Stored)
	}
	return fmt.Sprintf("%s  %s: the log says %d, the database %d", where, d.What, d.Logged, d.Stored)
}

func printJSON[T any](w io.Writer, list []T) error {
	enc := json.NewEncoder(w)
	for _, v := range list {
		if err := enc.Encode(v); err != nil {
			return err
		}
	}
	return nil
}
