package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"ramzban/hsm"
)

// hsmMetrics turns the HSM's statistics into metrics when they are asked for. It never calls the module.
type hsmMetrics struct{ stats func() hsm.Stats }

// hsmMetric is one figure of the statistics.
type hsmMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	label string // value of the one variable label, if the metric has one
	read  func(hsm.Stats) float64
}

var (
	hsmSessions = prometheus.NewDesc("ramzban_hsm_sessions", "Sessions allowed now.", []string{"pool"}, nil)
	hsmInUse    = prometheus.NewDesc("ramzban_hsm_sessions_in_use", "Sessions at work.", []string{"pool"}, nil)
	hsmChanges  = prometheus.NewDesc("ramzban_hsm_generation_changes_total", "Times that everything known of the HSM was learnt anew.",
		[]string{"cause"}, nil)
)

var hsmFigures = []hsmMetric{
	hsmGauge("ready", "1 when the HSM can be used.", func(s hsm.Stats) float64 { return truth(s.Ready) }),
	hsmGauge("latched", "1 when only a restart helps: a refused PIN, or a hung module.", func(s hsm.Stats) float64 { return truth(s.Latched) }),
	hsmGauge("generation", "How often the module was initialised.", func(s hsm.Stats) float64 { return float64(s.Generation) }),
	hsmGauge("operations", "Operations in progress.", func(s hsm.Stats) float64 { return float64(s.Leases) }),
	hsmGauge("cached_seeds", "Seeds kept unwrapped in the HSM.", func(s hsm.Stats) float64 { return float64(s.CachedSeeds) }),
	hsmGauge("seed_cache_size", "The most seeds kept unwrapped.", func(s hsm.Stats) float64 { return float64(s.SeedCacheSize) }),
	hsmGauge("longest_call_seconds", "For how long the longest call in progress has been running.",
		func(s hsm.Stats) float64 { return s.LongestCall.Seconds() }),
	hsmGauge("destroyed_objects", "Session objects destroyed in this generation.", func(s hsm.Stats) float64 { return float64(s.DestroyedObjects) }),
	hsmCount("macs", "MACs made.", func(s hsm.Stats) uint64 { return s.MACs }),
	hsmCount("unwraps", "Seeds unwrapped.", func(s hsm.Stats) uint64 { return s.Unwraps }),
	hsmCount("signatures", "Checkpoints of the audit log signed.", func(s hsm.Stats) uint64 { return s.Signatures }),
	hsmCount("enrolments", "Seeds made.", func(s hsm.Stats) uint64 { return s.Enrolments }),
	hsmCount("seed_cache_hits", "Seeds found unwrapped.", func(s hsm.Stats) uint64 { return s.SeedHits }),
	hsmCount("seed_cache_misses", "Seeds that had to be unwrapped.", func(s hsm.Stats) uint64 { return s.SeedMisses }),
	hsmCount("sessions_opened", "Sessions opened.", func(s hsm.Stats) uint64 { return s.SessionsOpened }),
	hsmCount("sessions_dropped", "Sessions given up as broken.", func(s hsm.Stats) uint64 { return s.SessionsDropped }),
	hsmCount("busy_waits", "Pauses because the HSM was busy.", func(s hsm.Stats) uint64 { return s.BusyWaits }),
	hsmCount("failures", "Operations that failed.", func(s hsm.Stats) uint64 { return s.Failures }),
	hsmCount("destroy_failures", "Seeds that could not be destroyed at once.", func(s hsm.Stats) uint64 { return s.DestroyFailures }),
	hsmCount("reopen_failures", "Failed attempts to get the HSM back.", func(s hsm.Stats) uint64 { return s.ReopenFailures }),
	{hsmSessions, prometheus.GaugeValue, "workers", func(s hsm.Stats) float64 { return float64(s.PoolSessions) }},
	{hsmSessions, prometheus.GaugeValue, "owners", func(s hsm.Stats) float64 { return float64(s.OwnerSessions) }},
	{hsmInUse, prometheus.GaugeValue, "workers", func(s hsm.Stats) float64 { return float64(s.PoolInUse) }},
	{hsmInUse, prometheus.GaugeValue, "owners", func(s hsm.Stats) float64 { return float64(s.OwnerInUse) }},
	{hsmChanges, prometheus.CounterValue, "login", func(s hsm.Stats) float64 { return float64(s.LoginsLost) }},
	{hsmChanges, prometheus.CounterValue, "handles", func(s hsm.Stats) float64 { return float64(s.HandlesLost) }},
	{hsmChanges, prometheus.CounterValue, "device", func(s hsm.Stats) float64 { return float64(s.DevicesLost) }},
	{hsmChanges, prometheus.CounterValue, "recycled", func(s hsm.Stats) float64 { return float64(s.Recycled) }},
}

func hsmGauge(name, help string, read func(hsm.Stats) float64) hsmMetric {
	return hsmMetric{desc: prometheus.NewDesc("ramzban_hsm_"+name, help, nil, nil), kind: prometheus.GaugeValue, read: read}
}

func hsmCount(name, help string, read func(hsm.Stats) uint64) hsmMetric {
	return hsmMetric{desc: prometheus.NewDesc("ramzban_hsm_"+name+"_total", help, nil, nil), kind: prometheus.CounterValue,
		read: func(s hsm.Stats) float64 { return float64(read(s)) }}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (m hsmMetrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m hsmMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.stats()
	for _, f := range hsmFigures {
		var labels []string
		if f.label != "" {
			labels = []string{f.label}
		}
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(s), labels...)
	}
}
