package main

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
)

// measuredStore times the commits of a store.
type measuredStore struct {
	store.Store
	seconds *prometheus.HistogramVec
}

// newMeasuredStore wraps a database of either kind.
func newMeasuredStore(r prometheus.Registerer, db engine, c StoreConfig) *measuredStore {
	m := &measuredStore{Store: db, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "ramzban_store_commit_seconds", Help: "How long callers wait for a change to be on disk.",
		Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"outcome"})}
	r.MustRegister(m.seconds,
		storeGauge("failed", "1 when the database cannot be used any more and the process is about to end.", func() float64 { return truth(db.Err() != nil) }))
	if c.Badger != nil {
		r.MustRegister(
			storeGauge("reserve_bytes", "Space of the database's disk that is kept free.", func() float64 { return float64(c.Badger.Reserve) }),
			storeGauge("free_bytes", "Free space on the database's disk; -1 when it cannot be found out.", func() float64 { return freeBytes(c.Badger.Dir) }))
	}
	if p, shared := db.(*pgstore.Store); shared {
		r.MustRegister(postgresMetrics{stats: p.Stats})
	}
	return m
}

func storeGauge(name, help string, read func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ramzban_store_" + name, Help: help}, read)
}

func freeBytes(dir string) float64 {
	free, err := badgerstore.FreeSpace(dir)
	if err != nil {
		return -1
	}
	return float64(free)
}

// Commit implements store.Store.
func (m *measuredStore) Commit(ctx context.Context, change store.Change) (uint64, error) {
	began := time.Now()
	index, err := m.Store.Commit(ctx, change)
	m.seconds.WithLabelValues(commitOutcome(err)).Observe(time.Since(began).Seconds())
	return index, err
}

func commitOutcome(err error) string {
	for _, o := range []struct {
		err  error
		name string
	}{{nil, "committed"}, {store.ErrConflict, "conflict"}, {store.ErrNoSpace, "no_space"}, {store.ErrUnknown, "unknown"}} {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return "failed"
}
