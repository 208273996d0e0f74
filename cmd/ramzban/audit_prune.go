package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit/archive"
)

// pruning is what the flags of `audit prune` say.
type pruning struct {
	officer
	dir     string
	node    string
	days    int
	keys    []string // files
	anchors []string // files or folders
	pruned  bool
}

func auditPruneCommand() *cobra.Command {
	var p pruning
	c := &cobra.Command{
		Use:   "prune DIR",
		Short: "Propose to remove from the database old entries that are in the archive in DIR",
		Long: `Verify the archive, and propose to remove from the database those of a node's entries in it that are
older than --older-than days, at least 8. When another officer has approved it, the service removes them.
They stay in the archive, and everything is proven as before.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p.dir = args[0]
			older, err := p.older(c.Context(), c.OutOrStdout())
			if err != nil {
				return err
			}
			what := keyservice.AuditPrune{Node: p.node, Before: older.Entries, Root: older.Root[:]}
			return p.propose(c.Context(), c.OutOrStdout(), keyservice.ActionPruneAudit, func(wire.ProposalsAnswer) (any, error) { return what, nil })
		},
	}
	proposerFlags(c, &p.officer)
	f := c.Flags()
	f.StringVar(&p.node, "node", "", "whose log: node `NAME`")
	f.IntVar(&p.days, "older-than", 90, "keep the entries of the last `DAYS` days")
	f.StringArrayVar(&p.keys, "audit-key", nil, "`FILE` with a public audit key (PEM); once for each version")
	f.StringArrayVar(&p.anchors, "anchor", nil, "checkpoint that a witness keeps: its `FILE`, or its folder of the installation")
	f.BoolVar(&p.pruned, "pruned", false, "older segments were removed from the archive on purpose")
	return c
}

// minDays is one more than the service keeps entries in any case.
const minDays = 8

// older verifies the archive, and finds what may go.
func (p pruning) older(ctx context.Context, out io.Writer) (archive.Older, error) {
	switch {
	case p.node == "" || len(p.keys) == 0:
		return archive.Older{}, errors.New("--node or --audit-key is missing: name the node whose log it is, and the file with the public audit key, from the ceremony's transcript")
	case p.days < minDays:
		return archive.Older{}, fmt.Errorf("--older-than must be at least %d days", minDays)
	}
	keys, err := readKeys(p.keys)
	if err != nil {
		return archive.Older{}, err
	}
	if err := verifyArchive(ctx, out, p.dir, keys, verifying{anchors: p.anchors, pruned: p.pruned}); err != nil {
		return archive.Older{}, err
	}
	folder, err := archive.OpenFolder(p.dir)
	if err != nil {
		return archive.Older{}, err
	}
	defer func() { _ = folder.Close() }()
	older, err := archive.OlderThan(folder, p.node, time.Now().AddDate(0, 0, -p.days))
	if err != nil {
		return archive.Older{}, err
	}
	if older.Entries == 0 {
		return archive.Older{}, fmt.Errorf("the archive has no entries of %s that are older than %d days", p.node, p.days)
	}
	return older, nil
}
