package archive

import (
	"fmt"
	"strings"
	"time"
)

// What a finding says is wrong.
const (
	EntryUnreadable   = "entry cannot be read"
	EntryMissing      = "entry missing"
	EntryStrange      = "inserted or out of order"
	EntryChanged      = "entry changed"
	EntryForeign      = "entry of another node"
	LineChanged       = "line does not say what its leaf says"
	FileMissing       = "file missing"
	FileCut           = "file cut short or too long"
	FileStrange       = "file that no export writes"
	HashesChanged     = "hashes changed"
	CheckpointWrong   = "checkpoint cannot be trusted"
	RootWrong         = "entries are not those that were signed"
	Truncated         = "truncated"
	Unsigned          = "covered by no checkpoint"
	KeysStrange       = "keys are not those given"
	WitnessDisagrees  = "not the log that the witness saw"
	WitnessSilent     = "unknown to the witness"
	InstallationOther = "log of another installation"
)

// Finding is one place where an archive is not a log that was signed, or where logs contradict each other.
type Finding struct {
	Node   string  `json:"node"`
	File   string  `json:"file,omitempty"`   // in the node's folder
	Anchor string  `json:"anchor,omitempty"` // the file of the anchor concerned
	Line   int     `json:"line,omitempty"`   // counted from 1
	Index  *uint64 `json:"index,omitempty"`  // of the entry, or of the first one concerned
	Last   *uint64 `json:"last,omitempty"`   // of the last one, if several are concerned
	Serial string  `json:"serial,omitempty"`
	What   string  `json:"what"`
	Detail string  `json:"detail,omitempty"`
}

// String says it in one line.
func (f Finding) String() string {
	var where []string
	switch {
	case f.Anchor != "":
		where = append(where, f.Node, f.Anchor)
	case f.File != "":
		where = append(where, f.Node+"/"+f.File)
	default:
		where = append(where, f.Node)
	}
	if f.Line > 0 {
		where = append(where, fmt.Sprintf("line %d", f.Line))
	}
	switch {
	case f.Index != nil && f.Last != nil:
		where = append(where, fmt.Sprintf("entries %d to %d", *f.Index, *f.Last))
	case f.Index != nil:
		where = append(where, fmt.Sprintf("entry %d", *f.Index))
	}
	if f.Serial != "" {
		where = append(where, "token "+f.Serial)
	}
	said := strings.Join(where, ", ") + ": " + f.What
	if f.Detail != "" {
		said += ": " + f.Detail
	}
	return said
}

// at names an entry, between two the last one too.
func at(index uint64) *uint64 { return &index }

// Log is what was found of one node's log.
type Log struct {
	Node    string    `json:"node"`
	Origin  string    `json:"origin,omitempty"` // that its checkpoints name
	First   uint64    `json:"first"`            // the first entry that is there, and not only its hash
	Entries uint64    `json:"entries"`          // how many the log has; those before First were removed
	Signed  uint64    `json:"signed"`           // how many the newest checkpoint in the archive tells of
	Time    time.Time `json:"time,omitzero"`    // of that checkpoint

	Anchored uint64 `json:"anchored"` // how many of the entries a witness's checkpoint tells of, too
}

// maxFindings bounds the work and the memory that what is wrong can take: of an archive that is wrong throughout, the
// beginning is enough.
const maxFindings = 1000

// Report is the result of a verification.
type Report struct {
	Installation string    `json:"installation"` // whose logs these are, by their checkpoints
	Logs         []Log     `json:"logs"`
	Findings     []Finding `json:"findings"` // empty if every log is what was signed
	Stopped      bool      `json:"stopped"`  // there are 1,000 findings: the rest was not looked at
	Checked      int       `json:"checked"`  // checkpoints that are right, those of witnesses included
}

// full says that enough was found.
func (r *Report) full() bool { return len(r.Findings) >= maxFindings }

func (r *Report) add(f Finding) {
	if r.full() {
		return
	}
	r.Findings = append(r.Findings, f)
	r.Stopped = r.full()
}
