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

// openCheckpoints refuses a database that is older than what the witness, or the file that the configuration names, has of it;
// and a witness that cannot be asked, or lost what it had taken, unless the configuration or who starts the service says so.
func openCheckpoints(ctx context.Context, c AuditConfig, newWitness bool, s *keyservice.Service, log *slog.Logger) (*checkpoints, error) {
	w, err := c.witness(func(ctx context.Context, _ string) ([]audit.PublicKey, error) { // only this installation's notes are handed to it
		return s.PublicAuditKeys(ctx)
	})
	if err != nil {
		return nil, err
	}
	if newWitness && w == nil {
		return nil, wrong("audit.witness", "none is configured: start without --new-witness, or say where the witness is")
	}
	k := &checkpoints{signer: keyservice.NewCheckpointer(s), log: log}
	if c.Anchor != "" {
		note, err := os.ReadFile(c.Anchor)
		if err != nil {
			return nil, wrong("audit.anchor", "%v: put the checkpoint there, or correct the path", err)
		}
		if err := explainAnchor("audit.anchor", s.CheckAnchor(ctx, note)); err != nil {
			return nil, err
		}
	}
	if w == nil {
		return k, nil
	}
	k.publisher = keyservice.NewPublisher(k.signer, w)
	err = k.begin(ctx, newWitness)
	if errors.Is(err, keyservice.ErrWitnessAway) && c.Witness.Optional {
		log.Error("the witness cannot be asked whether this database was put back: that is found out when it is back, before it is handed anything", "error", oneLine(err))
		return k, nil
	}
	return k, explainAnchor("audit.witness", err)
}

func (k *checkpoints) begin(ctx context.Context, newWitness bool) error {
	ctx, cancel := context.WithTimeout(ctx, witnessLimit)
	defer cancel()
	return k.publisher.Begin(ctx, newWitness)
}

// explainAnchor says what to do about a database that does not have what was kept of it, and a witness that did not keep it.
func explainAnchor(key string, err error) error {
	switch {
	case errors.Is(err, keyservice.ErrWitnessAway):
		return fmt.Errorf("%s: %w: bring it back and start again; only with audit.witness.optional does the service start without it", key, err)
	case errors.Is(err, keyservice.ErrWitnessLost):
		return wrong(key, "%v: bring back what it held; if another one takes its place on purpose, start once with --new-witness", err)
	case errors.Is(err, keyservice.ErrWitnessKnown):
		return wrong(key, "%v: start without --new-witness", err)
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
func (k *checkpoints) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastCheckpoint)
	defer cancel()
	if err := k.signer.Advance(ctx); err != nil {
		return fmt.Errorf("the end of the audit log was not signed: %w: what is in no checkpoint could be cut off unseen until the next start signs it", err)
	}
	if k.publisher == nil {
		return nil
	}
	if err := k.publisher.Publish(ctx); err != nil {
		return fmt.Errorf("the audit log's last checkpoint was not handed to the witness: %w: its end could be cut off unseen until the next start hands it over", err)
	}
	return nil
}

// Descriptions of metrics.
var (
	checkpointSize = prometheus.NewDesc("ramzban_audit_checkpoint_entries", "Entries of this node's audit log that the newest checkpoint is over.", nil, nil)
	checkpointTime = prometheus.NewDesc("ramzban_audit_checkpoint_time_seconds", "When the newest checkpoint was signed, in Unix time; 0 before the first.", nil, nil)
	checkpointWait = prometheus.NewDesc("ramzban_audit_waiting_entries", "Entries that are in no checkpoint yet. The last checkpoint's own entry is one.", nil, nil)
	logBroken      = prometheus.NewDesc("ramzban_audit_log_broken", "1 while nothing is signed because the audit log was changed in the database.", nil, nil)
	witnessSize    = prometheus.NewDesc("ramzban_audit_witness_entries", "Entries that the checkpoint which the witness took last is over; -1 without a witness.", nil, nil)
	witnessRefuses = prometheus.NewDesc("ramzban_audit_witness_contradicts", "1 while the witness holds a checkpoint that this node's log contradicts, or lost what it had taken.", nil, nil)
	witnessAway    = prometheus.NewDesc("ramzban_audit_witness_away", "1 while the witness cannot be asked, or takes no checkpoint for another reason.", nil, nil)
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
		witnessSize: float64(p.Size), witnessRefuses: oneIf(p.Refused), witnessAway: oneIf(p.Away),
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
