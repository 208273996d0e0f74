package main

import (
	_ "embed"
	"fmt"

	"github.com/spf13/cobra"
)

//go:embed example.yaml
var exampleConfig string

func configCommand() *cobra.Command {
	return group("config", "Check a configuration file, or print one to begin with", configCheckCommand(), configExampleCommand())
}

func configCheckCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Check a configuration file, and the files it names, without touching the HSM or the database",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := LoadConfig(path)
			if err != nil {
				return err
			}
			if err := config.checkFiles(); err != nil {
				return fmt.Errorf("%w %s: %w", errConfiguration, path, err)
			}
			for _, w := range config.warnings() {
				if _, err := fmt.Fprintln(c.ErrOrStderr(), "warning: "+w); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is a valid configuration\n", path)
			return err
		},
	}
	configFlag(c, &path)
	return c
}

func configExampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a configuration with every key explained and its default",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), exampleConfig)
			return err
		},
	}
}

func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", "/etc/ramzban/ramzban.yaml", "configuration `FILE`")
}
