package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"ramzban/keyservice/store/badgerstore"
)

// The environment variables of `dev run`. They hold at every run, whatever the configuration file says.
const (
	devDirEnv = "RAMZBAN_DEV_DIR"
	apiEnv    = "RAMZBAN_API_ADDR"
	opsEnv    = "RAMZBAN_OPS_ADDR"
)

func devCommand() *cobra.Command {
	return group("dev", "For development: the service with a throw-away HSM and PKI, and demonstrations",
		devRunCommand(), devDemoCommand(), devClusterDemoCommand())
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
	marked, err := exists(d.newDatabaseMark())
	if err != nil {
		return err
	}
	found := false
	if c.Store.Badger != nil {
		if found, err = badgerstore.Exists(c.Store.Badger.Dir); err != nil {
			return err
		}
	}
	err = serve(ctx, c, out, startOptions{newDatabase: marked && !found, listening: func() error { return d.started(out) }})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w (%s)", err, d.elsewhere(err))
	}
	return err
}

// newDatabaseMark is the file that stands in the folder from its making until the database is made: a first start that
// failed may be tried again, but a database that is lost later is not replaced by an empty one.
func (d dev) newDatabaseMark() string { return filepath.Join(d.dir, "new-database") }

func (d dev) started(out io.Writer) error {
	if err := os.Remove(d.newDatabaseMark()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return d.explain(out)
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

// elsewhere is the command that listens on another port than the one in use.
func (d dev) elsewhere(err error) string {
	var taken *inUseError
	if errors.As(err, &taken) && taken.address == d.ops {
		return opsEnv + "=127.0.0.1:19090 make run"
	}
	return apiEnv + "=127.0.0.1:18443 make run"
}
