package api_test

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
)

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
	w := start(t, &recorder{}, func(o *api.Options) { o.ReadTimeout = time.Second })
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
			require.True(t, strings.HasSuffix(answer, "}\n"), answer)
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
		{"activator", "POST", "/v1/tokens/1/confirmation", `{"otp":` + marker + `}`},
		{"activator", "POST", "/v1/tokens/1/confirmation", `{"otp":"` + marker + `","proof":"!"}`},
		{"activator", "POST", "/v1/tokens/1/activation", `{"activation_code":"83920174","maker_seed":"!` + marker + `"}`},
		{"activator", "POST", "/v1/tokens/1/resync", `{"otp1":"` + marker + `","otp2":["` + marker + `"]}`},
		{"verifier", "POST", "/v1/verifications", `{"serial":"402519938461","class":"card","subject":"` + marker + `","use":"second-pin","otp":"492039"}`},
		{"verifier", "POST", "/v1/verifications", `{"subject":"` + marker + `","use":"second-pin","otp":"492039"}`},
		{"verifier", "POST", "/v1/verifications", `{"class":"` + marker + `","subject":"` + marker + `","use":"second-pin","otp":"492039"}`},
		{"verifier", "POST", "/v1/verifications", `{"class":"card","subject":"1","use":"u","otp":"1","transaction":{"amount":"` + marker + `.","currency":"` + marker + `","payee":"` + marker + ` "}}`},
		{"verifier", "POST", "/v1/challenges", `{"class":"card","subject":` + marker + `,"use":"second-pin"}`},
		{"verifier", "POST", "/v1/challenges", `{"class":"card","subject":"1","use":"u","transaction":{"` + marker + `":"` + marker + `"}}`},
		{"verifier", "POST", "/v1/challenges", `{"class":"card","subject":"1","use":"u","transaction":"` + marker + `"}`},
		{"issuer", "PUT", "/v1/tokens/1/uses", `{"uses":[` + marker + `],"` + marker + `":1}`},
		{"issuer", "PUT", "/v1/tokens/1/pin", `{"pin":"` + marker + `"}`},
		{"issuer", "PUT", "/v1/tokens/1/pin", `{"pin":` + marker + `}`},
		{"issuer", "PUT", "/v1/tokens/1/mobile", `{"mobile":"` + marker + `"}`},
		{"issuer", "PUT", "/v1/tokens/1/mobile", `{"mobile":` + marker + `}`},
		{"activator", "POST", "/v1/tokens/1/removal", `{"proof":"!` + marker + `"}`},
		{"activator", "POST", "/v1/tokens/1/removal", `{"otp":"` + marker + `"}`},
		{"issuer", "POST", "/v1/subjects/deactivations", `{"class":"` + marker + `","subject":"` + marker + `"}`},
		{"issuer", "POST", "/v1/subjects/" + marker + "/deactivations", ``},
		{"issuer", "POST", "/v1/tokens", `{"class":"card","subject":"1","channel":"sms","mobile":"+` + marker + `","profile":"p","uses":[]}`},
		{"issuer", "PATCH", "/v1/tokens/" + marker + "/pin", `{}`},
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
	require.Equal(t, []string{"body.otp: expected string", "body: an unknown field stands in body; known are class, otp, receipt, serial, subject, transaction, use", "body: expected required property use to be present"},
		r.problem(t).Errors)
}

// TestUnknownFieldsAreAnsweredWithTheKnown: the object it stands in is named, and what that object may hold.
func TestUnknownFieldsAreAnsweredWithTheKnown(t *testing.T) {
	w := start(t, &recorder{}, nil)
	inDevice := "body.device: an unknown field stands in body.device; known are channel, id, public_key"
	for name, field := range map[string]string{"a new name": "more", "a name of another object": "serial"} {
		r := w.send("activator", "POST", "/v1/tokens/402519938461/activation",
			`{"activation_code":"83920174","device":{"id":"a","channel":"app","public_key":"a2V5","`+field+`":1}}`)
		require.Equal(t, []string{inDevice}, r.problem(t).Errors, name)
	}
}
