package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
)

func auditExportCommand() *cobra.Command {
	var o client.Options
	var dir, node string
	var asJSON bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Export the audit log to files that verify without the service",
		Long: `Export the audit logs of all nodes, or of one, into a folder with one folder for each node. Run
again it adds what is new since, and goes on where it was cut short. It ends with the newest signed
checkpoint, and keeps nothing that does not lead to it. Verify the folder with ` + "`ramzban audit verify`" + `.

Older segments (entries-*.ndjson) may be moved elsewhere when they are verified, but not the newest
one; the other files stay.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return errors.New("--out is missing: name the archive's folder")
			}
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			done, err := exportLogs(c.Context(), api, dir, node, newCopyProgress(c.ErrOrStderr()))
			if perr := printExports(c.OutOrStdout(), done, asJSON); perr != nil {
				return errors.Join(err, perr)
			}
			if err != nil {
				return fmt.Errorf("exporting the audit log: %w", explainCall(err))
			}
			return nil
		},
	}
	clientFlags(c, &o, "auditor")
	f := c.Flags()
	f.StringVar(&dir, "out", "", "archive's `FOLDER`; it is made, or gone on with")
	f.StringVar(&node, "node", "", "only the log of node `NAME`")
	f.BoolVar(&asJSON, "json", false, "print JSON, one log a line")
	return c
}

// exportedLog is what was exported of one log.
type exportedLog struct {
	Node    string    `json:"node"`
	New     uint64    `json:"new"`     // entries that were added to the archive
	Entries uint64    `json:"entries"` // that are in it now
	Signed  time.Time `json:"signed"`  // when its newest checkpoint was
}

func printExports(out io.Writer, done []exportedLog, asJSON bool) error {
	if asJSON {
		return printJSON(out, done)
	}
	for _, l := range done {
		if _, err := fmt.Fprintf(out, "%s: %s new, %d in the archive, signed %s\n", l.Node, countedAs(int(l.New), "entry", "entries"),
			l.Entries, l.Signed.UTC().Format(time.RFC3339)); err != nil {
			return err
		}
	}
	return nil
}

// exportLogs exports one log after the other. What was done before an error stays.
func exportLogs(ctx context.Context, api *client.Client, dir, node string, p *copyProgress) (done []exportedLog, err error) {
	defer p.end()
	keys, err := auditKeys(ctx, api)
	if err != nil {
		return nil, err
	}
	nodes := []string{node}
	if node == "" {
		if nodes, err = nodesOf(ctx, api); err != nil {
			return nil, err
		}
	}
	for _, node := range nodes {
		l, err := exportLog(ctx, api, dir, node, keys, p)
		if err != nil {
			return done, fmt.Errorf("%s: %w", node, err)
		}
		if l.Entries > 0 {
			done = append(done, l)
		}
	}
	return done, nil
}

// auditKeys asks the service for its public audit keys. What is exported is only compared with them here: trust is for
// `audit verify`, with keys from the ceremony.
func auditKeys(ctx context.Context, api *client.Client) ([]audit.PublicKey, error) {
	answer, err := api.AuditKeys(ctx)
	if err != nil {
		return nil, err
	}
	var keys []audit.PublicKey
	for _, k := range answer.Keys {
		key, err := audit.ParsePublicKey(k.PublicKey)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// newestCheckpoint reads a log's newest checkpoint. A log of which nothing was signed yet has the zero one.
func newestCheckpoint(ctx context.Context, api *client.Client, node string, keys []audit.PublicKey) (audit.Checkpoint, []byte, error) {
	answer, err := api.AuditCheckpoint(ctx, node)
	var p *wire.Problem
	if errors.As(err, &p) && p.Code == "checkpoint_not_found" {
		return audit.Checkpoint{}, nil, nil
	}
	if err != nil {
		return audit.Checkpoint{}, nil, err
	}
	note := []byte(answer.Note)
	installation, _, err := audit.OriginOf(note)
	if err != nil {
		return audit.Checkpoint{}, nil, err
	}
	c, err := audit.OpenCheckpoint(note, audit.Origin(installation, node), keys)
	return c, note, err
}

// errExported ends a stream at the checkpoint: what is decided meanwhile is for the next export.
var errExported = errors.New("all that was signed is exported")

// exportLog adds to a log's archive what was signed since.
func exportLog(ctx context.Context, api *client.Client, dir, node string, keys []audit.PublicKey, p *copyProgress) (exportedLog, error) {
	c, note, err := newestCheckpoint(ctx, api, node, keys)
	if err != nil || note == nil {
		return exportedLog{}, err
	}
	w, err := archive.NewWriter(dir, node)
	if err != nil {
		return exportedLog{}, err
	}
	size, from := uint64(c.Tree.N), w.Next()
	if from > size {
		return exportedLog{}, fmt.Errorf("the archive has %d entries, and the service's newest checkpoint tells of %d: the database was put back, or is another one; find out why", from, size)
	}
	for w.Next() < size {
		if err := addEntries(ctx, api, node, w, size, p); err != nil {
			return exportedLog{}, err
		}
	}
	if err := w.Keys(keys); err != nil {
		return exportedLog{}, err
	}
	return exportedLog{Node: node, New: size - from, Entries: size, Signed: c.Time}, w.Checkpoint(note, c)
}

// addEntries adds the entries up to a size.
func addEntries(ctx context.Context, api *client.Client, node string, w *archive.Writer, size uint64, p *copyProgress) error {
	q := client.AuditQuery{Node: node, From: w.Next(), Leaves: true}
	_, err := api.StreamAudit(ctx, q, func(e wire.AuditEntry) error {
		if e.Index != w.Next() {
			return fmt.Errorf("entry %d is missing in the service's answer, or was removed from the database before it was exported", w.Next())
		}
		if e.Leaf == nil {
			return fmt.Errorf("entry %d was changed or removed in the database: run `ramzban audit compare`", e.Index)
		}
		if err := w.Add(e.Leaf); err != nil {
			return err
		}
		if p.report("of "+node, w.Next(), size); w.Next() == size {
			return errExported
		}
		return nil
	})
	if errors.Is(err, errExported) {
		return nil
	}
	if err == nil {
		err = errors.New("the service has fewer entries than its checkpoint tells of: run `ramzban audit compare`")
	}
	return err
}
