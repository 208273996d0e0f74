package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz/approval"
)

// clearWords say what each action would do, as an officer would. An action that is not here is named as it is.
var clearWords = map[string]string{
	keyservice.ActionOfficers:    "change who the officers are",
	keyservice.ActionRotate:      "make new things under another version of a master key",
	keyservice.ActionRetire:      "retire a version of a master key: write nothing under it",
	keyservice.ActionDestroy:     "DESTROY a version of a master key for ever: backups may need it",
	keyservice.ActionFeed:        "let officers feed card numbers to a rotation of lookup",
	keyservice.ActionImportClear: "let officers send a maker's file of seeds IN CLEAR",
	"restore":                    "restore a backup",
	"audit.prune":                "delete archived entries of an audit log",
}

func inClearWords(action string) string {
	if words, known := clearWords[action]; known {
		return words
	}
	return action
}

// shortID is as much of an id as tells proposals apart for people.
func shortID(id string) string { return id[:min(len(id), 12)] }

const columns = 80

// printProposals writes a table of 80 columns, or one JSON object a line.
func printProposals(w, notes io.Writer, list []wire.Proposal, all, asJSON bool) error {
	if !all {
		list = slices.DeleteFunc(slices.Clone(list), func(p wire.Proposal) bool { return p.Status != "waiting" })
	}
	if asJSON {
		return printJSON(w, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(notes, "nothing waits for an approval")
		return err
	}
	row := func(id, status, by, expires, what string) string {
		return cut(fmt.Sprintf("%-12s %-9s %-12s %-16s %s", id, status, by, expires, what), columns)
	}
	rows := []string{row("ID", "STATUS", "PROPOSED BY", "EXPIRES (UTC)", "WHAT")}
	for _, p := range list {
		rows = append(rows, row(shortID(p.ID), p.Status, cut(p.Proposer, 12), p.ExpiresAt.UTC().Format("2006-01-02 15:04"), p.Action))
		below, err := inShort(p)
		if err != nil {
			return err
		}
		for _, line := range below {
			rows = append(rows, cut(strings.Repeat(" ", 13)+line, columns))
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(rows, "\n"))
	return err
}

// printDamaged names what is listed as damaged only.
func printDamaged(notes io.Writer, what string, ids []string) error {
	for _, id := range ids {
		if id == "" {
			id = "(no id)"
		}
		if _, err := fmt.Fprintf(notes, "%s %s is DAMAGED: its row was changed outside the service\n", what, shortID(id)); err != nil {
			return err
		}
	}
	return nil
}

// inShort says what a proposal would do, and its parameters on a line.
func inShort(p wire.Proposal) ([]string, error) {
	document, err := approval.ParseProposal([]byte(p.Proposal.Document))
	if err != nil {
		return nil, err
	}
	names, values, err := parametersOf(document)
	if err != nil {
		return nil, err
	}
	for i := range names {
		values[i] = names[i] + " " + values[i]
	}
	return slices.DeleteFunc([]string{clearWords[p.Action], strings.Join(values, "; ")}, func(line string) bool { return line == "" }), nil
}

// cut shortens a text to so many characters.
func cut(text string, to int) string {
	runes := []rune(strings.TrimRight(text, " "))
	if len(runes) <= to {
		return string(runes)
	}
	return string(runes[:to-1]) + "…"
}

var statusWords = map[string]string{
	"waiting": "waits for another officer's approval", "approved": "approved, and about to be carried out", "running": "being carried out",
	"done": "carried out", "failed": "NOT carried out, and will not be", "withdrawn": "withdrawn by its proposer", "expired": "expired: nobody approved it in time",
}

// printProposal shows a proposal in clear words: everything that its document says, and the document itself.
func printProposal(w io.Writer, p wire.Proposal) error {
	document, err := approval.ParseProposal([]byte(p.Proposal.Document))
	if err != nil {
		return err
	}
	lines := []string{
		field("proposal", p.ID),
		field("what", inClearWords(document.Action)),
	}
	parameters, err := parameterLines(document)
	if err != nil {
		return err
	}
	lines = append(lines, parameters...)
	lines = append(lines,
		field("where", "installation "+document.Installation),
		field("proposed", fmt.Sprintf("by %s, %s", document.Proposer, utc(document.CreatedAt))),
		field("expires", utc(document.ExpiresAt)),
		field("status", statusWords[p.Status]))
	if p.ApprovedAt != nil {
		lines = append(lines, field("approved", fmt.Sprintf("by %s, %s", p.Approver, utc(*p.ApprovedAt))))
	}
	if p.EndedAt != nil {
		lines = append(lines, field("ended", utc(*p.EndedAt)))
	}
	if p.Result != "" {
		lines = append(lines, field("result", p.Result))
	}
	lines = append(lines, field("SHA-256", approval.Digest([]byte(p.Proposal.Document))), "", "The signed text, folded:")
	_, err = fmt.Fprintln(w, strings.Join(append(lines, folded(p.Proposal.Document)...), "\n"))
	return err
}

// field is one line, or several, of a name and what belongs to it.
func field(name, value string) string {
	var lines []string
	for i, part := range fold(value, columns-1-max(len(name), 12)) {
		if i > 0 {
			name = ""
		}
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-12s %s", name, part), " "))
	}
	return strings.Join(lines, "\n")
}

func folded(text string) []string {
	var lines []string
	for _, part := range fold(text, columns-2) {
		lines = append(lines, "  "+part)
	}
	return lines
}

// fold breaks a text into lines of at most so many characters.
func fold(text string, width int) []string {
	lines := []string{}
	for part := range slices.Chunk([]rune(text), width) {
		lines = append(lines, string(part))
	}
	if len(lines) == 0 {
		return []string{""}
	}
	return lines
}

// parameterLines are the parameters, one a line.
func parameterLines(p approval.Proposal) (lines []string, err error) {
	names, values, err := parametersOf(p)
	for i := range names {
		lines = append(lines, field("  "+names[i], values[i]))
	}
	return lines, err
}

// parametersOf returns the parameters' names, and their values with lists separated by commas.
func parametersOf(p approval.Proposal) (names, values []string, err error) {
	var parameters map[string]any
	d := json.NewDecoder(bytes.NewReader(p.Parameters))
	d.UseNumber()
	if err := d.Decode(&parameters); err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		names, values = append(names, strings.ReplaceAll(name, "_", " ")), append(values, plain(parameters[name]))
	}
	return names, values, nil
}

func plain(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		var parts []string
		for _, one := range v {
			parts = append(parts, plain(one))
		}
		return strings.Join(parts, ", ")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// printOutcome says in a line what became of a proposal; a failure is an error.
func printOutcome(w io.Writer, p wire.Proposal) error {
	if p.Status == "failed" {
		return errors.New("approved, but not carried out: " + p.Result)
	}
	line := fmt.Sprintf("%s: %s", shortID(p.ID), statusWords[p.Status])
	if p.Result != "" {
		line += ": " + p.Result
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

func utc(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }
