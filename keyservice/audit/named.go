package audit

import (
	"fmt"
	"regexp"
)

// Entries that speak of a log, their own or another node's: whoever has one of them must have that log, too.
const (
	PrunedLog   = "audit.prune" // action: entries of a log were removed from the database
	RestoredLog = "restore.log" // action: how a log goes on after a restore, or that it does not
)

var (
	prunedForm   = regexp.MustCompile(`^(?:entries [0-9]+ to [0-9]+|all before entry [0-9]+) of ([a-z0-9-]+)$`)
	restoredForm = regexp.MustCompile(`^the log of ([a-z0-9-]+) (?:goes on|ends|ended with an earlier restore) at [1-9]`)
)

// PrunedEntries is the detail of an entry that says what was removed.
func PrunedEntries(node string, first, before uint64) string {
	return fmt.Sprintf("entries %d to %d of %s", first, before-1, node)
}

// PrunedUntil is the detail of the entry that says where the log begins now.
func PrunedUntil(node string, before uint64) string {
	return fmt.Sprintf("all before entry %d of %s", before, node)
}

// LogNamedIn returns the node whose log an entry says to have entries; "" if it speaks of none.
func LogNamedIn(e Entry) string {
	form := prunedForm
	switch {
	case e.Outcome != Done, e.Action != PrunedLog && e.Action != RestoredLog:
		return ""
	case e.Action == RestoredLog:
		form = restoredForm
	}
	if m := form.FindStringSubmatch(e.Detail); m != nil {
		return m[1]
	}
	return ""
}
