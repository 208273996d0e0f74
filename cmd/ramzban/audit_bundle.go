package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
)

// verifyBundle checks a bundle of proofs and says what it proves.
func verifyBundle(out io.Writer, keys []audit.PublicKey, q verifying) error {
	text, err := archive.ReadPlain(q.bundle, archive.MaxBundle)
	if err != nil {
		return err
	}
	bundle, proven, err := archive.OpenBundle(text, keys)
	if err == nil && q.installation != "" && bundle.Installation != q.installation {
		err = fmt.Errorf("%w: it is of the installation %s", archive.ErrBundle, bundle.Installation)
	}
	if errors.Is(err, archive.ErrBundle) {
		return fmt.Errorf("%w: %s: %w", errNotSigned, q.bundle, err)
	}
	if err != nil {
		return err
	}
	if q.asJSON {
		return printJSON(out, provenEntries(bundle.Installation, proven))
	}
	for _, p := range proven {
		if _, err := fmt.Fprint(out, sayProven(p)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "proven: %s of token %s, installation %s\n", countedAs(len(proven), "entry", "entries"), bundle.Serial, bundle.Installation)
	return err
}

// provenEntry is a proven entry as --json prints it.
type provenEntry struct {
	Node     string    `json:"node"`
	Index    uint64    `json:"index"`
	Time     time.Time `json:"time"`
	Actor    string    `json:"actor"`
	Action   string    `json:"action"`
	Outcome  string    `json:"outcome"`
	Reason   string    `json:"reason,omitempty"`
	Serial   string    `json:"serial,omitempty"`
	Use      string    `json:"use,omitempty"`
	Signed   uint64    `json:"signed"`
	SignedAt time.Time `json:"signed_at"`

	Installation string `json:"installation"`
}

func provenEntries(installation string, proven []archive.Statement) (all []provenEntry) {
	for _, p := range proven {
		e := p.Entry
		all = append(all, provenEntry{
			Node: e.Node, Index: p.Index, Time: time.UnixMilli(e.Time).UTC(), Actor: e.Actor, Action: e.Action, Outcome: string(e.Outcome),
			Reason: e.Reason, Serial: e.Serial, Use: e.Use, Signed: p.Signed, SignedAt: p.By.UTC(), Installation: installation,
		})
	}
	return all
}

// sayProven says what was proven in three lines.
func sayProven(p archive.Statement) string {
	e := p.Entry
	outcome := string(e.Outcome)
	if e.Reason != "" {
		outcome += ": " + e.Reason
	}
	return fmt.Sprintf("%s  %s by %s: %s\n  token %s, use %s\n  entry %d of %s, in the log of %d entries signed %s\n",
		time.UnixMilli(e.Time).UTC().Format(time.RFC3339), e.Action, e.Actor, outcome, e.Serial, e.Use, p.Index, e.Node, p.Signed,
		p.By.UTC().Format(time.RFC3339))
}
