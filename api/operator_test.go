package api_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/keyservice/authz"
)

// gather reads the world's metrics as Prometheus would.
func (w *world) gather(t *testing.T) string {
	t.Helper()
	op := startOperator(t, api.OperatorOptions{Metrics: w.metrics, Ready: func(context.Context) error { return nil }})
	return op.get(t, http.DefaultClient, "/metrics").body
}

// operator is a running operator listener.
type operator struct{ base string }

func startOperator(t *testing.T, o api.OperatorOptions) operator {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o.Listener, o.Log = ln, slog.New(slog.DiscardHandler)
	op, err := api.NewOperator(o)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- op.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, op.Shutdown(ctx))
		require.NoError(t, <-served)
	})
	if o.TLS != nil {
		return operator{"https://" + ln.Addr().String()}
	}
	return operator{"http://" + ln.Addr().String()}
}

func (o operator) get(t *testing.T, c *http.Client, path string) reply {
	t.Helper()
	resp, err := c.Get(o.base + path)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp.StatusCode, resp.Header, string(b)}
}

func TestHealthAndReadiness(t *testing.T) {
	var missing error
	op := startOperator(t, api.OperatorOptions{
		Metrics: prometheus.NewRegistry(), Ready: func(context.Context) error { return missing },
	})
	require.Equal(t, 200, op.get(t, http.DefaultClient, "/healthz").status)
	require.Equal(t, 200, op.get(t, http.DefaultClient, "/readyz").status)
	missing = errors.New("hsm: no session")
	r := op.get(t, http.DefaultClient, "/readyz")
	require.Equal(t, 503, r.status)
	p := r.problem(t)
	require.Equal(t, "not_ready", p.Code)
	require.Equal(t, "hsm: no session", p.Detail)
	require.Equal(t, "5", r.header.Get("Retry-After"))
	require.Equal(t, 200, op.get(t, http.DefaultClient, "/healthz").status, "alive, though not ready")
	require.Equal(t, "route_not_found", op.get(t, http.DefaultClient, "/v1/time").problem(t).Code)
}

func TestMetrics(t *testing.T) {
	w := start(t, &recorder{}, nil)
	w.send("verifier", "POST", "/v1/verifications", verifyBody)
	w.send("verifier", "GET", "/v1/tokens/402519938461", "")
	w.send("verifier", "GET", "/v1/cards/6037991234567893", "")
	w.send("verifier", "GRAB", "/v1/tokens", "")
	m := w.gather(t)
	require.Contains(t, m, `ramzban_http_requests_total{method="POST",route="/v1/verifications",status="200"} 1`)
	require.Contains(t, m, `ramzban_http_requests_total{method="GET",route="/v1/tokens/{serial}",status="200"} 1`)
	require.Contains(t, m, `ramzban_http_requests_total{method="GET",route="unmatched",status="404"} 1`)
	require.Contains(t, m, `ramzban_http_requests_total{method="other",route="/v1/tokens",status="405"} 1`)
	require.Contains(t, m, `ramzban_http_request_duration_seconds_count{route="/v1/verifications"} 1`)
	require.Contains(t, m, "ramzban_http_requests_in_flight 0")
	require.NotContains(t, m, "402519938461")
	require.NotContains(t, m, "6037991234567893")
	require.NotContains(t, m, "GRAB")
}

// TestOperatorWithTLS: only the role operator may read, whatever the path.
func TestOperatorWithTLS(t *testing.T) {
	w := start(t, &recorder{}, nil)
	dir, err := authz.NewDirectory(roleNames())
	require.NoError(t, err)
	op := startOperator(t, api.OperatorOptions{
		Metrics: w.metrics, Ready: func(context.Context) error { return nil }, Directory: dir,
		TLS: &tls.Config{Certificates: []tls.Certificate{w.ca.certify("server", nil)}, ClientCAs: w.ca.pool()},
	})
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		require.Equal(t, 200, op.get(t, w.as("operator"), path).status)
		for _, role := range authz.Roles() {
			if role != authz.Operator {
				r := op.get(t, w.as(string(role)), path)
				require.Equal(t, 403, r.status)
				require.Equal(t, "not_allowed", r.problem(t).Code)
			}
		}
		require.Equal(t, "certificate_unknown", op.get(t, w.as("stranger"), path).problem(t).Code)
		_, err := w.as("").Get(op.base + path)
		require.Error(t, err, "no certificate, no handshake")
	}
}

// TestOperatorListenerIsNeverOpen: plain HTTP beyond the host itself is refused when the listener is made.
func TestOperatorListenerIsNeverOpen(t *testing.T) {
	ready := func(context.Context) error { return nil }
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	ca := newAuthority(t, "a")
	for name, c := range map[string]struct {
		options api.OperatorOptions
		says    string
	}{
		"plain on every address": {api.OperatorOptions{Listener: ln, Ready: ready, Metrics: prometheus.NewRegistry()}, "not on a loopback address"},
		"TLS without client CAs": {api.OperatorOptions{Listener: ln, Ready: ready, Metrics: prometheus.NewRegistry(), Directory: &authz.Directory{},
			TLS: &tls.Config{Certificates: []tls.Certificate{ca.certify("s", nil)}}}, "ClientCAs"},
		"TLS without directory": {api.OperatorOptions{Listener: ln, Ready: ready, Metrics: prometheus.NewRegistry(),
			TLS: &tls.Config{Certificates: []tls.Certificate{ca.certify("s", nil)}, ClientCAs: ca.pool()}}, "directory"},
		"no readiness": {api.OperatorOptions{Listener: ln, Metrics: prometheus.NewRegistry()}, "Ready"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.NewOperator(c.options)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// TestMetricsAreRegisteredOnce: two servers on one registry are a mistake that New reports.
func TestMetricsAreRegisteredOnce(t *testing.T) {
	w := start(t, &recorder{}, nil)
	dir, err := authz.NewDirectory(nil)
	require.NoError(t, err)
	_, err = api.New(api.Options{Service: &recorder{}, Directory: dir, Metrics: w.metrics, TLS: &tls.Config{
		Certificates: []tls.Certificate{w.ca.certify("server", nil)}, ClientCAs: w.ca.pool(),
	}})
	require.ErrorContains(t, err, "metrics")
	require.True(t, strings.HasPrefix(err.Error(), "api: "))
}
