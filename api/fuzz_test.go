package api_test

import (
	"crypto/rand"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzed are the routes that read a body, each with a client that may call it.
var fuzzed = []struct{ client, method, path string }{
	{"issuer", "POST", "/v1/tokens"},
	{"activator", "POST", "/v1/tokens/{serial}/activation"},
	{"activator", "POST", "/v1/tokens/{serial}/confirmation"},
	{"verifier", "POST", "/v1/verifications"},
	{"issuer", "PUT", "/v1/tokens/{serial}/uses"},
	{"issuer", "PUT", "/v1/tokens/{serial}/pin"},
	{"activator", "POST", "/v1/tokens/{serial}/resync"},
	{"verifier", "POST", "/v1/challenges"},
	{"activator", "POST", "/v1/activations"},
	{"issuer", "POST", "/v1/subjects/tokens"},
	{"issuer", "POST", "/v1/subjects/deactivations"},
	{"activator", "POST", "/v1/tokens/{serial}/removal"},
	{"issuer", "PUT", "/v1/tokens/{serial}/mobile"},
}

// marker stands in the seeds where the target puts a text that occurs nowhere else.
const marker = "MARKER"

// FuzzBodies sends any body and any serial to every route that takes a body, through the whole real service: the answer
// is never a fault of the server, refusals are whole problem documents, and neither answer nor log repeats the request.
func FuzzBodies(f *testing.F) {
	b := openBank(f)
	serial := b.issue(1).Serial
	for _, to := range fuzzed {
		b.as(to.client)
	}
	for _, body := range []string{
		issueBody, verifyBody, `{"proof":"AAAA"}`, `{"proof":"MARKER"}`, `{"serial":"` + serial + `","use":"MARKER","otp":"12345678"}`,
		`{"serial":"` + serial + `","use":"second-pin","otp":"MARKER"}`, `{"MARKER":1}`, `{"serial[MARKER]":[{"MARKER":"MARKER"}]}`, `MARKER`, `"MARKER"`, `[MARKER`,
		`{"activation_code":"12345678","device":{"id":"MARKER","channel":"app","public_key":"MARKER"}}`,
		`{"subject":"MARKER","activation_code":"MARKER","device":{"id":"","channel":"MARKER","public_key":"MARKER=="}}`,
		`{"class":"account","subject":"MARKER","channel":"app","profile":"MARKER","uses":["MARKER"]}`,
		`{"class":"card","subject":"MARKER","channel":"app","profile":"offline-60","uses":["second-pin"],"device_key_sha256":"MARKER"}`,
		`{"class":"account","subject":"a","channel":"app","profile":"offline-60","uses":null}`,
		`{"class":"account","subject":"a","channel":"sms","mobile":"MARKER","profile":"sms-120","uses":[]}`,
		subjectBody, challengeBody, transactionBody, `{"uses":["login"]}`, `{"uses":["MARKER"]}`, `{"pin":"27182818"}`, `{"pin":"MARKER"}`,
		`{"mobile":"09121234567"}`, `{"mobile":"MARKER"}`, `{"mobile":null}`,
		`{"otp1":"12345678","otp2":"12345679"}`, `{"otp1":"MARKER","otp2":""}`, `{"otp":"MARKER"}`, `{"proof":"AAAA","otp":"MARKER"}`,
		`{"class":"card","subject":"MARKER","use":"second-pin","otp":"123456"}`, `{"class":"MARKER","subject":"MARKER","use":"MARKER"}`, `{"class":"card","subject":"MARKER"}`,
		`{"class":"account","subject":"a","use":"login","otp":"123456","transaction":{"amount":"1","currency":"IRR","payee":"MARKER"}}`,
		`{"class":"account","subject":"a","use":"login","transaction":{"amount":"MARKER","currency":"MARKER","payee":"MARKER","MARKER":1}}`,
		`{"activation_code":"12345678","maker_seed":"MARKER=="}`, `{"activation_code":"12345678","maker_seed":"AAAA","device":null}`,
		"", "null", "{", "{}", "[]", "1e999", `{"otp":"1","otp":"2"}`, "\xff", "\ufeff{}", strings.Repeat("[", 100), `{"a":` + strings.Repeat(`{"a":`, 50),
	} {
		for route := range fuzzed {
			f.Add(uint8(route), serial, body)
		}
	}
	f.Add(uint8(1), "", `{}`)
	f.Add(uint8(1), "../../time?x=MARKER#", `{}`)
	f.Add(uint8(2), "۴۰۲۵۱۹۹۳۸۴۶۱", `{"proof":"AAAA"}`)
	f.Fuzz(func(t *testing.T, route uint8, serial, body string) {
		to, unique := fuzzed[int(route)%len(fuzzed)], rand.Text()
		body, serial = strings.ReplaceAll(body, marker, unique), strings.ReplaceAll(serial, marker, unique)
		path := strings.Replace(to.path, "{serial}", strings.ReplaceAll(url.PathEscape(serial), ".", "%2E"), 1)
		b.log.take()
		r, err := b.try(b.as(to.client), to.method, path, body, "Content-Type: application/json")
		require.NoError(t, err)
		require.Less(t, r.status, 500, r.body)
		if r.status >= 400 {
			checkDocumented(t, to.method, path, r)
			r.problem(t)
			require.NotContains(t, r.body, unique)
		} else {
			require.True(t, json.Valid([]byte(r.body)))
		}
		require.NotContains(t, b.log.take(), unique)
	})
}

// FuzzPaths puts any text in the place of a path's or query's parameter, on every route that has one, through the whole
// real service: never a fault of the server, and nothing of it in an answer or the log.
func FuzzPaths(f *testing.F) {
	b := openBank(f)
	routes := parameterRoutes(f, b)
	for _, row := range routes {
		b.as(string(row.role))
	}
	for _, value := range []string{
		b.issue(1).Serial, luhn("00000000000"), "5d0f6f3c1b7e49a2b8a1c2d3e4f50617", strings.Repeat("0", 32), strings.Repeat("0", 2000), marker, "", " ", "\x00", "\xff",
		".", "..", "../../time", "%2e%2e%2f", "a/b", "?x=1", "#", "{id}", "۴۰۲۵۱۹۹۳۸۴۶۱", "18446744073709551615", "-1", "1e9", "1&from=2", "a;b", "a\r\nX: y",
		"00000000\x0000000000", strings.Repeat("\xff", 600), "5D0F6F3C1B7E49A2B8A1C2D3E4F50617",
	} {
		for i := range routes {
			f.Add(uint8(i), value)
		}
	}
	f.Fuzz(func(t *testing.T, route uint8, value string) {
		row, unique := routes[int(route)%len(routes)], rand.Text()
		value = strings.ReplaceAll(value[:min(len(value), 2000)], marker, unique)
		method, path, _ := strings.Cut(row.route, " ")
		path = placeholder.ReplaceAllLiteralString(path, strings.ReplaceAll(url.PathEscape(value), ".", "%2E"))
		if !strings.Contains(row.route, "{") {
			path += "?from=" + url.QueryEscape(value) + "&limit=" + url.QueryEscape(value)
		}
		b.log.take()
		r, err := b.try(b.as(string(row.role)), strings.ToUpper(method), path, row.body)
		require.NoError(t, err)
		require.Less(t, r.status, 500, r.body)
		if r.status >= 400 {
			r.problem(t)
			require.NotContains(t, r.body, unique)
		}
		require.NotContains(t, b.log.take(), unique)
	})
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// parameterRoutes are the rows of the role matrix whose documented route has a parameter.
func parameterRoutes(t testing.TB, b *bank) []matrixRow {
	t.Helper()
	d := b.document(t)
	var with []matrixRow
	for _, row := range matrix(luhn("00000000000")) {
		method, path, _ := strings.Cut(row.route, " ")
		if slices.ContainsFunc(d.Paths[path][method].Parameters, func(p parameter) bool { return p.In != "header" }) {
			with = append(with, row)
		}
	}
	require.Len(t, with, 27)
	return with
}
