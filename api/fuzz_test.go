package api_test

import (
	"crypto/rand"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzed are the routes that read a body, each with a client that may call it.
var fuzzed = []struct{ client, path string }{
	{"issuer", "/v1/tokens"},
	{"activator", "/v1/tokens/{serial}/activation"},
	{"activator", "/v1/tokens/{serial}/confirmation"},
	{"verifier", "/v1/verifications"},
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
		r, err := b.try(b.as(to.client), "POST", path, body, "Content-Type: application/json")
		require.NoError(t, err)
		require.Less(t, r.status, 500, r.body)
		if r.status >= 400 {
			r.problem(t)
			require.NotContains(t, r.body, unique)
		} else {
			require.True(t, json.Valid([]byte(r.body)))
		}
		require.NotContains(t, b.log.take(), unique)
	})
}
