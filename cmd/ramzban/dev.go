package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// The environment variables of `dev run`. They hold at every run, whatever the configuration file says.
const (
	devDirEnv = "RAMZBAN_DEV_DIR"
	apiEnv    = "RAMZBAN_API_ADDR"
	opsEnv    = "RAMZBAN_OPS_ADDR"
)

func devCommand() *cobra.Command {
	return group("dev", "For development: the service with a throw-away HSM and PKI, and a demonstration",
		devRunCommand(), devDemoCommand())
}

func devRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the service for development; makes whatever is missing first",
		Long: "Makes a SoftHSM token, a PKI and a configuration in " + devDirEnv + " (default var/dev) unless they are there, then\n" +
			"runs the service as `ramzban serve` does. " + apiEnv + " (127.0.0.1:8443) and " + opsEnv + "\n" +
			"(127.0.0.1:9090) say where it listens. For development only: all its keys lie beside it.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runDev(c.Context(), c.OutOrStdout(), devFromEnvironment())
		},
	}
}

// dev is a development set-up: its folder and where its service listens.
type dev struct{ dir, api, ops string }

func devFromEnvironment() dev {
	return dev{
		dir: cmp.Or(os.Getenv(devDirEnv), filepath.Join("var", "dev")),
		api: cmp.Or(os.Getenv(apiEnv), "127.0.0.1:8443"),
		ops: cmp.Or(os.Getenv(opsEnv), "127.0.0.1:9090"),
	}
}

func runDev(ctx context.Context, out io.Writer, d dev) error {
	path, err := d.setUp(ctx)
	if err != nil {
		return fmt.Errorf("development set-up in %s: %w", d.dir, err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		return err
	}
	c.API.Listen, c.Operator.Listen = d.api, d.ops
	if err := c.Validate(); err != nil {
		return err
	}
	if err := d.explain(out); err != nil {
		return err
	}
	return serve(ctx, c, out)
}

func (d dev) explain(out io.Writer) error {
	_, err := fmt.Fprintf(out, `Ramzban for development. Everything in %[1]s is throw-away.
  API        https://%[2]s        documentation: /docs
  Operator   http://%[3]s         /healthz /readyz /metrics
  PKI        %[4]s
  Try        curl --cacert %[4]s/ca.crt https://%[2]s/v1/time
`, d.dir, d.api, d.ops, filepath.Join(d.dir, "pki"))
	return err
}
