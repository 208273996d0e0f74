package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
}

func auditVerifyCommand() *cobra.Command {
	var q verifying
	c := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Verify an exported audit log, or a bundle of proofs, with the public key alone",
		Long: `Verify what ` + "`ramzban audit export`" + ` wrote, for all nodes: the tree over all entries is made anew and
compared with every signed checkpoint. It needs files and the public audit key, no service and no HSM.
Take the key from the ceremony's transcript or from another trusted place, not from the archive.

The end of a log that was cut off together with its checkpoints can only be seen with --anchor: the
checkpoints that a witness keeps.

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
				return verifyBundle(c.OutOrStdout(), q.bundle, keys, q.asJSON)
			case q.bundle == "" && len(args) == 1:
				return verifyArchive(c.Context(), c.OutOrStdout(), args[0], keys, q)
			}
			return errors.New("name either the archive's folder or, with --bundle, a bundle of proofs")
		},
	}
	f := c.Flags()
	f.StringArrayVar(&q.keys, "key", nil, "`FILE` with a public audit key (PEM); once for each version")
	f.StringArrayVar(&q.anchors, "anchor", nil, "checkpoint that a witness keeps: its `FILE`, or the witness's folder")
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
		text, err := os.ReadFile(name)
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
	report, err := archive.Verify(ctx, os.DirFS(dir), archive.Options{Keys: keys, Anchors: anchors, Pruned: q.pruned})
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

// printReport says what is wrong, two short lines each, or in one line that nothing is.
func printReport(out io.Writer, r archive.Report) error {
	for _, f := range r.Findings {
		if _, err := fmt.Fprintln(out, f); err != nil {
			return err
		}
	}
	if len(r.Findings) > 0 {
		return nil // the summary is the command's error
	}
	_, err := fmt.Fprintln(out, summary(r))
	return err
}

// summary says it all in one line.
func summary(r archive.Report) string {
	entries, first := uint64(0), ""
	for _, l := range r.Logs {
		entries += l.Entries - l.First
		if l.First > 0 {
			first += fmt.Sprintf("; of %s only from entry %d on", l.Node, l.First)
		}
	}
	read := fmt.Sprintf("%s, %s, %s%s", counted(len(r.Logs), "log"), countedAs(int(entries), "entry", "entries"), counted(r.Checked, "checkpoint"), first)
	if n := len(r.Findings) + r.More; n > 0 {
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

// readAnchors reads checkpoints of witnesses: files, and the files in folders whose names begin as checkpoints' do.
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
			signed, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("--anchor: %w", err)
			}
			anchors = append(anchors, archive.Anchor{Name: file, Signed: signed})
		}
	}
	return anchors, nil
}

func checkpointsIn(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.HasPrefix(e.Name(), "checkpoint") {
			files = append(files, path)
		}
		return err
	})
	if err == nil && files == nil {
		err = fmt.Errorf("%s holds no checkpoint: is it the witness's folder?", dir)
	}
	return files, err
}
