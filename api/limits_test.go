package api_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// limited is a server with these limits, whose clock stands still until it is moved.
func limited(t *testing.T, s api.Service, requests, denials api.Rate) (*world, func(time.Duration)) {
	t.Helper()
	began, passed := time.Now(), &atomic.Int64{}
	w := start(t, s, func(o *api.Options) {
		o.Requests, o.Denials = requests, denials
		o.Clock = func() time.Time { return began.Add(time.Duration(passed.Load())) }
	})
	return w, func(d time.Duration) { passed.Add(int64(d)) }
}

// tooMany fails the test unless r is a refusal that says how long to wait.
func tooMany(t *testing.T, r reply, after string) {
	t.Helper()
	require.Equal(t, 429, r.status, r.body)
	require.Equal(t, "too_many_requests", r.problem(t).Code)
	require.Equal(t, after, r.header.Get("Retry-After"))
}

// TestClientAboveItsRate: what is above a client's rate reaches no use case, and no other client feels it.
func TestClientAboveItsRate(t *testing.T) {
	rec := &recorder{}
	w, pass := limited(t, rec, api.Rate{PerSecond: .5, Burst: 3}, api.Rate{})
	verify := func(client string) reply { return w.send(client, "POST", "/v1/verifications", verifyBody) }
	for range 3 {
		require.Equal(t, 200, verify("verifier").status)
	}
	tooMany(t, verify("verifier"), "2")
	tooMany(t, w.send("verifier", "GET", "/v1/nothing", ""), "2")
	require.Len(t, rec.seen(), 3)
	require.Equal(t, 200, w.send("issuer", "GET", "/v1/tokens/402519938461", "").status)
	pass(2 * time.Second)
	require.Equal(t, 200, verify("verifier").status)
	tooMany(t, verify("verifier"), "2")
	require.Contains(t, w.gather(t), `ramzban_http_requests_limited_total{client="the-verifier"} 3`)
	require.NotContains(t, infoLines(w), `"code":"too_many_requests"`, "the log is not filled instead")
}

// TestEveryRouteHasTheRate: above its rate a client reaches no use case on any route of the OpenAPI document.
func TestEveryRouteHasTheRate(t *testing.T) {
	rec := &recorder{}
	w, _ := limited(t, rec, api.Rate{PerSecond: .001, Burst: 1}, api.Rate{})
	routes := w.document(t).Paths
	for _, role := range authz.Roles() {
		w.send(string(role), "GET", "/v1/nothing", "")
	}
	tried := 0
	for path, item := range routes {
		for method, op := range item {
			if op.Role == "" {
				continue
			}
			r := w.send(op.Role, strings.ToUpper(method), concrete.Replace(path), "")
			require.Equal(t, 429, r.status, method+" "+path)
			require.Equal(t, "too_many_requests", r.problem(t).Code)
			tried++
		}
	}
	require.GreaterOrEqual(t, tried, 19)
	require.Empty(t, rec.seen())
}

// infoLines is the log as it is without its debug lines.
func infoLines(w *world) string {
	var kept strings.Builder
	for line := range strings.Lines(w.log.String()) {
		if !strings.Contains(line, `"level":"DEBUG"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// TestDeniedTooOften: who is denied too often is refused where it was denied, without another denial, and can still do
// what it may do.
func TestDeniedTooOften(t *testing.T) {
	rec := &recorder{hook: func(_ context.Context, use string) error {
		if use != "verify" {
			return &keyservice.Error{Code: keyservice.CodeDenied, Detail: "no", Err: authz.ErrDenied}
		}
		return nil
	}}
	w, pass := limited(t, rec, api.Rate{}, api.Rate{PerSecond: .25, Burst: 2})
	show := func() reply { return w.send("verifier", "GET", "/v1/tokens/402519938461", "") }
	for range 2 {
		require.Equal(t, "not_allowed", show().problem(t).Code)
	}
	for range 5 {
		tooMany(t, show(), "4")
	}
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status, "its own route")
	suspend := func() reply { return w.send("verifier", "POST", "/v1/tokens/402519938461/suspend", "") }
	require.Equal(t, "not_allowed", suspend().problem(t).Code, "not yet known to be denied")
	tooMany(t, suspend(), "8")
	require.Len(t, rec.seen(), 4)
	require.Equal(t, "not_allowed", w.send("auditor", "GET", "/v1/tokens/402519938461", "").problem(t).Code, "another client")
	pass(8 * time.Second)
	require.Equal(t, "not_allowed", show().problem(t).Code)
	tooMany(t, show(), "4")
}

// TestDenialsDoNotFillTheAuditLog: a certificate whose role grants nothing asks in a loop; the durable entries are
// bounded by the default budget, whatever the number of requests.
func TestDenialsDoNotFillTheAuditLog(t *testing.T) {
	b := openBank(t)
	began, asked := time.Now(), 300
	for range asked {
		r := b.send("operator", "POST", "/v1/verifications", verifyBody)
		require.Contains(t, []int{403, 429}, r.status, r.body)
	}
	budget := 50 + int(5*time.Since(began).Seconds()) + 1
	denied := b.outcomes(t)["denied"]
	require.GreaterOrEqual(t, denied, 50)
	require.LessOrEqual(t, denied, budget)
	require.Less(t, budget, asked, "the loop was fast enough to show anything")
}

// TestUnknownCertificatesAboveTheirRate: each certificate that is nobody's is told so a few times, and logged as often.
func TestUnknownCertificatesAboveTheirRate(t *testing.T) {
	w, pass := limited(t, &recorder{}, api.Rate{}, api.Rate{PerSecond: 1, Burst: 2})
	verify := func(certificate string) reply { return w.send(certificate, "POST", "/v1/verifications", verifyBody) }
	for range 2 {
		require.Equal(t, "certificate_unknown", verify("stranger").problem(t).Code)
	}
	tooMany(t, verify("stranger"), "1")
	require.Equal(t, "certificate_unknown", verify("another").problem(t).Code)
	require.Equal(t, 3, strings.Count(w.log.String(), "belongs to no configured client"))
	require.Contains(t, w.gather(t), `ramzban_http_requests_limited_total{client=""} 1`)
	pass(time.Second)
	require.Equal(t, "certificate_unknown", verify("stranger").problem(t).Code)
}

// TestAddressesAboveTheirRate: without a certificate, the address has the rate of a client; clients have their own.
func TestAddressesAboveTheirRate(t *testing.T) {
	w, _ := limited(t, &recorder{}, api.Rate{PerSecond: 1, Burst: 2}, api.Rate{})
	for range 2 {
		require.Equal(t, 200, w.send("", "GET", "/v1/time", "").status)
	}
	tooMany(t, w.send("", "GET", "/v1/time", ""), "1")
	tooMany(t, w.send("", "POST", "/v1/verifications", verifyBody), "1")
	require.Equal(t, 200, w.send("verifier", "GET", "/v1/time", "").status)
}
