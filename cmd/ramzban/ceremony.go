package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

//go:embed ceremony.yaml
var examplePlan string

func ceremonyCommand() *cobra.Command {
	var path string
	var execute bool
	c := &cobra.Command{
		Use:   "ceremony --plan FILE [--execute]",
		Short: "Make master keys in the HSM, as a plan says",
		Long: "Makes or adopts the master keys that a plan names, in the presence of its officers. Without --execute it reads the HSM\n" +
			"and says what it would do. It refuses when anything it would make is there already, when the HSM holds a key that\n" +
			"nobody knows, or any key is not as it must be. What fails half-way is undone.\n\n" +
			"It writes the known answers that the service checks its HSM by at every start, and a transcript that the audit key\n" +
			"signs. The custodians' components are typed unseen, or read from standard input, a line for each.\n\n" +
			ceremonyExits,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := loadPlan(path)
			if err != nil {
				return err
			}
			if err := forbidCoreDumps(); err != nil {
				return err // components are in memory
			}
			return p.run(c.Context(), c.InOrStdin(), c.OutOrStdout(), execute)
		},
	}
	c.Flags().StringVar(&path, "plan", "", "the plan, a YAML `FILE`")
	c.Flags().BoolVar(&execute, "execute", false, "do it, and do not only say what would be done")
	_ = c.MarkFlagRequired("plan") // fails only for a flag that is not there
	c.AddCommand(ceremonyExampleCommand(), ceremonyComponentsCommand())
	return c
}

func ceremonyExampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "example",
		Short: "Print a plan with every key explained",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), examplePlan)
			return err
		},
	}
}

// run inspects the HSM, shows what would be done, and with execute does it.
func (p Plan) run(ctx context.Context, in io.Reader, out io.Writer, execute bool) error {
	began := time.Now()
	files, known, err := p.Output.openFiles()
	if err != nil {
		return fmt.Errorf("%w: plan %s: %w", errConfiguration, p.path, err)
	}
	config, err := p.config()
	if err != nil {
		return fmt.Errorf("%w: plan %s: %w", errConfiguration, p.path, err)
	}
	plan := hsm.CeremonyPlan{Keys: p.keys(), Known: known}
	found, err := hsm.Inspect(ctx, config, plan)
	if err != nil {
		return explainCeremony(err)
	}
	if err := p.show(out, found, files, execute); err != nil || !execute {
		return err
	}
	values, err := shares{in, out}.take(ctx, p)
	if err != nil {
		return err
	}
	err = hsm.Hold(ctx, config, plan, values, func(record hsm.CeremonyRecord, sign func([]byte) (seed.Signature, error)) error {
		made, err := p.publishable(began, record, sign)
		if err == nil {
			err = files.publish(made.transcript, made.signature, made.public, made.answers)
		}
		found = record
		return err
	})
	if err != nil {
		return explainCeremony(err)
	}
	return p.showHeld(out, found, files)
}

func explainCeremony(err error) error {
	if errors.Is(err, hsm.ErrRefused) {
		return err
	}
	return explainHSM(err)
}
