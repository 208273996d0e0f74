package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ramzban/keyservice"
	"ramzban/keyservice/audit"
)

// witnessLimit bounds one call of a witness.
const witnessLimit = 10 * time.Second

// lastCheckpoint bounds what is signed and handed to the witness when the service ends.
const lastCheckpoint = 5 * time.Second

// checkpoints signs the audit log, and hands what was signed to the witness.
type checkpoints struct {
	signer    *keyservice.Checkpointer
	publisher *keyservice.Publisher // nil without a witness
	log       *slog.Logger
}

// openCheckpoints refuses a database that is older than what the witness, or the file that the configuration names, has of it.
// A witness that cannot be asked stops no start: what it has is compared at the next checkpoint.
func openCheckpoints(ctx context.Context, c AuditConfig, s *keyservice.Service, log *slog.Logger) (*checkpoints, error) {
	w, err := c.witness(s.PublicAuditKeys)
	if err != nil {
		return nil, err
	}
	k := &checkpoints{signer: keyservice.NewCheckpointer(s), log: log}
	if c.Anchor != "" {
		note, err := os.ReadFile(c.Anchor)
		if err != nil {
			return nil, wrong("audit.anchor", "%v: put the checkpoint there, or correct the path", err)
		}
		if err := checkAnchor(ctx, s, "audit.anchor", note); err != nil {
			return nil, err
		}
	}
	if w == nil {
		return k, nil
	}
	k.publisher = keyservice.NewPublisher(k.signer, w)
	held, err := heldBy(ctx, w)
	if err != nil {
		log.Error("the witness cannot be asked whether this database was put back: that is found out at the first checkpoint it takes", "error", oneLine(err))
	}
	for _, note := range held {
		if err := checkAnchor(ctx, s, "audit.witness", note); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func heldBy(ctx context.Context, w keyservice.Witness) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	return w.Held(ctx)
}

// checkAnchor says what to do about a database that does not have what was kept of it.
func checkAnchor(ctx context.Context, s *keyservice.Service, key string, note []byte) error {
	err := s.CheckAnchor(ctx, note)
	switch {
	case errors.Is(err, keyservice.ErrRollback):
		return wrong(key, "%v: bring back the newest database, or, if an older one was restored on purpose, declare a restore", err)
	case errors.Is(err, audit.ErrSignature), errors.Is(err, audit.ErrCheckpoint):
		return wrong(key, "%v: give a checkpoint of this database", err)
	case errors.Is(err, audit.ErrTampered):
		return wrong(key, "the audit log was changed in the database: %v", err)
	case err != nil:
		return fmt.Errorf("comparing the database with %s: %w", key, err)
	}
	return nil
}

// start signs and hands over, each in its own time: a witness that does not answer holds no checkpoint up.
func (k *checkpoints) start(ctx context.Context, n *node, interval time.Duration) {
	every := func(do func(context.Context) error, what string) {
		n.jobs.Go(func() {
			ticks := time.NewTicker(interval)
			defer ticks.Stop()
			k.repeat(ctx, ticks.C, do, what)
		})
	}
	every(k.signer.Advance, "the audit log is not signed")
	if k.publisher != nil {
		every(k.publish, "the witness does not take the audit log's checkpoint")
	}
}

func (k *checkpoints) publish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	return k.publisher.Publish(ctx)
}

// repeat does it at once and at each tick, until ctx ends. What fails is tried again; it is logged when it begins, when it
// changes and when it is over.
func (k *checkpoints) repeat(ctx context.Context, ticks <-chan time.Time, do func(context.Context) error, what string) {
	said := ""
	for {
		now := ""
		if err := do(ctx); err != nil {
			now = oneLine(err)
		}
		switch {
		case ctx.Err() != nil:
			return
		case now == said:
		case now == "":
			k.log.Info("it is over: " + what)
		default:
			k.log.Error(what, "error", now)
		}
		said = now
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
	}
}

// end signs what was decided last, and hands it over. It is called when nobody is let in any more.
func (k *checkpoints) end() {
	ctx, cancel := context.WithTimeout(context.Background(), lastCheckpoint)
	defer cancel()
	err := k.signer.Advance(ctx)
	if k.publisher != nil && err == nil {
		err = k.publisher.Publish(ctx)
	}
	if err != nil {
		k.log.Error("the end of the audit log was not signed, or not handed to the witness: the next start does it", "error", oneLine(err))
	}
}

// Descriptions of metrics.
var (
	checkpointSize = prometheus.NewDesc("ramzban_audit_checkpoint_entries", "Entries of this node's audit log that the newest checkpoint is over.", nil, nil)
	checkpointTime = prometheus.NewDesc("ramzban_audit_checkpoint_time_seconds", "When the newest checkpoint was signed, in Unix time; 0 before the first.", nil, nil)
	checkpointWait = prometheus.NewDesc("ramzban_audit_waiting_entries", "Entries that are in no checkpoint yet. The last checkpoint's own entry is one.", nil, nil)
	logBroken      = prometheus.NewDesc("ramzban_audit_log_broken", "1 while nothing is signed because the audit log was changed in the database.", nil, nil)
	witnessSize    = prometheus.NewDesc("ramzban_audit_witness_entries", "Entries that the checkpoint which the witness took last is over; -1 without a witness.", nil, nil)
	witnessRefuses = prometheus.NewDesc("ramzban_audit_witness_contradicts", "1 while the witness holds a checkpoint that this node's log contradicts.", nil, nil)
)

// Describe implements prometheus.Collector.
func (k *checkpoints) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(k, out) }

// Collect implements prometheus.Collector.
func (k *checkpoints) Collect(out chan<- prometheus.Metric) {
	s, p := k.signer.Stats(), keyservice.PublisherStats{Size: -1}
	if k.publisher != nil {
		p = k.publisher.Stats()
	}
	at := 0.0
	if !s.Time.IsZero() {
		at = float64(s.Time.UnixMilli()) / 1000
	}
	for desc, value := range map[*prometheus.Desc]float64{
		checkpointSize: float64(s.Size), checkpointTime: at, checkpointWait: float64(s.Waiting), logBroken: oneIf(s.Broken),
		witnessSize: float64(p.Size), witnessRefuses: oneIf(p.Refused),
	} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
