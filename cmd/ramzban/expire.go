package main

import (
	"context"
	"log/slog"
	"time"
)

// expireEvery is how often idempotency rows that are too old are deleted.
const expireEvery = time.Hour

// startJobs starts what the service does without being asked. endJobs ends it and waits for that.
func (n *node) startJobs(ctx context.Context) {
	ctx, n.cancelJobs = context.WithCancel(ctx)
	n.jobs.Go(func() {
		hourly := time.NewTicker(expireEvery)
		defer hourly.Stop()
		expireRows(ctx, hourly.C, n.service.Expire, n.log)
	})
	n.jobs.Go(func() {
		often := time.NewTicker(carryOutEvery)
		defer often.Stop()
		carryOutApproved(ctx, n.service.Approved(), often.C, n.service.CarryOut, n.log)
	})
	n.jobs.Go(func() {
		often := time.NewTicker(renewEvery)
		defer often.Stop()
		renewStored(ctx, often.C, n.service.Renew, n.log)
	})
	n.jobs.Go(func() {
		minutely := time.NewTicker(skewEvery)
		defer minutely.Stop()
		n.skew.watch(ctx, minutely.C, n.log)
	})
	n.signing.start(ctx, n, time.Duration(n.config.Audit.CheckpointInterval))
}

func (n *node) endJobs() {
	if n.cancelJobs != nil {
		n.cancelJobs()
	}
	n.jobs.Wait()
}

// expireRows deletes old rows at once and at each tick, until ctx ends. What failed is tried again at the next tick:
// rows that stay longer than they must do no harm.
func expireRows(ctx context.Context, ticks <-chan time.Time, expire func(context.Context) (int, error), log *slog.Logger) {
	for {
		deleted, err := expire(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("old idempotency rows cannot be deleted: it is tried again within the hour", "deleted", deleted, "error", oneLine(err))
		case deleted > 0:
			log.Info("old idempotency rows deleted", "deleted", deleted)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}
