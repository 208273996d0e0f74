package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ramzban/api"
	"ramzban/hsm"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
)

// node is the running service: every part opened and joined to the others.
type node struct {
	config   Config
	log      *slog.Logger
	clock    func() time.Time // of everything that is decided by time; tests move it
	on       listeners
	hsm      *hsm.HSM
	db       engine
	api      *api.Server
	operator *api.Operator
	stopping atomic.Bool
	fatal    chan error // the HSM module hangs: the process must end

	newDatabase bool // the database is to be made
	newWitness  bool // the witness takes the place of another one

	persons    keyservice.Persons // whose signatures count
	service    *keyservice.Service
	signing    *checkpoints
	skew       *skew
	jobs       sync.WaitGroup // what runs without being asked; see startJobs
	cancelJobs context.CancelFunc
}

func newNode(c Config, log *slog.Logger) *node {
	return &node{config: c, log: log, clock: time.Now, fatal: make(chan error, 1)}
}

// open opens the parts, the cheap ones to check first. Nobody is let in before the last one is open.
func (n *node) open(ctx context.Context) error {
	conf, revoked, err := n.config.API.tlsConfig(n.log, n.clock)
	if err != nil {
		return err
	}
	directory, err := n.config.directory()
	if err != nil {
		return err
	}
	if err := n.config.Store.check(n.newDatabase); err != nil {
		return err
	}
	registry := newRegistry()
	registry.MustRegister(crlMetric(revoked))
	n.persons = keyservice.Persons{Directory: directory, Roots: conf.ClientCAs, Officers: n.config.Officers}
	if revoked != nil {
		n.persons.Revoked = revoked.verifyChain
	}
	service, err := n.openService(ctx, registry)
	if err != nil {
		return err
	}
	n.service = service
	if n.signing, err = openCheckpoints(ctx, n.config.Audit, n.newWitness, service, n.log); err != nil {
		return err
	}
	registry.MustRegister(n.signing)
	if n.on, err = listen(n.config); err != nil {
		return err
	}
	if n.api, err = api.New(api.Options{
		Service: service, Directory: directory, TLS: conf, Clock: n.clock, Log: n.log, Metrics: registry, Version: versionString(),
		Requests:       api.Rate{PerSecond: float64(n.config.Limits.RequestsPerSecond), Burst: n.config.Limits.RequestsAtOnce},
		Denials:        api.Rate{PerSecond: float64(n.config.Limits.DenialsPerSecond), Burst: n.config.Limits.DenialsAtOnce},
		HandlerTimeout: time.Duration(n.config.Timeouts.Request), ComparisonTimeout: time.Duration(n.config.Timeouts.Comparison),
	}); err != nil {
		return err
	}
	o := api.OperatorOptions{Listener: n.on.operator, Directory: directory, Ready: n.ready, Clock: n.clock, Metrics: registry, Log: n.log}
	if n.config.Operator.TLS {
		o.TLS = conf
	}
	n.operator, err = api.NewOperator(o)
	return err
}

// openService opens the HSM and the database, and makes the use cases over both.
func (n *node) openService(ctx context.Context, registry *prometheus.Registry) (_ *keyservice.Service, err error) {
	if n.hsm, err = openHSM(ctx, n.config.HSM, n.log, func(err error) { n.fatal <- err }); err != nil {
		return nil, err
	}
	log := audit.NewLog(n.config.Node)
	if n.db, err = openStore(ctx, n.config, engineOptions{create: n.newDatabase, sequencer: log.Sequence, clock: n.clock, log: n.log}); err != nil {
		return nil, err
	}
	n.skew = &skew{now: n.clock, store: n.db.Now}
	registry.MustRegister(hsmMetrics{stats: n.hsm.Stats}, n.skew.metric())
	service, err := keyservice.New(ctx, keyservice.Config{
		HSM: n.hsm, Store: newMeasuredStore(registry, n.db, n.config.Store), Audit: log, Node: n.config.Node,
		Profiles: n.config.profiles(), Uses: n.config.Uses, Guess: n.config.Guessing.Limits(),
		Renewal: keyservice.Renewal{PerSecond: n.config.Limits.RenewalsPerSecond}, FailedSubjects: n.config.Limits.FailedSubjectsPerHour, Clock: n.clock, Log: n.log, Observer: newDecisions(registry),
		Persons: n.persons,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the key service: %w", err)
	}
	return service, nil
}

// ready says why the service cannot decide now; nil when it can. The HSM makes one MAC for it, the database reads a row.
func (n *node) ready(ctx context.Context) error {
	if n.stopping.Load() {
		return errors.New("the service is stopping")
	}
	if err := n.db.Err(); err != nil {
		return fmt.Errorf("the database failed: %w", err)
	}
	if _, err := n.db.Get(ctx, "ready"); err != nil { // no such row: what matters is that it answers
		return fmt.Errorf("the database does not answer: %w", err)
	}
	if err := n.config.Store.stuck(n.db); err != nil {
		return err
	}
	return n.hsm.Ready(ctx)
}

// close closes the database before the HSM: nothing is decided any more by then. A failed database is left as it is: to
// close it would only repeat what failed, and opening it again finds out what is there.
func (n *node) close() error {
	errs := []error{n.on.close()}
	if n.db != nil && n.db.Err() == nil {
		errs = append(errs, n.db.Close())
	}
	if n.hsm != nil {
		errs = append(errs, n.hsm.Close())
	}
	return errors.Join(errs...)
}
