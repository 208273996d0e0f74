package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

func keysCommand() *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "keys",
		Short: "List the master keys, what depends on each; rotate, retire and destroy versions",
		Long: "Lists every version of every master key with its status, key check value and how many rows of the database\n" +
			"depend on it. It reads the whole database, which may take minutes.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			answer, err := api.Keys(c.Context())
			if err != nil {
				return fmt.Errorf("asking for the keys: %w", explainCall(err))
			}
			return printKeys(c.OutOrStdout(), answer.Keys, asJSON)
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one key a line")
	c.AddCommand(keysRotateCommand(), keysVersionCommand("retire", keyservice.ActionRetire,
		"Propose to retire a version: nothing that names it is written any more"),
		keysVersionCommand("destroy", keyservice.ActionDestroy, "Propose to destroy a retired version in the HSM, for ever"),
		keysFeedCommand())
	return c
}

// printKeys writes a table of 80 columns, or one JSON object a line.
func printKeys(w io.Writer, keys []wire.Key, asJSON bool) error {
	if asJSON {
		return printJSON(w, keys)
	}
	row := func(key, status, kcv, since, hsm, dependents string) string {
		return strings.TrimRight(fmt.Sprintf("%-14s %-9s %-16s %-16s %-6s %10s", key, status, kcv, since, hsm, dependents), " ")
	}
	rows := []string{row("KEY", "STATUS", "KCV", "SINCE (UTC)", "IN HSM", "DEPENDENTS")}
	for _, k := range keys {
		since, hsm := "", "no"
		if k.Since != nil {
			since = k.Since.UTC().Format("2006-01-02 15:04")
		}
		if k.InHSM {
			hsm = "yes"
		}
		rows = append(rows, row(fmt.Sprintf("%s/%d", k.Label, k.Version), k.Status, k.KCV, since, hsm, strconv.Itoa(k.Dependents)))
	}
	for _, k := range keys {
		if k.NotErased != "" {
			rows = append(rows, fmt.Sprintf("%s/%d is destroyed, but the HSM has not erased it yet: %s", k.Label, k.Version, k.NotErased))
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(rows, "\n"))
	return err
}

func keysRotateCommand() *cobra.Command {
	var o officer
	var to uint32
	var accepted int
	var wait bool
	c := &cobra.Command{
		Use:   "rotate LABEL --to VERSION",
		Short: "Propose that new things are made under another version, and that what is stored is brought to it",
		Long: "Proposes a rotation. The version must have been made at a key ceremony, and be in the HSM of every node. Once\n" +
			"another officer has approved it, new things are made under it, and what is stored is brought to it in the\n" +
			"background. With --wait it waits for the approval, and shows how far the rotation is.",
		Args: oneLabel,
		RunE: func(c *cobra.Command, args []string) error {
			if to == 0 {
				return errors.New("--to must name the new version: `ramzban keys` shows which there are")
			}
			p, err := o.proposed(c.Context(), c.OutOrStdout(), keyservice.ActionRotate, func(wire.ProposalsAnswer) (any, error) {
				from, err := activeVersion(c.Context(), o.options, args[0])
				return keyservice.KeyRotation{Label: args[0], From: from, To: to, AcceptDamaged: accepted}, err
			})
			if err != nil || !wait {
				return err
			}
			return followRotation(c.Context(), c.ErrOrStderr(), o.options, p)
		},
	}
	proposerFlags(c, &o)
	c.Flags().Uint32Var(&to, "to", 0, "the new `VERSION`")
	acceptFlag(c, &accepted)
	c.Flags().BoolVar(&wait, "wait", false, "wait for the approval, and show how far the rotation is")
	return c
}

func oneLabel(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one label, such as wrap: `ramzban keys` shows them")
	}
	return nil
}

// activeVersion asks which version of a label is active.
func activeVersion(ctx context.Context, o client.Options, label string) (uint32, error) {
	api, err := openClient(o)
	if err != nil {
		return 0, err
	}
	defer api.Close()
	answer, err := api.Keys(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the keys: %w", explainCall(err))
	}
	i := slices.IndexFunc(answer.Keys, func(k wire.Key) bool { return k.Label == label && k.Status == "active" })
	if i < 0 {
		return 0, fmt.Errorf("no master key has the label %q: `ramzban keys` shows them", label)
	}
	return answer.Keys[i].Version, nil
}

func acceptFlag(c *cobra.Command, accepted *int) {
	c.Flags().IntVar(accepted, "accept-damaged", 0, "accept that `N` damaged rows go on depending on the old version, at most "+strconv.Itoa(keyservice.MaxAccepted))
}

func keysVersionCommand(verb, action, short string) *cobra.Command {
	var o officer
	var accepted int
	c := &cobra.Command{
		Use:   verb + " LABEL VERSION",
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("name a label and a version, such as wrap 1: `ramzban keys` shows them")
			}
			version, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil {
				return fmt.Errorf("%q is no version: `ramzban keys` shows them", args[1])
			}
			return o.propose(c.Context(), c.OutOrStdout(), action, func(wire.ProposalsAnswer) (any, error) {
				return keyservice.KeyVersion{Label: args[0], Version: uint32(version), AcceptDamaged: accepted}, nil
			})
		},
	}
	proposerFlags(c, &o)
	acceptFlag(c, &accepted)
	return c
}

// followRotation waits for a proposal's approval, and then shows the rotation until it rests.
func followRotation(ctx context.Context, w io.Writer, o client.Options, p wire.Proposal) error {
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	often := time.NewTicker(time.Second)
	defer often.Stop()
	for p.Status == "waiting" || p.Status == "approved" || p.Status == "running" {
		if err := tick(ctx, often); err != nil {
			return err
		}
		if p, err = api.Proposal(ctx, p.ID); err != nil {
			return fmt.Errorf("asking for the proposal: %w", explainCall(err))
		}
	}
	if p.Status != "done" {
		return fmt.Errorf("the proposal is %s: %s", p.Status, p.Result)
	}
	return watchRotation(ctx, w, api, p.ID, often)
}

func tick(ctx context.Context, often *time.Ticker) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-often.C:
		return nil
	}
}

// watchRotation draws a rotation's progress until it rests.
func watchRotation(ctx context.Context, w io.Writer, api *client.Client, id string, often *time.Ticker) error {
	r, err := api.Rotation(ctx, id)
	if err != nil {
		return fmt.Errorf("asking for the rotation: %w", explainCall(err))
	}
	shown := newRotationProgress(w)
	for r.Status == "running" {
		shown.set(r)
		if err := tick(ctx, often); err != nil {
			return err
		}
		if r, err = api.Rotation(ctx, id); err != nil {
			return fmt.Errorf("asking for the rotation: %w", explainCall(err))
		}
	}
	shown.set(r)
	shown.end()
	if _, err := fmt.Fprintln(w, rotationSays(r)); err != nil || r.Status == "done" {
		return err
	}
	return fmt.Errorf("the rotation is %s: `ramzban rotations show %s` says more", r.Status, shortID(r.ID))
}
