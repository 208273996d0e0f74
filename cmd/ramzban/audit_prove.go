package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
)

func auditProveCommand() *cobra.Command {
	var o client.Options
	var out, dir string
	c := &cobra.Command{
		Use:   "prove SERIAL TIME",
		Short: "Write a bundle that proves what was decided about a token at a time",
		Long: `Write a bundle with the token's entries nearest to TIME (RFC 3339, such as 2026-11-22T10:00:00Z), the
last one until then and the first one afterwards, in the logs of all nodes, with the proofs that they are
in the signed logs. ` + "`ramzban audit verify --bundle FILE --key PUB.pem`" + ` checks it without anything else.

The bundle proves that its entries were logged. That there is none between them it does not prove.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			at, err := readTime(args[1])
			if err != nil {
				return err
			}
			if err := checkSerial(args[0]); err != nil {
				return err
			}
			if out == "" {
				return errors.New("--out is missing: name the bundle's file")
			}
			b, err := makeBundle(c.Context(), o, dir, args[0], at)
			if err != nil {
				return fmt.Errorf("proving: %w", explainCall(err))
			}
			return writeBundle(c.OutOrStdout(), out, b)
		},
	}
	clientFlags(c, &o, "auditor")
	f := c.Flags()
	f.StringVar(&out, "out", "", "write the bundle to `FILE`, which must not exist")
	f.StringVar(&dir, "archive", "", "prove out of the archive in `FOLDER` instead of asking the service")
	return c
}

var errTime = errors.New("the time must be as in RFC 3339, such as 2026-11-22T10:00:00Z")

func readTime(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errTime
	}
	return at, nil
}

func makeBundle(ctx context.Context, o client.Options, dir, serial string, at time.Time) (archive.Bundle, error) {
	if dir != "" {
		folder, err := archive.OpenFolder(dir)
		if err != nil {
			return archive.Bundle{}, err
		}
		defer func() { _ = folder.Close() }()
		return archive.Prove(ctx, folder, serial, at)
	}
	api, err := openClient(o)
	if err != nil {
		return archive.Bundle{}, err
	}
	defer api.Close()
	return proveOnline(ctx, api, serial, at)
}

// writeBundle checks the bundle as its reader will, and writes it.
func writeBundle(out io.Writer, file string, b archive.Bundle) error {
	text, err := b.Encode()
	if err != nil {
		return err
	}
	_, proven, err := archive.OpenBundle(text, b.Keys)
	if err != nil {
		return fmt.Errorf("the proof is not sound: verify the archive, or run `ramzban audit compare`: %w", err)
	}
	if err := createFile(file, text, privateFile); err != nil {
		return fmt.Errorf("%w: name another file", err)
	}
	for _, p := range proven {
		if _, err := fmt.Fprint(out, sayProven(p)); err != nil {
			return err
		}
	}
	return nil
}

// proveOnline makes a bundle with the service's proofs.
func proveOnline(ctx context.Context, api *client.Client, serial string, at time.Time) (archive.Bundle, error) {
	keys, err := auditKeys(ctx, api)
	if err != nil {
		return archive.Bundle{}, err
	}
	nodes, err := nodesOf(ctx, api)
	if err != nil {
		return archive.Bundle{}, err
	}
	nearest := archive.NewNearest(serial, at)
	for _, node := range nodes {
		_, err := api.StreamAudit(ctx, client.AuditQuery{Node: node, Serial: serial, Leaves: true}, func(e wire.AuditEntry) error {
			if e.Leaf == nil {
				return nil // changed in the database: comparing finds it
			}
			return nearest.Show(node, e.Index, e.Leaf)
		})
		if err != nil {
			return archive.Bundle{}, err
		}
	}
	b := archive.Bundle{Serial: serial, Time: at, Checkpoints: map[string][]byte{}, Keys: keys}
	return b, addProofs(ctx, api, nearest.Found(), &b)
}

// addProofs adds entries with the proofs that they are in the trees of their nodes' checkpoints.
func addProofs(ctx context.Context, api *client.Client, found []archive.Found, b *archive.Bundle) error {
	if found == nil {
		return errors.New("the logs have no entry of this token: older ones may be in the archive (--archive)")
	}
	last, sizes := map[string]uint64{}, map[string]uint64{}
	for _, f := range found {
		last[f.Node] = max(last[f.Node], f.Index)
	}
	for node, index := range last {
		c, note, err := checkpointOver(ctx, api, node, index, b.Keys)
		if err != nil {
			return err
		}
		b.Checkpoints[node], sizes[node] = note, uint64(c.Tree.N)
	}
	for _, f := range found {
		answer, err := api.ProveInclusion(ctx, f.Node, f.Index, sizes[f.Node])
		if err != nil {
			return err
		}
		p := archive.Proven{Index: f.Index, Leaf: f.Leaf}
		for _, h := range answer.Proof {
			if len(h) != tlog.HashSize {
				return fmt.Errorf("a hash of %d bytes: %w", len(h), client.ErrAnswer)
			}
			p.Proof = append(p.Proof, tlog.Hash(h))
		}
		b.Entries = append(b.Entries, p)
	}
	return nil
}

// signedWithin is how long an entry may wait for its checkpoint: far longer than it does.
const (
	signedWithin = 10 * time.Second
	askAgain     = 200 * time.Millisecond
)

// checkpointOver reads a checkpoint that is over an entry, which may have been written a moment ago.
func checkpointOver(ctx context.Context, api *client.Client, node string, index uint64, keys []audit.PublicKey) (audit.Checkpoint, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, signedWithin)
	defer cancel()
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		c, note, err := newestCheckpoint(ctx, api, node, keys)
		if err != nil || uint64(c.Tree.N) > index {
			return c, note, err
		}
		select {
		case <-ctx.Done():
			return c, nil, fmt.Errorf("entry %d of %s is in no checkpoint yet: does the node sign its log? Try again later", index, node)
		case <-tick.C:
		}
	}
}
