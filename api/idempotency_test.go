package api_test

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

// keyedRoutes are the routes that take an idempotency key, each with a request that succeeds.
var keyedRoutes = []struct{ route, client, use, body string }{
	{"post /v1/tokens", "issuer", "issue", issueBody},
	{"post /v1/tokens/{serial}/activation", "activator", "activate", activationBody},
	{"post /v1/activations", "activator", "activate", subjectActivationBody},
	{"post /v1/verifications", "verifier", "verify", verifyBody},
	{"post /v1/challenges", "verifier", "challenge", challengeBody},
}

func keyOf(t *testing.T, input any) string {
	t.Helper()
	switch in := input.(type) {
	case keyservice.IssueRequest:
		return in.IdempotencyKey
	case keyservice.ActivateRequest:
		return in.IdempotencyKey
	case keyservice.VerifyRequest:
		return in.IdempotencyKey
	case keyservice.ChallengeRequest:
		return in.IdempotencyKey
	}
	require.Fail(t, "no input with a key")
	return ""
}

// concrete fills the parameters of a documented path in.
var concrete = strings.NewReplacer("{serial}", "402519938461", "{id}", "5d0f6f3c1b7e49a2b8a1c2d3e4f50617")

// TestIdempotencyKeysReachTheUseCases: the key as it was sent, and no mark on an answer that is given for the first time.
func TestIdempotencyKeysReachTheUseCases(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	longest := strings.Repeat("!", 64) + strings.Repeat("~", 64)
	for _, key := range []string{"550e8400-e29b-41d4-a716-446655440000", "1", longest, `"quoted"`} {
		for _, to := range keyedRoutes {
			_, path, _ := strings.Cut(to.route, " ")
			r := w.send(to.client, "POST", concrete.Replace(path), to.body, "Idempotency-Key: "+key)
			require.Less(t, r.status, 300, r.body)
			require.NotContains(t, r.header, "Idempotency-Replayed")
			require.Equal(t, key, keyOf(t, rec.inputs()[to.use]), to.route)
		}
	}
	for _, to := range keyedRoutes {
		_, path, _ := strings.Cut(to.route, " ")
		require.Less(t, w.send(to.client, "POST", concrete.Replace(path), to.body).status, 300)
		require.Empty(t, keyOf(t, rec.inputs()[to.use]), to.route)
	}
	require.NotContains(t, w.log.String(), "550e8400")
}

// TestRepeatedAnswersAreMarked: success and refusal alike.
func TestRepeatedAnswersAreMarked(t *testing.T) {
	var fail error
	rec := &recorder{repeats: true, hook: func(context.Context, string) error { return fail }}
	w := start(t, rec, nil)
	for _, to := range keyedRoutes {
		_, path, _ := strings.Cut(to.route, " ")
		fail = nil
		r := w.send(to.client, "POST", concrete.Replace(path), to.body, "Idempotency-Key: k-1")
		require.Less(t, r.status, 300, r.body)
		require.Equal(t, "true", r.header.Get("Idempotency-Replayed"), to.route)
		for _, repeated := range []bool{true, false} {
			fail = &keyservice.Error{Code: keyservice.CodeTampered, Detail: "no", Repeated: repeated}
			r = w.send(to.client, "POST", concrete.Replace(path), to.body, "Idempotency-Key: k-1")
			require.Equal(t, "record_tampered", r.problem(t).Code)
			require.Equal(t, repeated, r.header.Get("Idempotency-Replayed") == "true", to.route)
		}
	}
}

// TestKeysThatProtectNothing are refused before a use case is reached: whoever sends one believes that the request may be
// repeated. The problem says what to do, and repeats nothing of the key.
func TestKeysThatProtectNothing(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	for name, key := range map[string]string{
		"empty": "", "a space": "marker 4711", "too long": strings.Repeat("k", 129), "not ASCII": "märker", "a tab": "marker\t4711",
	} {
		for _, to := range keyedRoutes {
			_, path, _ := strings.Cut(to.route, " ")
			answer := w.raw(to.client, "POST "+concrete.Replace(path)+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nIdempotency-Key: "+
				key+"\r\nContent-Length: "+strconv.Itoa(len(to.body))+"\r\n\r\n"+to.body)
			require.True(t, strings.HasPrefix(answer, "HTTP/1.1 422"), name+": "+answer)
			require.NotContains(t, answer, "arker", name)
		}
	}
	answer := w.raw("verifier", "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"+
		"Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: "+strconv.Itoa(len(verifyBody))+"\r\n\r\n"+verifyBody)
	require.True(t, strings.HasPrefix(answer, "HTTP/1.1 422"), answer)
	require.Contains(t, answer, "send one Idempotency-Key: there are several")
	require.Empty(t, rec.seen())
	require.NotContains(t, w.log.String(), "arker")
}

// TestKeysWhereNoneIsTaken: every other route of the OpenAPI document refuses the header, because it would not protect.
func TestKeysWhereNoneIsTaken(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	d := w.document(t)
	keyed := map[string]bool{}
	for _, to := range keyedRoutes {
		keyed[to.route] = true
	}
	tried := 0
	for path, item := range d.Paths {
		for method, op := range item {
			if keyed[method+" "+path] || op.Role == "" {
				continue
			}
			body := ""
			if op.Body != nil {
				body = `{}`
			}
			r := w.send(op.Role, strings.ToUpper(method), concrete.Replace(path), body, "Idempotency-Key: marker-4711")
			require.Equal(t, 422, r.status, method+" "+path)
			p := r.problem(t)
			require.Equal(t, "request_invalid", p.Code)
			require.Equal(t, "leave Idempotency-Key out: this route takes none, so a repeat would be a new request", p.Detail)
			require.NotContains(t, r.body, "4711")
			tried++
		}
	}
	require.GreaterOrEqual(t, tried, 15)
	require.Empty(t, rec.seen())
}

// TestIdempotencyKeysAreDocumented: exactly the routes that take one say so, with its form; the mark of a repeated answer
// and the code of a key that was used before stand with them.
func TestIdempotencyKeysAreDocumented(t *testing.T) {
	d := start(t, &recorder{}, nil).document(t)
	var with []string
	for path, item := range d.Paths {
		for method, op := range item {
			for _, p := range op.Parameters {
				if p.In != "header" {
					continue
				}
				require.Equal(t, "Idempotency-Key", p.Name)
				require.False(t, p.Required)
				require.Contains(t, p.Description, "Idempotency-Replayed")
				form := regexp.MustCompile(p.Schema.Pattern)
				require.True(t, form.MatchString(strings.Repeat("k", 128)))
				require.False(t, form.MatchString(strings.Repeat("k", 129)) || form.MatchString("") || form.MatchString("a b"))
				with = append(with, method+" "+path)
				success := map[bool]string{true: "200", false: "201"}[op.Responses["200"].Description != ""]
				require.NotEmpty(t, op.Responses[success].Headers["Idempotency-Replayed"].Description, path)
				require.NotEmpty(t, op.Responses["422"].Headers["Idempotency-Replayed"].Description, path)
				require.Contains(t, op.Responses["422"].Content["application/problem+json"].Examples, "idempotency_key_reused")
			}
		}
	}
	var want []string
	for _, to := range keyedRoutes {
		want = append(want, to.route)
	}
	require.ElementsMatch(t, want, with)
}

// TestClientSendsTheKeyOfItsContext: on every call that is made with the context.
func TestClientSendsTheKeyOfItsContext(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	verifier := w.goClient("verifier")
	keyed := client.WithIdempotencyKey(t.Context(), "k-4711")
	request := wire.VerificationRequest{Serial: "402519938461", Use: "second-pin", OTP: "492039"}
	_, err := verifier.Verify(keyed, request)
	require.NoError(t, err)
	require.Equal(t, "k-4711", rec.inputs()["verify"].(keyservice.VerifyRequest).IdempotencyKey)
	_, err = verifier.Verify(t.Context(), request)
	require.NoError(t, err)
	require.Empty(t, rec.inputs()["verify"].(keyservice.VerifyRequest).IdempotencyKey)
	calls := len(rec.seen())
	for _, key := range []string{"", "a b", strings.Repeat("k", 129)} {
		_, err := verifier.Verify(client.WithIdempotencyKey(t.Context(), key), request)
		var p *wire.Problem
		require.ErrorAs(t, err, &p, "a key that cannot protect is never left out in silence")
		require.Equal(t, "request_invalid", p.Code)
	}
	_, err = w.goClient("issuer").Suspend(keyed, "402519938461")
	require.ErrorContains(t, err, "leave Idempotency-Key out")
	require.Len(t, rec.seen(), calls)
}

// TestErrorsThatSayHowLong: the use case's own time to wait is the answer's Retry-After, rounded up, before the code's.
func TestErrorsThatSayHowLong(t *testing.T) {
	var fail error
	w := start(t, &recorder{hook: func(context.Context, string) error { return fail }}, nil)
	for code, c := range map[keyservice.Code]struct {
		status int
		wait   time.Duration
		header string
	}{
		keyservice.CodeChallengesPending: {429, 42100 * time.Millisecond, "43"},
		keyservice.CodeTooManySubjects:   {429, 20 * time.Minute, "1200"},
		keyservice.CodeBusy:              {503, 3 * time.Second, "3"},
		keyservice.CodeHSMUnavailable:    {503, 0, "5"},
		keyservice.CodeNotOptedIn:        {409, 0, ""},
	} {
		fail = &keyservice.Error{Code: code, Detail: "wait", RetryAfter: c.wait}
		r := w.send("verifier", "POST", "/v1/challenges", challengeBody)
		require.Equal(t, c.status, r.status)
		require.Equal(t, string(code), r.problem(t).Code)
		require.Equal(t, c.header, r.header.Get("Retry-After"), code)
	}
}
