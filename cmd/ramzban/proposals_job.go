package main

import (
	"context"
	"log/slog"
	"time"
)

// carryOutEvery is how often a node looks for what was approved at another one, or was begun and not ended.
const carryOutEvery = 10 * time.Second

// carryOutApproved carries out what two officers agreed on: at once, when something was approved here, and at each tick,
// until ctx ends. What could not be ended is tried again at the next tick.
func carryOutApproved(ctx context.Context, approved <-chan struct{}, ticks <-chan time.Time, carryOut func(context.Context) (int, error), log *slog.Logger) {
	for {
		ended, err := carryOut(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("what officers agreed on cannot be carried out now: it is tried again within seconds", "error", oneLine(err))
		case ended > 0:
			log.Info("proposals carried out", "ended", ended)
		}
		select {
		case <-ctx.Done():
			return
		case <-approved:
		case <-ticks:
		}
	}
}
