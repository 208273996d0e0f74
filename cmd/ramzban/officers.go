package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

func officersCommand() *cobra.Command {
	return group("officers", "Who the security officers are, two of whom must agree on what none may do alone",
		officersListCommand(), officersProposeCommand())
}

func officersListCommand() *cobra.Command {
	var o client.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "Print the officers, one a line",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := openClient(o)
			if err != nil {
				return err
			}
			defer api.Close()
			answer, err := api.Proposals(c.Context())
			if err != nil {
				return fmt.Errorf("asking for the officers: %w", explainCall(err))
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), answer.Officers)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), strings.Join(answer.Officers, "\n"))
			return err
		},
	}
	clientFlags(c, &o, "officer-1")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one name a line")
	return c
}

func officersProposeCommand() *cobra.Command {
	var o officer
	c := &cobra.Command{
		Use:   "propose NAME NAME…",
		Short: "Propose who the officers shall be from now on: all of them, at least two",
		Long: "Proposes a new list of officers. Who is not on it is an officer no more once another officer has approved it,\n" +
			"and what that person approved and is not carried out yet counts no longer. Each must be a client of the\n" +
			"service's configuration with the role officer.",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, names []string) error {
			slices.Sort(names)
			names = slices.Compact(names)
			if len(names) < 2 {
				return errors.New("name all officers there shall be, at least two different ones")
			}
			return o.propose(c.Context(), c.OutOrStdout(), keyservice.ActionOfficers, func(now wire.ProposalsAnswer) (any, error) {
				return keyservice.OfficersChange{Officers: names, InsteadOf: now.Officers}, nil
			})
		},
	}
	proposerFlags(c, &o)
	return c
}
