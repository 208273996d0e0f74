package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
)

// errNotSigned: what was verified is not what the audit key signed.
var errNotSigned = errors.New("the audit log is not what was signed")

// verifying is what the flags of `audit verify` say.
type verifying struct {
	keys    []string // files
	anchors []string // files or folders
	bundle  string   // file
	pruned  bool
	asJSON  bool

	installation string // whose log it must be; empty: any
}

func auditVerifyCommand() *cobra.Command {
	var q verifying
	c := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Verify an exported audit log, or a bundle of proofs, with the public key alone",
		Long: `Verify what ` + "`ramzban audit export`" + ` wrote, for all nodes: the tree over all entries is made anew and
compared with every signed checkpoint. It needs files and the public audit key, no service and no HSM.
Take the key from the ceremony's transcript or from another trusted place, not from the archive.

All that is verified must be of one installation, and the report names it. Where several sign with keys
that you trust, say with --installation which one you mean.

The end of a log that was cut off together with its checkpoints can only be seen with --anchor: the
checkpoints that a witness keeps. With it every log in the folder must have one there.

Exit statuses:
   0  every entry is as it was signed
  65  some are not, or are missing: what and where is said
   1  anything else, such as a file that cannot be read`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := readKeys(q.keys)
			if err != nil {
				return err
			}
			switch {
			case q.bundle != "" && len(args) == 0:
				return verifyBundle(c.OutOrStdout(), keys, q)
			case q.bundle == "" && len(args) == 1:
				return verifyArchive(c.Context(), c.OutOrStdout(), args[0], keys, q)
			}
			return errors.New("name either the archive's folder or, with --bundle, a bundle of proofs")
		},
	}
	f := c.Flags()
	f.StringArrayVar(&q.keys, "key", nil, "`FILE` with a public audit key (PEM); once for each version")
	f.StringArrayVar(&q.anchors, "anchor", nil, "checkpoint that a witness keeps: its `FILE`, or its folder of the installation")
	f.StringVar(&q.installation, "installation", "", "it must be of the installation `ID`, as checkpoints and `backup verify` name it")
	f.StringVar(&q.bundle, "bundle", "", "verify the bundle of proofs in `FILE` instead of an archive")
	f.BoolVar(&q.pruned, "pruned", false, "older segments were removed on purpose: verify the rest")
	f.BoolVar(&q.asJSON, "json", false, "print JSON")
	return c
}

// readKeys reads the files given with --key.
func readKeys(files []string) ([]audit.PublicKey, error) {
	if len(files) == 0 {
		return nil, errors.New("--key is missing: name the file with the public audit key, from the ceremony's transcript")
	}
	var keys []audit.PublicKey
	for _, name := range files {
		text, err := archive.ReadPlain(name, maxGiven)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		some, err := audit.ParsePublicKeys(text)
		if err != nil {
			return nil, fmt.Errorf("--key %s: %w", name, err)
		}
		keys = append(keys, some...)
	}
	return keys, nil
}

func verifyArchive(ctx context.Context, out io.Writer, dir string, keys []audit.PublicKey, q verifying) error {
	anchors, err := readAnchors(q.anchors)
	if err != nil {
		return err
	}
	folder, err := archive.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	report, err := archive.Verify(ctx, folder, archive.Options{Keys: keys, Anchors: anchors, Pruned: q.pruned, Installation: q.installation})
	if err != nil {
		return fmt.Errorf("verifying %s: %w", dir, err)
	}
	if q.asJSON {
		err = printJSON(out, []archive.Report{report})
	} else {
		err = printReport(out, report)
	}
	if err == nil && len(report.Findings) > 0 {
		err = fmt.Errorf("%w: %s", errNotSigned, summary(report))
	}
	return err
}

// printReport says what is wrong, a line each, or in one line that nothing is; and what was looked at.
func printReport(out io.Writer, r archive.Report) error {
	var text strings.Builder
	for _, f := range r.Findings {
		_, _ = fmt.Fprintln(&text, f)
	}
	if len(r.Findings) == 0 { // else the summary is the command's error
		_, _ = fmt.Fprintln(&text, summary(r))
	}
	for _, l := range r.Logs {
		_, _ = fmt.Fprintln(&text, "  "+sayLog(l))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// sayLog says in a line what is there of a log.
func sayLog(l archive.Log) string {
	there := "no entry"
	if l.First < l.Entries {
		there = fmt.Sprintf("entries %d to %d", l.First, l.Entries-1)
	}
	signed, witness := "never signed", ""
	if l.Origin != "" {
		signed = "signed " + l.Time.UTC().Format(time.RFC3339)
	}
	if l.Anchored > 0 {
		witness = fmt.Sprintf(", the witness saw %d", l.Anchored)
	}
	return fmt.Sprintf("%s: %s, %s%s", cmp.Or(l.Origin, l.Node), there, signed, witness)
}

// summary says it all in one line.
func summary(r archive.Report) string {
	entries, first := uint64(0), ""
	for _, l := range r.Logs {
		entries += l.Entries - min(l.First, l.Entries)
		if l.First > 0 {
			first += fmt.Sprintf("; of %s only from entry %d on", l.Node, l.First)
		}
	}
	read := fmt.Sprintf("installation %s, %s, %s, %s%s", cmp.Or(r.Installation, "unknown"), counted(len(r.Logs), "log"),
		countedAs(int(entries), "entry", "entries"), counted(r.Checked, "checkpoint"), first)
	switch n := len(r.Findings); {
	case r.Stopped:
		return fmt.Sprintf("%d places are wrong, and the rest was not looked at (%s)", n, read)
	case n > 0:
		return fmt.Sprintf("%s wrong (%s)", countedAs(n, "place is", "places are"), read)
	}
	return "all is as it was signed: " + read
}

func counted(n int, what string) string { return countedAs(n, what, what+"s") }

func countedAs(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// maxGiven is more than a checkpoint, or a file of public keys, has, in bytes.
const maxGiven = 64 << 10

// readAnchors reads checkpoints of witnesses: files, or the witness's folder.
func readAnchors(names []string) (anchors []archive.Anchor, err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("--anchor: %w", err)
		}
		files := []string{name}
		if info.IsDir() {
			if files, err = checkpointsIn(name); err != nil {
				return nil, fmt.Errorf("--anchor: %w", err)
			}
		}
		for _, file := range files {
			signed, err := archive.ReadPlain(file, maxGiven)
			if err != nil {
				return nil, fmt.Errorf("--anchor: %w", err)
			}
			anchors = append(anchors, archive.Anchor{Name: file, Signed: signed})
		}
	}
	return anchors, nil
}

// checkpointsIn finds the checkpoints that a witness keeps in its folder or in those of the nodes in it. A file that it has
// begun to write, checkpoint.new, is none yet.
func checkpointsIn(dir string) (files []string, err error) {
	for _, form := range []string{"checkpoint", "checkpoint-*.txt", "*/checkpoint", "*/checkpoint-*.txt"} {
		some, err := filepath.Glob(filepath.Join(globbed(dir), form))
		if err != nil {
			return nil, err
		}
		files = append(files, some...)
	}
	switch {
	case files == nil:
		return nil, fmt.Errorf("%s holds no checkpoint: is it the witness's folder of the installation?", dir)
	case len(files) > maxAnchors:
		return nil, fmt.Errorf("%s holds more than %d checkpoints: is it the witness's folder of the installation?", dir, maxAnchors)
	}
	return files, nil
}

// maxAnchors is more than a witness keeps: one checkpoint of each node.
const maxAnchors = 10_000

// globbed is a folder's name in a pattern.
func globbed(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}
