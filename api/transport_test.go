package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

const (
	verifyBody = `{"serial":"402519938461","use":"second-pin","otp":"492039"}`
	issueBody  = `{"class":"card","subject":"6037991234567893","channel":"app","profile":"offline-60","uses":["second-pin"]}`
)

// goClient is the Go client of the API with the certificate of this name.
func (w *world) goClient(name string) *client.Client {
	w.t.Helper()
	conf := w.tls(name)
	o := client.Options{BaseURL: "https://" + w.addr}
	if name == "" {
		o.CAFile, _, _ = w.ca.files(w.ca.certify("nobody", nil))
	} else {
		o.CAFile, o.CertFile, o.KeyFile = w.ca.files(conf.Certificates[0])
	}
	c, err := client.New(o)
	require.NoError(w.t, err)
	w.t.Cleanup(c.Close)
	return c
}

// TestEveryRouteReachesItsUseCase calls each route through the Go client and looks at both ends.
func TestEveryRouteReachesItsUseCase(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	ctx := t.Context()
	issuer, activator, auditor := w.goClient("issuer"), w.goClient("activator"), w.goClient("auditor")
	pin := strings.Repeat("ab", 32)

	issued, err := issuer.Issue(ctx, wire.IssueRequest{
		Class: "card", Subject: "6037991234567893", Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"}, DeviceKeySHA256: pin,
	})
	require.NoError(t, err)
	require.Equal(t, wire.IssueAnswer{Serial: "402519938461", Status: "issued", Activation: &wire.Activation{ID: "5d0f", ExpiresAt: someTime}}, issued)
	_, err = issuer.RenewActivationCode(ctx, "402519938461")
	require.NoError(t, err)
	code, err := w.goClient("courier").CollectCode(ctx, "5d0f")
	require.NoError(t, err)
	require.Equal(t, "83920174", code.Code)
	activated, err := activator.Activate(ctx, "402519938461", wire.ActivationRequest{
		Subject: "6037991234567893", ActivationCode: "83920174", Device: &wire.Device{ID: "a1b2", Channel: "app", PublicKey: []byte("key")},
	})
	require.NoError(t, err)
	require.Equal(t, wire.OTP{Type: "totp", Hash: "SHA1", Digits: 6, Period: 60}, activated.OTP)
	require.Equal(t, &wire.WrappedSeed{Alg: "RSA-OAEP", Wrapped: []byte("sealed")}, activated.Seed)
	confirmed, err := activator.Confirm(ctx, "402519938461", wire.ConfirmationRequest{Proof: []byte("proof")})
	require.NoError(t, err)
	require.Equal(t, wire.StatusAnswer{Serial: "402519938461", Status: "active"}, confirmed)
	token, err := issuer.Token(ctx, "402519938461")
	require.NoError(t, err)
	require.Equal(t, "****7893", token.Subject)
	require.Equal(t, -61, token.DriftSeconds)
	for want, do := range map[string]func(context.Context, string) (wire.StatusAnswer, error){
		"suspended": issuer.Suspend, "active": issuer.Resume, "deactivated": issuer.Deactivate,
	} {
		s, err := do(ctx, "402519938461")
		require.NoError(t, err)
		require.Equal(t, want, s.Status)
	}
	verdict, err := w.goClient("verifier").Verify(ctx, wire.VerificationRequest{Serial: "402519938461", Use: "second-pin", OTP: "492039"})
	require.NoError(t, err)
	require.Equal(t, wire.VerificationAnswer{
		Result: "refused", Reason: "throttled", Serial: "402519938461", RetryAfterSeconds: 2, Audit: wire.Audit{Node: "n1", Index: 1842},
	}, verdict)
	query := client.AuditQuery{
		Node: "n1", From: 7, Limit: 50, Serial: "402519938461", Action: "otp.verify", Actor: "core", Outcome: "refused",
		Since: someTime, Until: someTime.Add(time.Millisecond), Leaves: true,
	}
	page, err := auditor.AuditEntries(ctx, query)
	require.NoError(t, err)
	require.Equal(t, uint64(12), page.Next)
	require.Equal(t, uint64(11), page.Entries[0].Index)
	require.EqualValues(t, 20, page.End)
	leaf, err := audit.Decode(page.Entries[0].Leaf)
	require.NoError(t, err)
	require.Equal(t, "otp.verify", leaf.Action)
	var streamed []uint64
	summary, err := auditor.StreamAudit(ctx, query, func(e wire.AuditEntry) error {
		streamed = append(streamed, e.Index)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []uint64{11, 16, 21}, streamed)
	require.Equal(t, wire.AuditSummary{Entries: 3, Next: 22, Complete: true}, summary)
	newest, err := auditor.AuditCheckpoint(ctx, "n1")
	require.NoError(t, err)
	require.Equal(t, wire.CheckpointAnswer{Node: "n1", Origin: "ramzban/5d0f/n1", Size: 20, Root: someTree.Hash[:], Time: someTime, Note: "note\n"}, newest)
	included, err := auditor.ProveInclusion(ctx, "n1", 7, 19)
	require.NoError(t, err)
	require.Equal(t, [][]byte{someTree.Hash[:]}, included.Proof)
	consistent, err := auditor.ProveConsistency(ctx, "n1", 7, 20)
	require.NoError(t, err)
	require.Equal(t, []uint64{7, 20, 0}, []uint64{consistent.From.Size, consistent.To.Size, uint64(len(consistent.Proof))})
	keys, err := auditor.AuditKeys(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, keys.Keys[0].Version)
	logs, err := auditor.AuditLogs(ctx)
	require.NoError(t, err)
	require.Equal(t, []wire.AuditLog{{Node: "n1", Entries: 5}}, logs.Logs)
	none, err := auditor.CompareAudit(ctx)
	require.NoError(t, err)
	require.NotNil(t, none.Discrepancies)
	now, err := w.goClient("").Time(ctx)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), now.Time, time.Minute)

	seen := map[string]call{}
	for _, c := range rec.seen() {
		seen[c.name] = c
		require.NotEmpty(t, c.requestID)
	}
	require.Len(t, seen, 18, "every use case once")
	require.Equal(t, authz.Caller{Name: "the-issuer", Roles: []authz.Role{authz.Issuer}}, seen["issue"].caller)
	require.Equal(t, keyservice.IssueRequest{
		Class: "card", Subject: seed.NewSubject("6037991234567893"), Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"},
		Mobile: seed.NewMobile(""), DeviceKeySHA256: bytes.Repeat([]byte{0xab}, 32),
	}, seen["issue"].input)
	require.Equal(t, keyservice.ActivateRequest{
		Serial: "402519938461", Subject: seed.NewSubject("6037991234567893"), Code: seed.NewCode("83920174"), DeviceID: "a1b2",
		Channel: "app", KeyDER: []byte("key"),
	}, seen["activate"].input)
	require.Equal(t, keyservice.VerifyRequest{Serial: "402519938461", Subject: seed.NewSubject(""), Use: "second-pin", OTP: seed.NewPassword("492039")}, seen["verify"].input)
	wanted := keyservice.AuditQuery{
		Node: "n1", From: 7, Limit: 50, Serial: "402519938461", Action: "otp.verify", Actor: "core", Outcome: "refused",
		Since: someTime, Until: someTime.Add(time.Millisecond),
	}
	require.Equal(t, wanted, seen["entries"].input)
	wanted.Limit = 0
	require.Equal(t, wanted, seen["stream"].input)
	require.Equal(t, "n1", seen["checkpoint"].input)
	require.Equal(t, sizes{"n1", 7, 19}, seen["inclusion"].input)
	require.Equal(t, sizes{"n1", 7, 20}, seen["consistency"].input)
}

// TestErrorsOfUseCases: status from the error map, detail from the use case, cause in the log only.
func TestErrorsOfUseCases(t *testing.T) {
	var fail error
	rec := &recorder{hook: func(context.Context, string) error { return fail }}
	w := start(t, rec, nil)
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		detail string
		retry  string
	}{
		"denied":          {&keyservice.Error{Code: keyservice.CodeDenied, Detail: "no", Err: authz.ErrDenied}, 403, "not_allowed", "no", ""},
		"outage":          {&keyservice.Error{Code: keyservice.CodeHSMUnavailable, Detail: "later", Err: errors.New("cause-4711")}, 503, "hsm_unavailable", "later", "5"},
		"unknown outcome": {&keyservice.Error{Code: keyservice.CodeOutcomeUnknown, Detail: "look", Err: errors.New("cause-4711")}, 503, "outcome_unknown", "look", ""},
		"internal":        {&keyservice.Error{Code: keyservice.CodeInternal, Detail: "inside", Err: errors.New("cause-4711")}, 500, "internal", "give the operator the request id: the log says why", ""},
		"a new code":      {&keyservice.Error{Code: "brand_new", Detail: "inside"}, 500, "internal", "give the operator the request id: the log says why", ""},
		"a plain error":   {errors.New("cause-4711"), 500, "internal", "give the operator the request id: the log says why", ""},
		"out of time":     {context.DeadlineExceeded, 503, "outcome_unknown", "it is not known whether this was done: repeat it under the same Idempotency-Key, or without one look before you repeat it", ""},
	} {
		t.Run(name, func(t *testing.T) {
			fail = c.err
			r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
			p := r.problem(t)
			require.Equal(t, c.status, p.Status)
			require.Equal(t, c.code, p.Code)
			require.Equal(t, c.detail, p.Detail)
			require.Equal(t, c.retry, r.header.Get("Retry-After"))
			require.NotContains(t, r.body, "4711")
		})
	}
	require.Regexp(t, regexp.MustCompile(`"level":"ERROR".*"code":"internal","cause":"[^"]*cause-4711"`), w.log.String())
}

func TestPanicIsAnInternalError(t *testing.T) {
	rec := &recorder{hook: func(context.Context, string) error { panic("secret-4711") }}
	w := start(t, rec, nil)
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
	require.Equal(t, 500, r.status)
	require.Equal(t, "internal", r.problem(t).Code)
	require.NotContains(t, r.body+w.log.String(), "secret-4711")
	require.Contains(t, w.log.String(), "panic in a handler")
	rec.hook = nil
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status, "it still serves")
}

func TestHandlersHaveADeadline(t *testing.T) {
	rec := &recorder{hook: func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return &keyservice.Error{Code: keyservice.CodeBusy, Detail: "out of time", Err: ctx.Err()}
	}}
	w := start(t, rec, func(o *api.Options) { o.HandlerTimeout = 50 * time.Millisecond })
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
	require.Equal(t, "busy", r.problem(t).Code)
	require.Equal(t, "1", r.header.Get("Retry-After"))
}

func TestRequestIDs(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody, "X-Request-Id: trace-7.a_B")
	require.Equal(t, "trace-7.a_B", r.header.Get("X-Request-Id"))
	require.Equal(t, "trace-7.a_B", rec.seen()[0].requestID)
	require.Contains(t, w.log.String(), `"request_id":"trace-7.a_B"`)
	for _, bad := range []string{"", strings.Repeat("a", 65), "a b", "ä", "a/b", `a"b`} {
		r := w.send("verifier", "POST", "/v1/verifications", verifyBody, "X-Request-Id: "+bad)
		require.Regexp(t, regexp.MustCompile(`^[A-Z0-9]{20,64}$`), r.header.Get("X-Request-Id"))
	}
}

// TestNoNumberAsRequestID: an id that could be or hold a serial or a card number reaches neither log nor use case nor
// answer; the ids that clients do make pass.
func TestNoNumberAsRequestID(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	send := func(id string) string {
		return w.send("verifier", "POST", "/v1/verifications", verifyBody, "X-Request-Id: "+id).header.Get("X-Request-Id")
	}
	numbers := []string{
		"6037991234567893", "6037-9912-3456-7893", "6037.9912.3456.7893", "pay-6037_991234567893-1", "a402519938461b", "402519938461",
		"000000000000-1", "trace6037991234567893",
	}
	for _, number := range numbers {
		require.NotEqual(t, number, send(number))
	}
	for _, c := range rec.seen() {
		require.NotContains(t, numbers, c.requestID)
	}
	for _, number := range numbers {
		require.NotContains(t, w.log.String(), number)
	}
	for _, good := range []string{
		"12345678901", "2026-11-22.0231", "550e8400-e29b-41d4-a716-44665544000a", "4bf92f3577b34da6a3ce929d0e0e4736", "a1234567890-12345",
	} {
		require.Equal(t, good, send(good))
	}
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	w := start(t, &recorder{}, nil)
	for _, r := range []reply{
		w.send("verifier", "POST", "/v1/verifications", verifyBody, "Accept: application/xml"),
		w.send("verifier", "POST", "/v1/verifications", ""),
		w.send("", "GET", "/v1/time", ""), w.send("", "GET", "/docs", ""), w.send("", "GET", "/v1/tokens/1", ""),
	} {
		require.Equal(t, "no-store", r.header.Get("Cache-Control"))
		require.Equal(t, "nosniff", r.header.Get("X-Content-Type-Options"))
		require.NotEmpty(t, r.header.Get("X-Request-Id"))
		require.Empty(t, r.header.Get("Server"))
	}
}

// TestAccessLog: one line per request with the route's pattern, and nothing of the request itself.
func TestAccessLog(t *testing.T) {
	w := start(t, &recorder{}, nil)
	w.send("issuer", "POST", "/v1/tokens", issueBody)
	w.send("issuer", "GET", "/v1/tokens/402519938461", "")
	w.send("auditor", "GET", "/v1/audit/entries?from=815815815815815", "")
	log := w.log.String()
	require.Contains(t, log, `"method":"POST","route":"/v1/tokens","status":201`)
	require.Contains(t, log, `"method":"GET","route":"/v1/tokens/{serial}","status":200`)
	require.Contains(t, log, `"client":"the-issuer"`)
	require.Equal(t, 3, strings.Count(log, `"msg":"request"`))
	require.Len(t, regexp.MustCompile(`"took_us":[1-9][0-9]*,`).FindAllString(log, -1), 3, "microseconds, whole")
	for _, hidden := range []string{"6037991234567893", "402519938461", "815815815815815", "second-pin"} {
		require.NotContains(t, log, hidden)
	}
}

func TestOptionsThatCannotServe(t *testing.T) {
	ca := newAuthority(t, "a")
	good := func() api.Options {
		dir, err := authz.NewDirectory(nil)
		require.NoError(t, err)
		return api.Options{
			Service: &recorder{}, Directory: dir,
			TLS: &tls.Config{Certificates: []tls.Certificate{ca.certify("server", nil)}, ClientCAs: ca.pool()},
		}
	}
	_, err := api.New(good())
	require.NoError(t, err)
	for name, spoil := range map[string]func(*api.Options){
		"no service":     func(o *api.Options) { o.Service = nil },
		"no directory":   func(o *api.Options) { o.Directory = nil },
		"no TLS":         func(o *api.Options) { o.TLS = nil },
		"no certificate": func(o *api.Options) { o.TLS.Certificates = nil },
		"no client CAs":  func(o *api.Options) { o.TLS.ClientCAs = nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			spoil(&o)
			_, err := api.New(o)
			require.Error(t, err)
		})
	}
}
