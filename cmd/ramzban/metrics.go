package main

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
)

// newRegistry makes a registry with what is the same for every process.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "ramzban_build_info", Help: "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": versionString()}})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// crlMetric says when clients will be refused for want of a current revocation list; r is nil if there are none.
func crlMetric(r *revocations) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ramzban_client_crl_expiry_seconds",
		Help: "When the first of the clients' revocation lists expires, in Unix time; +Inf without lists."}, func() float64 {
		if r == nil {
			return math.Inf(1)
		}
		return float64(r.nextUpdate().Unix())
	})
}

// decisions counts what the key service decided; it is its keyservice.Observer. No label holds a serial or a customer.
type decisions struct {
	made     *prometheus.CounterVec
	tampered prometheus.Counter
}

func newDecisions(r prometheus.Registerer) *decisions {
	d := &decisions{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ramzban_decisions_total",
			Help: "Decisions written to the audit log."}, []string{"action", "outcome", "reason"}),
		// Its own counter, because it must be there with 0 for an alarm to see the first one.
		tampered: prometheus.NewCounter(prometheus.CounterOpts{Name: "ramzban_tampered_rows_total",
			Help: "Stored rows found changed outside the service. Any is an alarm."}),
	}
	r.MustRegister(d.made, d.tampered)
	return d
}

// Decided implements keyservice.Observer.
func (d *decisions) Decided(action authz.Action, outcome audit.Outcome, reason string) {
	d.made.WithLabelValues(string(action), string(outcome), reason).Inc()
	if outcome == audit.Tampered {
		d.tampered.Inc()
	}
}
