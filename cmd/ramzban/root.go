package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// rootCommand joins the subcommands. Errors are printed by main alone, on one line and without the usage text.
func rootCommand() *cobra.Command {
	root := group("ramzban", "Hardware-backed OTP key service for banks",
		serveCommand(), configCommand(), ceremonyCommand(), keysCommand(), rotationsCommand(), approvalsCommand(), officersCommand(),
		auditCommand(), tokensCommand(), deviceCommand(), storeCommand(), backupCommand(), restoreCommand(), devCommand(), witnessCommand(), versionCommand())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		what, _, _ := strings.Cut(err.Error(), ": strconv.") // what Go calls it tells no operator anything
		return fmt.Errorf("%s: see `%s --help`", what, c.CommandPath())
	})
	return root
}

// group makes a command that only holds others, and says so when called with something else.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
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
