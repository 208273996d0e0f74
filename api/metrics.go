package api

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests. Labels are bounded: route patterns, known methods, statuses.
type metrics struct {
	requests   *prometheus.CounterVec
	latency    *prometheus.HistogramVec
	inFlight   prometheus.Gauge
	handshakes prometheus.Counter
	refused    prometheus.Counter
	limited    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, l *lines) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ramzban_http_requests_total", Help: "Requests answered, by route pattern, method and status.",
		}, []string{"route", "method", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ramzban_http_request_duration_seconds", Help: "Time from the request read to the answer made, by route pattern.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ramzban_http_requests_in_flight", Help: "Requests being answered now.",
		}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ramzban_tls_handshake_failures_total", Help: "TLS handshakes that failed, bad client certificates included.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ramzban_connections_refused_total", Help: "Connections closed at once because clients hold all there may be.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ramzban_http_requests_limited_total",
			Help: "Requests refused because their client asks, or is denied, too often; by configured client, empty for who is none.",
		}, []string{"client"}),
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ramzban_connections_open", Help: "Open connections of the API.",
	}, func() float64 { n, _ := l.count(); return float64(n) })
	replaced := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "ramzban_connections_replaced_total",
		Help: "Connections without a client's certificate, or without one yet, that were closed for another.",
	}, func() float64 { _, n := l.count(); return float64(n) })
	for _, c := range []prometheus.Collector{m.requests, m.latency, m.inFlight, m.handshakes, m.refused, m.limited, open, replaced} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("api: registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(x *exchange, status int, took time.Duration) {
	m.requests.WithLabelValues(routeLabel(x.route), methodLabel(x.method), strconv.Itoa(status)).Inc()
	m.latency.WithLabelValues(routeLabel(x.route)).Observe(took.Seconds())
}

func knownMethod(m string) bool { return slices.Contains(fiber.DefaultMethods, m) }

// methodLabel keeps invented methods out of labels and logs.
func methodLabel(m string) string {
	if knownMethod(m) {
		return m
	}
	return "other"
}

// routeLabel keeps paths that are no route out of labels and logs: they may hold anything.
func routeLabel(route string) string {
	if route == "" {
		return "unmatched"
	}
	return route
}
