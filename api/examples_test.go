package api_test

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// answerTypes are the wire types of the answers, by schema; a line of a bulk issue's answer is looked at on its own.
var answerTypes = map[string]any{
	"IssueAnswer": wire.IssueAnswer{}, "ActivationAnswer": wire.ActivationAnswer{}, "StatusAnswer": wire.StatusAnswer{},
	"TokenAnswer": wire.TokenAnswer{}, "UsesAnswer": wire.UsesAnswer{}, "SubjectTokensAnswer": wire.SubjectTokensAnswer{},
	"SubjectDeactivationAnswer": wire.SubjectDeactivationAnswer{}, "ImportKeyAnswer": wire.ImportKeyAnswer{},
	"VerificationAnswer": wire.VerificationAnswer{}, "ChallengeAnswer": wire.ChallengeAnswer{}, "CodeAnswer": wire.CodeAnswer{},
	"ResyncAnswer": wire.ResyncAnswer{}, "AuditAnswer": wire.AuditAnswer{}, "AuditLogsAnswer": wire.AuditLogsAnswer{}, "ComparisonAnswer": wire.ComparisonAnswer{},
	"AuditEntry": wire.AuditEntry{}, "AuditStreamEnd": wire.AuditStreamEnd{}, "CheckpointAnswer": wire.CheckpointAnswer{},
	"InclusionAnswer": wire.InclusionAnswer{}, "ConsistencyAnswer": wire.ConsistencyAnswer{}, "AuditKeysAnswer": wire.AuditKeysAnswer{},
	"KeysAnswer": wire.KeysAnswer{}, "Rotation": wire.Rotation{}, "RotationsAnswer": wire.RotationsAnswer{}, "FeedAnswer": wire.FeedAnswer{}, "SeedImportAnswer": wire.SeedImportAnswer{},
	"Proposal": wire.Proposal{}, "ProposalsAnswer": wire.ProposalsAnswer{}, "TimeAnswer": wire.TimeAnswer{}, "BulkAnswer": wire.BulkAnswer{}, "BulkResult": wire.BulkResult{},
}

// shownIn returns the examples of a body, as they are sent.
func shownIn(t *testing.T, content map[string]media) []string {
	t.Helper()
	require.Len(t, content, 1)
	var all []string
	for mediaType, m := range content {
		values := []json.RawMessage{m.Example}
		if len(m.Examples) > 0 {
			require.Empty(t, m.Example, "either one or several")
			values = nil
		}
		for _, e := range m.Examples {
			var named struct{ Value json.RawMessage }
			require.NoError(t, json.Unmarshal(e, &named))
			values = append(values, named.Value)
		}
		for _, v := range values {
			require.NotEmpty(t, v)
			text := string(v)
			if mediaType == "application/x-ndjson" {
				require.NoError(t, json.Unmarshal(v, &text))
			}
			all = append(all, text)
		}
	}
	return all
}

// eachOperation calls a function for every route of the document, always in the same order.
func eachOperation(d document, f func(method, path string, op operation)) {
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			f(strings.ToUpper(method), path, d.Paths[path][method])
		}
	}
}

// TestRequestExamplesAreTaken: who copies a request from the documentation is not refused for its form.
func TestRequestExamplesAreTaken(t *testing.T) {
	w := start(t, &recorder{}, nil)
	sent := map[string]int{}
	eachOperation(w.document(t), func(method, path string, op operation) {
		if op.Body == nil {
			return
		}
		for _, body := range shownIn(t, op.Body.Content) {
			require.NotEqual(t, "{}", body, "%s: every route needs something", op.ID)
			r := w.send(op.Role, method, placeholder.ReplaceAllLiteralString(path, "402519938466"), body)
			require.Less(t, r.status, 300, "%s: %s", op.ID, r.body)
			sent[op.ID]++
			if op.ID == "issue-bulk" {
				require.Contains(t, r.body, `{"summary":{"lines":2,"issued":2,"repeated":0,"refused":0,"complete":true}}`)
			}
		}
	})
	require.Equal(t, 3, sent["verify"], "by serial, by card, and with a receipt")
	require.Len(t, sent, 18)
}

// TestRequestExamplesPassTheUseCases: nor do the use cases refuse them for it. A token or code that is not there is
// another matter, and so is a password's length: those of the test's bank have 8 digits.
func TestRequestExamplesPassTheUseCases(t *testing.T) {
	b := openBank(t)
	issued := b.issue(1).Serial
	formless := []string{"request_invalid", "serial_invalid", "subject_invalid", "device_key_invalid", "profile_unknown"}
	eachOperation(b.document(t), func(method, path string, op operation) {
		if op.Body == nil || op.ID == "set-pin" || op.ID == "issue-bulk" { // the token takes no PIN; a line is as in issue
			return
		}
		for _, serial := range []string{"402519938466", issued} {
			for _, body := range shownIn(t, op.Body.Content) {
				r := b.send(op.Role, method, placeholder.ReplaceAllLiteralString(path, serial), body)
				if r.status >= 300 {
					require.NotContains(t, formless, r.problem(t).Code, "%s %s: %s", op.ID, body, r.body)
				}
			}
		}
	})
}

// TestAnswerExamplesFit: each answer shown decodes strictly into its wire type, has what the schema wants, and tells
// the status that the route leads to.
func TestAnswerExamplesFit(t *testing.T) {
	status := map[string]string{}
	eachOperation(start(t, &recorder{}, nil).document(t), func(_, _ string, op operation) {
		for code, r := range op.Responses {
			if code >= "400" {
				continue
			}
			if _, file := r.Content["application/octet-stream"]; file {
				continue // bytes that only the HSM reads
			}
			for _, text := range shownIn(t, r.Content) {
				for _, m := range r.Content {
					checkAnswer(t, op.ID, m.Schema, text)
				}
				var a wire.StatusAnswer
				if json.Unmarshal([]byte(text), &a) == nil {
					status[op.ID] = a.Status
				}
			}
		}
	})
	for id, want := range map[string]string{
		"issue": "issued", "activate": "pending", "confirm": "active", "suspend": "suspended", "resume": "active",
		"deactivate": "deactivated", "remove": "deactivated", "token": "active",
	} {
		require.Equal(t, want, status[id], id)
	}
}

// checkAnswer decodes one answer; of lines, the last is of the second type.
func checkAnswer(t *testing.T, id string, s schema, text string) {
	t.Helper()
	if s.Ref != "" {
		checkType(t, id, s.Ref, text)
		return
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		kind := s.OneOf[0]
		if i == len(lines)-1 {
			kind = s.OneOf[1]
		}
		checkType(t, id, kind.Ref, line)
	}
}

func checkType(t *testing.T, id, ref, text string) {
	t.Helper()
	kind, known := answerTypes[ref[strings.LastIndex(ref, "/")+1:]]
	require.True(t, known, "%s answers %s", id, ref)
	into := reflect.New(reflect.TypeOf(kind))
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(into.Interface()), "%s: %s", id, text)
	var value any
	require.NoError(t, json.Unmarshal([]byte(text), &value))
	all, found := huma.NewMapRegistry("#/", huma.DefaultSchemaNamer), huma.ValidateResult{}
	huma.Validate(all, all.Schema(reflect.TypeOf(kind), true, ""), huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, value, &found)
	require.Empty(t, found.Errors, "%s: %s", id, text)
}

// TestExampleOfADeviceKeyIsAKey: the one in the request, and the one makers get.
func TestExampleOfADeviceKeyIsAKey(t *testing.T) {
	d := start(t, &recorder{}, nil).document(t)
	var key wire.ImportKeyAnswer
	require.NoError(t, json.Unmarshal(d.Paths["/v1/import-key"]["get"].Responses["200"].Content["application/json"].Example, &key))
	_, err := x509.ParsePKIXPublicKey(key.PublicKey)
	require.NoError(t, err)
	var request wire.SubjectActivationRequest
	body := d.Paths["/v1/activations"][strings.ToLower(http.MethodPost)].Body
	require.NoError(t, json.Unmarshal(body.Content["application/json"].Example, &request))
	_, err = x509.ParsePKIXPublicKey(request.Device.PublicKey)
	require.NoError(t, err)
}

// TestDocsPageShowsTheExamples: the page takes them from the document, and makes up none.
func TestDocsPageShowsTheExamples(t *testing.T) {
	page := start(t, &recorder{}, nil).send("", "GET", "/docs", "").body
	require.Contains(t, page, "entry.example")
	require.Contains(t, page, "entry.examples")
	require.NotContains(t, page, "const example =")
}
