package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// rootCommand joins the subcommands. Errors are printed by main alone, on one line and without the usage text.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "ramzban",
		Short:         "Hardware-backed OTP key service for banks",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w: see `%s --help`", err, c.CommandPath())
	})
	root.AddCommand(configCommand(), deviceCommand(), auditCommand(), versionCommand())
	return root
}

// group makes a command that only holds others, and says so when called with something else.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q: see `%s --help`", args[0], c.CommandPath())
			}
			return c.Help()
		},
	}
	c.AddCommand(commands...)
	return c
}

// oneLine keeps an error to the one line that an operator's log and terminal expect.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
