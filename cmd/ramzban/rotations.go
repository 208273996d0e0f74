package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
)

func rotationsCommand() *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotations",
		Short: "List the rotations of master keys; show, pause and resume one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			answer, err := api.Rotations(c.Context())
			if err != nil {
				return fmt.Errorf("asking for the rotations: %w", explainCall(err))
			}
			if err := printDamaged(c.ErrOrStderr(), "rotation", answer.Damaged); err != nil {
				return err
			}
			return printRotations(c.OutOrStdout(), c.ErrOrStderr(), answer.Rotations, asJSON)
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one rotation a line")
	c.AddCommand(
		rotationCommand("show", "Show a rotation, and what it could not do", (*client.Client).Rotation),
		rotationCommand("pause", "Let a rotation rest, 24 hours at most", (*client.Client).PauseRotation),
		rotationCommand("resume", "Let a rotation go on, or try again what it could not do", (*client.Client).ResumeRotation))
	return c
}

// printRotations writes a table of 80 columns, or one JSON object a line.
func printRotations(w, notes io.Writer, list []wire.Rotation, asJSON bool) error {
	if asJSON {
		return printJSON(w, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(notes, "no key was ever rotated")
		return err
	}
	row := func(id, what, status, begun, seen, left string) string {
		return strings.TrimRight(fmt.Sprintf("%-12s %-14s %-7s %-16s %-17s %9s", id, what, status, begun, seen, left), " ")
	}
	rows := []string{row("ID", "KEY", "STATUS", "BEGUN (UTC)", "TOKENS SEEN", "ROWS LEFT")}
	for _, r := range list {
		left := fmt.Sprint(r.Left)
		if r.Status == "running" {
			left = ""
		}
		rows = append(rows, row(shortID(r.ID), fmt.Sprintf("%s %d>%d", r.Label, r.From, r.To), r.Status,
			r.BegunAt.UTC().Format("2006-01-02 15:04"), fmt.Sprintf("%d/%d", r.Seen, r.Tokens), left))
		if says := pauseSays(r); says != "" {
			rows = append(rows, cut(strings.Repeat(" ", 13)+says, columns))
		}
	}
	_, err := fmt.Fprintln(w, strings.Join(rows, "\n"))
	return err
}

func rotationCommand(verb, short string, do func(*client.Client, context.Context, string) (wire.Rotation, error)) *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  oneID,
		RunE: func(c *cobra.Command, args []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			id, err := rotationNamed(c.Context(), api, args[0])
			if err != nil {
				return err
			}
			r, err := do(api, c.Context(), id)
			if err != nil {
				return fmt.Errorf("%s %s: %w", verb, shortID(id), explainCall(err))
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), []wire.Rotation{r})
			}
			return printRotation(c.OutOrStdout(), r)
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// pauseSays says how long a rotation that is paused rests; "" of others.
func pauseSays(r wire.Rotation) string {
	if r.PauseEndsAt == nil {
		return ""
	}
	return fmt.Sprintf("paused by %s, goes on by itself %s UTC", cut(r.PausedBy, 20), r.PauseEndsAt.UTC().Format("2006-01-02 15:04"))
}

// rotationNamed finds a rotation by the beginning of its id.
func rotationNamed(ctx context.Context, api *client.Client, id string) (string, error) {
	answer, err := api.Rotations(ctx)
	if err != nil {
		return "", fmt.Errorf("asking for the rotations: %w", explainCall(err))
	}
	found := slices.DeleteFunc(answer.Rotations, func(r wire.Rotation) bool { return !strings.HasPrefix(r.ID, id) })
	if len(found) != 1 {
		return "", fmt.Errorf("%s… is the beginning of %d rotations' ids: `ramzban rotations` shows them", id, len(found))
	}
	return found[0].ID, nil
}

// printRotation shows one rotation in full.
func printRotation(w io.Writer, r wire.Rotation) error {
	says := []string{rotationSays(r), "id:    " + r.ID, "begun: " + r.BegunAt.UTC().Format(time.DateTime) + " UTC"}
	if r.EndedAt != nil {
		says = append(says, "done:  "+r.EndedAt.UTC().Format(time.DateTime)+" UTC")
	}
	if pause := pauseSays(r); pause != "" {
		says = append(says, pause)
	}
	for _, k := range r.Kinds {
		says = append(says, fmt.Sprintf("left:  %d %s", k.Rows, k.Kind))
	}
	for _, serial := range r.Failed {
		says = append(says, "cannot be renewed: "+serial)
	}
	_, err := fmt.Fprintln(w, strings.Join(says, "\n"))
	return err
}
