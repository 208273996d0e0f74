package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
)

func serveCommand() *cobra.Command {
	var path string
	var o startOptions
	c := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the service in the foreground until SIGTERM or SIGINT",
		Long: "Runs the service in the foreground. The log goes to standard output; if the service cannot start or go on,\n" +
			"one line on standard error says why and what to do, and the exit status is one of those below. SIGTERM and\n" +
			"SIGINT end it after the requests under way were answered.\n\n" + explainExits(),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := LoadConfig(path)
			if err != nil {
				return err
			}
			return serve(c.Context(), config, c.OutOrStdout(), o)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&o.newDatabase, "new-database", false, "make the database, which must not be there yet: for the first start only")
	c.Flags().BoolVar(&o.newWitness, "new-witness", false, "the witness takes the place of one that is lost, and holds nothing yet: for one start only")
	return c
}

// startOptions are what one start may do or tell, besides what the configuration says.
type startOptions struct {
	newDatabase bool         // the database may be made
	newWitness  bool         // the witness may have lost what it had taken
	listening   func() error // called once the service can answer; nil for nothing
}

// serve runs the service until ctx ends or something it rests on has failed for good.
func serve(ctx context.Context, c Config, out io.Writer, o startOptions) error {
	log, err := newLog(c.Log, out)
	if err != nil {
		return err
	}
	for _, w := range c.warnings() {
		log.Warn(w)
	}
	keepFilesPrivate()
	if err := forbidCoreDumps(); err != nil {
		return err
	}
	if err := tryAddresses(c); err != nil {
		return err
	}
	n := newNode(c, log)
	n.newDatabase, n.newWitness = o.newDatabase, o.newWitness
	err = n.start(ctx)
	if err != nil && ctx.Err() != nil {
		log.Info("stopped before the service was ready", "reason", oneLine(err))
		return nil
	}
	if err != nil {
		return err
	}
	if o.listening != nil {
		if err := o.listening(); err != nil {
			return n.stop(err)
		}
	}
	return n.run(ctx)
}

// newLog makes the log; it is handed down, never global.
func newLog(c LogConfig, out io.Writer) (*slog.Logger, error) {
	level, err := c.level()
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(out, options)), nil
	}
	return slog.New(slog.NewJSONHandler(out, options)), nil
}

// run serves both listeners until ctx ends, a listener fails, the database fails or the HSM hangs.
func (n *node) run(ctx context.Context) error {
	stopped := make(chan error, 2)
	go func() { stopped <- n.api.Serve(n.on.api) }()
	go func() { stopped <- n.operator.Serve() }()
	n.startJobs(ctx)
	if err := notifyReady(); err != nil {
		return n.stop(err)
	}
	n.log.Info("ready", "api", n.on.api.Addr().String(), "operator", n.on.operator.Addr().String(), "version", versionString())
	select {
	case <-ctx.Done():
		n.log.Info("stopping: no new requests, those under way are answered")
		return n.stop(nil)
	case err := <-stopped:
		return n.stop(listenerEnded(err))
	case <-n.db.Failed():
		return n.stop(n.config.Store.failed(n.db.Err()))
	case err := <-n.fatal:
		// The module hangs: nothing can be closed in order, and everything acknowledged is on disk.
		return hung(err)
	}
}

// listenerEnded is why the service ends when one of its listeners does: err, or nil if the listener gave no reason.
func listenerEnded(err error) error {
	if err == nil {
		err = errors.New("it takes no more connections")
	}
	return fmt.Errorf("a listener failed: %w: start the service again", err)
}

// stop ends the service in order: not ready, requests under way answered, the audit log signed, the database closed, the
// HSM logged out. If it ends for a reason, that alone is its error.
func (n *node) stop(why error) error {
	n.stopping.Store(true)
	n.endJobs()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n.config.Timeouts.Shutdown))
	defer cancel()
	err := errors.Join(n.api.Shutdown(ctx), n.operator.Shutdown(ctx))
	if n.db.Err() == nil {
		err = errors.Join(err, n.signing.end())
	}
	err = errors.Join(err, n.close())
	if why != nil && err != nil {
		n.log.Error("not everything could be ended in order", "error", oneLine(err))
	}
	if why != nil {
		return why
	}
	if err == nil {
		n.log.Info("stopped")
	}
	return err
}
