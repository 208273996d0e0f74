package main

import (
	"context"
	"log/slog"
	"time"
)

// renewEvery is how often a node looks whether a rotation runs, and whether the keys were changed at another one.
const renewEvery = time.Second

// renewStored works on the rotations that run, until ctx ends. After an outage it goes on at a later tick.
func renewStored(ctx context.Context, ticks <-chan time.Time, renew func(context.Context) error, log *slog.Logger) {
	failing := false
	for {
		err := renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			log.Error("stored data cannot be brought to the active keys now: it goes on when that is over", "error", oneLine(err))
		case err == nil && failing:
			log.Info("stored data can be brought to the active keys again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}
