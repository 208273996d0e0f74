package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"ramzban/keyservice/store/pgstore"
)

// postgresMetrics turns the cluster engine's statistics into metrics when they are asked for.
type postgresMetrics struct{ stats func() pgstore.Stats }

var (
	postgresConnections = prometheus.NewDesc("ramzban_postgres_connections", "Connections for reading.", []string{"state"}, nil)
	postgresAllowed     = prometheus.NewDesc("ramzban_postgres_connections_max", "The most connections for reading.", nil, nil)
	postgresWaits       = prometheus.NewDesc("ramzban_postgres_connection_waits_total", "Reads that waited for a connection.", nil, nil)
	postgresWaited      = prometheus.NewDesc("ramzban_postgres_connection_wait_seconds_total", "For how long they did.", nil, nil)
	postgresResolved    = prometheus.NewDesc("ramzban_postgres_resolved_commits_total",
		"Commits of which it was first not known, and then found out, what became of them.", []string{"result"}, nil)
	postgresResolving = prometheus.NewDesc("ramzban_postgres_resolving_seconds_total", "How long finding out took.", nil, nil)
	postgresUnknown   = prometheus.NewDesc("ramzban_postgres_unknown_seconds",
		"For how long it has not been known what became of the present commit; 0 when it is.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m postgresMetrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m postgresMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.stats()
	for _, f := range []struct {
		desc   *prometheus.Desc
		kind   prometheus.ValueType
		value  float64
		labels []string
	}{
		{postgresConnections, prometheus.GaugeValue, float64(s.ConnsUsed), []string{"in_use"}},
		{postgresConnections, prometheus.GaugeValue, float64(s.Conns - s.ConnsUsed), []string{"idle"}},
		{postgresAllowed, prometheus.GaugeValue, float64(s.MaxConns), nil},
		{postgresWaits, prometheus.CounterValue, float64(s.Waits), nil},
		{postgresWaited, prometheus.CounterValue, s.Waited.Seconds(), nil},
		{postgresResolved, prometheus.CounterValue, float64(s.Committed), []string{"committed"}},
		{postgresResolved, prometheus.CounterValue, float64(s.Voided), []string{"not_committed"}},
		{postgresResolving, prometheus.CounterValue, s.Resolving.Seconds(), nil},
		{postgresUnknown, prometheus.GaugeValue, s.Unknown.Seconds(), nil},
	} {
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value, f.labels...)
	}
}
