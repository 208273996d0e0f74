package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	require.Equal(t, wire.IssueAnswer{Serial: "402519938461", Status: "issued", Activation: wire.Activation{ID: "5d0f", ExpiresAt: someTime}}, issued)
	_, err = issuer.RenewActivationCode(ctx, "402519938461")
	require.NoError(t, err)
	code, err := w.goClient("courier").CollectCode(ctx, "5d0f")
	require.NoError(t, err)
	require.Equal(t, "83920174", code.Code)
	activated, err := activator.Activate(ctx, "402519938461", wire.ActivationRequest{
		Subject: "6037991234567893", ActivationCode: "83920174", Device: wire.Device{ID: "a1b2", Channel: "app", PublicKey: []byte("key")},
	})
	require.NoError(t, err)
	require.Equal(t, wire.OTP{Type: "totp", Hash: "SHA1", Digits: 6, Period: 60}, activated.OTP)
	require.Equal(t, wire.WrappedSeed{Alg: "RSA-OAEP", Wrapped: []byte("sealed")}, activated.Seed)
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
		Result: "refused", Reason: "throttled", Serial: "402519938461", RetryAfterSeconds: 2, Audit: wire.Audit{Index: 1842},
	}, verdict)
	page, err := auditor.AuditEntries(ctx, 7, 50)
	require.NoError(t, err)
	require.Equal(t, uint64(12), page.Next)
	require.Equal(t, uint64(11), page.Entries[0].Index)
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
	require.Len(t, seen, 12, "every use case once")
	require.Equal(t, authz.Caller{Name: "the-issuer", Roles: []authz.Role{authz.Issuer}}, seen["issue"].caller)
	require.Equal(t, keyservice.IssueRequest{
		Class: "card", Subject: seed.NewSubject("6037991234567893"), Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"},
		DeviceKeySHA256: bytes.Repeat([]byte{0xab}, 32),
	}, seen["issue"].input)
	require.Equal(t, keyservice.ActivateRequest{
		Serial: "402519938461", Subject: seed.NewSubject("6037991234567893"), Code: seed.NewCode("83920174"), DeviceID: "a1b2",
		Channel: "app", KeyDER: []byte("key"),
	}, seen["activate"].input)
	require.Equal(t, keyservice.VerifyRequest{Serial: "402519938461", Use: "second-pin", OTP: seed.NewPassword("492039")}, seen["verify"].input)
	require.Equal(t, 50, seen["entries"].input)
}

func TestIdentity(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	verify := func(c tls.Certificate) reply {
		conf := w.tls("")
		conf.Certificates = []tls.Certificate{c}
		h := httpClient(conf)
		defer h.CloseIdleConnections()
		return w.sendWith(h, "POST", "/v1/verifications", verifyBody)
	}
	t.Run("no certificate", func(t *testing.T) {
		r := w.send("", "POST", "/v1/verifications", verifyBody)
		require.Equal(t, 401, r.status)
		require.Equal(t, "certificate_required", r.problem(t).Code)
	})
	t.Run("no certificate and a body that is wrong", func(t *testing.T) {
		require.Equal(t, "certificate_required", w.send("", "POST", "/v1/verifications", `{`).problem(t).Code)
	})
	t.Run("no certificate and no such route", func(t *testing.T) {
		require.Equal(t, "certificate_required", w.send("", "GET", "/v1/nothing", "").problem(t).Code)
	})
	t.Run("unknown certificate", func(t *testing.T) {
		r := w.send("stranger", "POST", "/v1/verifications", `{`)
		require.Equal(t, 403, r.status)
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
		require.Contains(t, w.log.String(), `"certificate":"stranger"`)
	})
	t.Run("the URI counts before the common name", func(t *testing.T) {
		r := verify(w.ca.certify("officer", func(c *x509.Certificate) { c.URIs = uri(t, "spiffe://bank/core") }))
		require.Equal(t, 200, r.status)
		require.Equal(t, "by-uri", rec.seen()[len(rec.seen())-1].caller.Name)
		r = verify(w.ca.certify("verifier", func(c *x509.Certificate) { c.URIs = uri(t, "spiffe://bank/nobody") }))
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
	})
	t.Run("two URIs name nobody", func(t *testing.T) {
		r := verify(w.ca.certify("verifier", func(c *x509.Certificate) {
			c.URIs = append(uri(t, "spiffe://bank/core"), uri(t, "spiffe://bank/other")...)
		}))
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
	})
	t.Run("a renewed certificate is the same client", func(t *testing.T) {
		require.Equal(t, 200, verify(w.ca.certify("verifier", nil)).status)
	})
}

// TestHandshake: who cannot show a valid certificate, or speaks an older TLS, does not reach HTTP at all.
func TestHandshake(t *testing.T) {
	w := start(t, &recorder{}, nil)
	for name, edit := range map[string]func(*tls.Config){
		"expired": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) })}
		},
		"not yet valid": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Minute) })}
		},
		"another authority": func(c *tls.Config) {
			foreign := newAuthority(t, "elsewhere").certify("verifier", nil)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }
		},
		"for servers only": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}
		},
		"TLS 1.2": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		t.Run(name, func(t *testing.T) {
			conf := w.tls("verifier")
			edit(conf)
			h := httpClient(conf)
			defer h.CloseIdleConnections()
			_, err := w.try(h, "GET", "/v1/time", "")
			require.Error(t, err)
		})
	}
	require.Contains(t, w.log.String(), "TLS handshake failed")
	require.NotContains(t, w.log.String(), `"msg":"request"`, "none of them was answered")
}

// TestCertificateExpiresOnAnOpenConnection: a connection does not outlive its certificate.
func TestCertificateExpiresOnAnOpenConnection(t *testing.T) {
	var later time.Duration
	w := start(t, &recorder{}, func(o *api.Options) { o.Clock = func() time.Time { return time.Now().Add(later) } })
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status)
	later = 13 * time.Hour
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
	require.Equal(t, 401, r.status)
	require.Equal(t, "certificate_expired", r.problem(t).Code)
}

// TestRefusedBodies: every body that is not exactly what the route documents is refused before the use case.
func TestRefusedBodies(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write([]byte(verifyBody))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for name, c := range map[string]struct {
		body   string
		header string
		status int
		code   string
	}{
		"empty":                         {"", "", 400, "body_required"},
		"not JSON":                      {"serial=1", "", 400, "body_malformed"},
		"cut off":                       {`{"serial":"402519938461"`, "", 400, "body_malformed"},
		"two documents":                 {verifyBody + verifyBody, "", 400, "body_malformed"},
		"trailing garbage":              {verifyBody + "x", "", 400, "body_malformed"},
		"a field twice":                 {`{"serial":"402519938461","use":"second-pin","otp":"1","otp":"492039"}`, "", 400, "body_malformed"},
		"a field twice, escaped":        {`{"serial":"402519938461","use":"second-pin","otp":"1","\u006ftp":"492039"}`, "", 400, "body_malformed"},
		"not UTF-8":                     {"{\"serial\":\"402519938461\",\"use\":\"\xff\",\"otp\":\"492039\"}", "", 400, "body_malformed"},
		"nested without end":            {strings.Repeat("[", 5000), "", 400, "body_malformed"},
		"nested deeply":                 {strings.Repeat("[", 50) + strings.Repeat("]", 50), "", 400, "body_malformed"},
		"null":                          {"null", "", 422, "request_invalid"},
		"an array":                      {"[]", "", 422, "request_invalid"},
		"a number as password":          {`{"serial":"402519938461","use":"second-pin","otp":492039}`, "", 422, "request_invalid"},
		"null as password":              {`{"serial":"402519938461","use":"second-pin","otp":null}`, "", 422, "request_invalid"},
		"a field missing":               {`{"serial":"402519938461","otp":"492039"}`, "", 422, "request_invalid"},
		"an unknown field":              {`{"serial":"402519938461","use":"second-pin","otp":"492039","more":1}`, "", 422, "request_invalid"},
		"another case":                  {`{"serial":"402519938461","use":"second-pin","OTP":"492039"}`, "", 422, "request_invalid"},
		"above the limit":               {`{"otp":"` + strings.Repeat("1", 16<<10) + `"}`, "", 413, "body_too_large"},
		"far above the limit":           {strings.Repeat("1", 600<<10), "", 413, "body_too_large"},
		"gzip":                          {zipped.String(), "Content-Encoding: gzip", 415, "encoding_not_supported"},
		"gzip in name only":             {verifyBody, "Content-Encoding: gzip", 415, "encoding_not_supported"},
		"identity":                      {verifyBody, "Content-Encoding: identity", 415, "encoding_not_supported"},
		"a form":                        {"otp=492039", "Content-Type: application/x-www-form-urlencoded", 415, "media_type_not_supported"},
		"JSON of another type":          {verifyBody, "Content-Type: application/merge-patch+json", 415, "media_type_not_supported"},
		"JSON in another character set": {verifyBody, "Content-Type: application/json; charset=utf-16", 415, "media_type_not_supported"},
		"multipart":                     {"--x\r\n\r\n--x--", "Content-Type: multipart/form-data; boundary=x", 415, "media_type_not_supported"},
		"no type":                       {verifyBody, "Content-Type: ", 415, "media_type_not_supported"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if c.header != "" {
				headers = append(headers, c.header)
			}
			r := w.send("verifier", "POST", "/v1/verifications", c.body, headers...)
			require.Equal(t, c.status, r.status, r.body)
			require.Equal(t, c.code, r.problem(t).Code)
		})
	}
	require.Empty(t, rec.seen())
}

func TestRefusedRequests(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no such route":               {"GET", "/v1/tokens/402519938461/secrets", "", 404, "route_not_found"},
		"a trailing slash":            {"GET", "/v1/tokens/402519938461/", "", 404, "route_not_found"},
		"another case":                {"POST", "/V1/verifications", verifyBody, 404, "route_not_found"},
		"another method":              {"DELETE", "/v1/tokens/402519938461", "", 405, "method_not_allowed"},
		"an invented method":          {"GRAB", "/v1/tokens/402519938461", "", 405, "method_not_allowed"},
		"a body too many":             {"POST", "/v1/tokens/402519938461/suspend", `{}`, 400, "body_unexpected"},
		"a body with GET":             {"GET", "/v1/tokens/402519938461", `{}`, 400, "body_unexpected"},
		"an unknown parameter":        {"GET", "/v1/audit/entries?offset=1", "", 422, "request_invalid"},
		"a parameter out of range":    {"GET", "/v1/audit/entries?limit=1001", "", 422, "request_invalid"},
		"a parameter of another type": {"GET", "/v1/audit/entries?from=-1", "", 422, "request_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.send("auditor", c.method, c.path, c.body)
			require.Equal(t, c.status, r.status, r.body)
			require.Equal(t, c.code, r.problem(t).Code)
		})
	}
	require.Equal(t, "GET", w.send("auditor", "PUT", "/v1/tokens/402519938461", "").header.Get("Allow"))
	require.Empty(t, rec.seen())
}

// TestRequestsThatAreNone: what cannot be read as HTTP is answered in the same shape, and repeats nothing.
func TestRequestsThatAreNone(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.ReadTimeout = 300 * time.Millisecond })
	for name, c := range map[string]struct{ text, status, code string }{
		"not HTTP":             {"marker-4711\r\n\r\n", "400", "request_malformed"},
		"a broken header":      {"GET /v1/time HTTP/1.1\r\nHost: x\r\nmarker-4711\r\n\r\n", "400", "request_malformed"},
		"two lengths":          {"POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nmarker-4711", "400", "request_malformed"},
		"a huge header":        {"GET /v1/time HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("marker-4711", 1000) + "\r\n\r\n", "431", "header_too_large"},
		"a body that stalls":   {"POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nmarker-4711", "408", "request_timeout"},
		"a header that stalls": {"GET /v1/time HTTP/1.1\r\nHost: x\r\nmarker-4711: ", "408", "request_timeout"},
		"chunks without end": {"POST /v1/verifications HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n" +
			strings.Repeat("m", 0x4000) + "\r\n10\r\nmarker-4711marke\r\n0\r\n\r\n", "413", "body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := w.raw("verifier", c.text)
			require.True(t, strings.HasPrefix(answer, "HTTP/1.1 "+c.status), answer)
			require.Contains(t, answer, "application/problem+json")
			require.Contains(t, answer, `"code":"`+c.code+`"`)
			require.NotContains(t, answer, "marker-4711")
		})
	}
	require.NotContains(t, w.log.String(), "marker-4711")
}

// TestNothingSubmittedComesBack: neither answers nor logs repeat what a refused request held, wherever it stood.
func TestNothingSubmittedComesBack(t *testing.T) {
	const marker = "6037991234567893"
	w := start(t, &recorder{}, nil)
	for _, c := range []struct{ client, method, path, body string }{
		{"verifier", "POST", "/v1/verifications", `{"serial":"402519938461","use":"second-pin","otp":` + marker + `}`},
		{"verifier", "POST", "/v1/verifications", `{"serial":"402519938461","use":"second-pin","otp":"492039","` + marker + `":1}`},
		{"verifier", "POST", "/v1/verifications", `{"serial":"402519938461","use":"second-pin","otp":"492039","serial[` + marker + `]":1}`},
		{"verifier", "POST", "/v1/verifications", `{"serial":"` + strings.Repeat(marker, 9) + `","use":"second-pin","otp":"` + strings.Repeat(marker, 9) + `"}`},
		{"verifier", "POST", "/v1/verifications", `{"otp":"` + marker + `",}`},
		{"verifier", "POST", "/v1/verifications", marker + " is my card"},
		{"issuer", "POST", "/v1/tokens", `{"class":"` + marker + `","subject":"x","channel":"` + marker + `","profile":"p","uses":["` + marker + `",7]}`},
		{"issuer", "POST", "/v1/tokens", `{"class":"card","subject":["` + marker + `"],"channel":"app","profile":"p","uses":"` + marker + `"}`},
		{"activator", "POST", "/v1/tokens/1/activation", `{"activation_code":"` + marker + `","device":{"id":"","channel":"","public_key":"!` + marker + `"}}`},
		{"activator", "POST", "/v1/tokens/1/activation", `{"activation_code":"83920174","device":{"id":"a","channel":"app","public_key":"` + marker + `=="}}`},
		{"activator", "POST", "/v1/tokens/1/confirmation", `{"proof":{"` + marker + `":"` + marker + `"}}`},
		{"auditor", "GET", "/v1/audit/entries?from=" + marker + marker, ""},
		{"auditor", "GET", "/v1/audit/entries?" + marker + "=1", ""},
		{"auditor", "GET", "/v1/cards/" + marker, ""},
		{"issuer", marker, "/v1/tokens", ""},
	} {
		r := w.send(c.client, c.method, c.path, c.body)
		p := r.problem(t)
		require.Contains(t, []int{400, 404, 405, 422}, p.Status, r.body)
		require.NotContains(t, r.body, marker, c.body)
	}
	require.NotContains(t, w.log.String(), marker)
	r := w.send("verifier", "POST", "/v1/verifications", `{"serial":"402519938461","otp":7,"more":1}`)
	require.Equal(t, []string{"body.otp: expected string", "body: expected required property use to be present", "body: unexpected property"}, r.problem(t).Errors)
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
		"internal":        {&keyservice.Error{Code: keyservice.CodeInternal, Detail: "inside", Err: errors.New("cause-4711")}, 500, "internal", "the operator's log says why, under the request id", ""},
		"a new code":      {&keyservice.Error{Code: "brand_new", Detail: "inside"}, 500, "internal", "the operator's log says why, under the request id", ""},
		"a plain error":   {errors.New("cause-4711"), 500, "internal", "the operator's log says why, under the request id", ""},
		"out of time":     {context.DeadlineExceeded, 503, "outcome_unknown", "it is not known whether this was done: look before you repeat it", ""},
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
	w.send("auditor", "GET", "/v1/audit/entries?from=815", "")
	log := w.log.String()
	require.Contains(t, log, `"method":"POST","route":"/v1/tokens","status":201`)
	require.Contains(t, log, `"method":"GET","route":"/v1/tokens/{serial}","status":200`)
	require.Contains(t, log, `"client":"the-issuer"`)
	require.Equal(t, 3, strings.Count(log, `"msg":"request"`))
	for _, hidden := range []string{"6037991234567893", "402519938461", "815", "second-pin"} {
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
