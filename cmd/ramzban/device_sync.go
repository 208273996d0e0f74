package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/client"
)

// wrongClock is how far off a phone's clock may be before its owner is told to set it.
const wrongClock = time.Hour

func deviceSyncCommand() *cobra.Command {
	var dir string
	var o client.Options
	c := &cobra.Command{
		Use:   "sync --dir DIR",
		Short: "Learn how far this phone's clock is off, from the service's",
		Long: "Asks the service for its time, which needs no certificate, keeps how far this phone's clock is off beside its token,\n" +
			"and says it. Passwords are made by the corrected clock from then on.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := openPhone(dir)
			if err != nil {
				return err
			}
			offset, err := p.syncWith(c.Context(), o)
			if err != nil {
				return err
			}
			return showOffset(c.OutOrStdout(), c.ErrOrStderr(), offset)
		},
	}
	dirFlag(c, &dir)
	serviceFlags(c, &o)
	return c
}

// showOffset says how far the phone's clock is off; positive: the service's clock is ahead.
func showOffset(out, errs io.Writer, offset time.Duration) error {
	if offset.Abs() > wrongClock {
		if _, err := fmt.Fprintln(errs, "warning: this clock is more than an hour off: look at its date and time zone"); err != nil {
			return err
		}
	}
	way := "behind"
	if offset < 0 {
		way = "ahead of"
	}
	_, err := fmt.Fprintf(out, "the phone's clock is %.3f s %s the service's\n", offset.Abs().Seconds(), way)
	return err
}

func (p phone) syncWith(ctx context.Context, o client.Options) (time.Duration, error) {
	api, err := openClient(o)
	if err != nil {
		return 0, err
	}
	defer api.Close()
	return p.sync(ctx, api, time.Now)
}

// sync learns how far the service's clock is ahead of this phone's and keeps it. The answer is taken to be as old as half
// of what it took to come, so the error is at most that half.
func (p phone) sync(ctx context.Context, api *client.Client, clock func() time.Time) (time.Duration, error) {
	t, err := p.token()
	if err != nil {
		return 0, err
	}
	if t.counts() {
		return 0, errors.New("phone: its token counts passwords and needs no clock")
	}
	asked := clock()
	answer, err := api.Time(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking the time: %w", explainCall(err))
	}
	offset := answer.Time.Sub(asked.Add(clock().Sub(asked) / 2)).Round(time.Millisecond)
	t.Offset = offset.Milliseconds()
	return offset, p.save(t)
}
