package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

const bulkPath = "/v1/tokens/bulk"

// bulkLine is the n-th line of the tests: an account token.
func bulkLine(n int) wire.BulkLine {
	return wire.BulkLine{Key: fmt.Sprintf("batch-%06d", n), Token: wire.IssueRequest{
		Class: "account", Subject: fmt.Sprintf("acc-%06d", n), Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"},
	}}
}

func bulkText(t testing.TB, lines ...any) string {
	t.Helper()
	var text strings.Builder
	for _, l := range lines {
		if raw, is := l.(string); is {
			text.WriteString(raw + "\n")
			continue
		}
		require.NoError(t, json.NewEncoder(&text).Encode(l))
	}
	return text.String()
}

// bulkReply is the answer to a bulk issue. summary is nil if it was cut.
type bulkReply struct {
	answers []wire.BulkAnswer
	summary *wire.BulkSummary
}

// readBulk reads an answer strictly: every line of it must have the documented form, and nothing follows the summary.
func readBulk(t testing.TB, from io.Reader) bulkReply {
	t.Helper()
	var r bulkReply
	for text := bufio.NewScanner(from); text.Scan(); {
		require.Nil(t, r.summary, "something follows the summary: %s", text.Text())
		dec := json.NewDecoder(strings.NewReader(text.Text()))
		dec.DisallowUnknownFields()
		if strings.HasPrefix(text.Text(), `{"summary"`) {
			var end wire.BulkResult
			require.NoError(t, dec.Decode(&end), text.Text())
			r.summary = &end.Summary
			continue
		}
		var a wire.BulkAnswer
		require.NoError(t, dec.Decode(&a), text.Text())
		r.answers = append(r.answers, a)
		require.Equal(t, len(r.answers), a.Line, "in the order of the lines")
	}
	return r
}

// bulk sends lines in one piece and reads the answer.
func (w *world) bulk(t testing.TB, lines ...any) bulkReply {
	t.Helper()
	r := w.send("issuer", http.MethodPost, bulkPath, bulkText(t, lines...))
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, "application/x-ndjson", r.header.Get("Content-Type"))
	return readBulk(t, strings.NewReader(r.body))
}

func longTests() bool { return os.Getenv("RAMZBAN_TEST_LONG") == "1" }

// bulkSize is how many tokens the tests with the whole service issue.
func bulkSize() int {
	if longTests() {
		return 100_000
	}
	return 2_000
}

// batch feeds lines 1 to n to BulkIssue and collects the answers.
type batch struct {
	n, sent int
	answers []wire.BulkAnswer
	before  func(n int) // called before line n is sent
}

func (b *batch) next() (wire.BulkLine, bool, error) {
	if b.sent == b.n {
		return wire.BulkLine{}, false, nil
	}
	b.sent++
	if b.before != nil {
		b.before(b.sent)
	}
	return bulkLine(b.sent), true, nil
}

func (b *batch) got(a wire.BulkAnswer) error {
	b.answers = append(b.answers, a)
	return nil
}

// TestBulkIssue issues a batch through SoftHSM and Badger, and sends it again: the same tokens, and nothing new stored.
func TestBulkIssue(t *testing.T) {
	b := openBank(t)
	first, again := &batch{n: bulkSize()}, &batch{n: bulkSize()}
	began := time.Now()
	summary, err := b.goClient("issuer").BulkIssue(t.Context(), first.next, first.got)
	require.NoError(t, err)
	t.Logf("%d tokens in %s", first.n, time.Since(began))
	require.Equal(t, wire.BulkSummary{Lines: first.n, Issued: first.n, Complete: true}, summary)
	serials := map[string]bool{}
	for i, a := range first.answers {
		require.Equal(t, bulkLine(i+1).Key, a.Key)
		require.Equal(t, "issued", a.Status)
		require.Len(t, a.Activation.ID, 32)
		serials[a.Serial] = true
	}
	require.Len(t, serials, first.n)

	rows := len(b.rows())
	summary, err = b.goClient("issuer").BulkIssue(t.Context(), again.next, again.got)
	require.NoError(t, err)
	require.Equal(t, wire.BulkSummary{Lines: first.n, Repeated: first.n, Complete: true}, summary)
	for i, a := range again.answers {
		require.True(t, a.Repeated)
		a.Repeated = false
		require.Equal(t, first.answers[i], a)
	}
	require.Equal(t, rows, len(b.rows()))
	require.Regexp(t, fmt.Sprintf(`"route":"/v1/tokens/bulk","status":200,.*"lines":%d,"issued":%d,"repeated":0,"refused":0,"complete":"true"`, first.n, first.n), b.log.String())
	require.NotContains(t, b.log.String(), "acc-000001")
}

// TestBulkIsFullDuplex: a line is answered before the next is sent.
func TestBulkIsFullDuplex(t *testing.T) {
	w := start(t, &recorder{}, nil)
	answered := make(chan struct{}, 1)
	b := &batch{n: 50, before: func(n int) {
		if n > 1 {
			<-answered
		}
	}}
	summary, err := w.goClient("issuer").BulkIssue(t.Context(), b.next, func(a wire.BulkAnswer) error {
		answered <- struct{}{}
		return b.got(a)
	})
	require.NoError(t, err)
	require.Equal(t, 50, summary.Issued)
	require.Len(t, b.answers, 50)
}

// TestBulkHoldsFewLines: while nothing is answered, the service takes 64 lines and no more, however many are sent.
func TestBulkHoldsFewLines(t *testing.T) {
	const limit = 64
	var running, most atomic.Int64
	release, full := make(chan struct{}), make(chan struct{}, 10_000)
	rec := &recorder{hook: func(_ context.Context, name string) error {
		if name != "issue" {
			return nil
		}
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		full <- struct{}{}
		<-release
		return nil
	}}
	w := start(t, rec, nil)
	b := &batch{n: 3_000}
	done := make(chan error, 1)
	go func() {
		_, err := w.goClient("issuer").BulkIssue(t.Context(), b.next, b.got)
		done <- err
	}()
	for range limit {
		<-full
	}
	select {
	case <-full:
		t.Fatal("a line was begun although 64 are in flight")
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	require.NoError(t, <-done)
	require.Equal(t, int64(limit), most.Load())
	require.Len(t, b.answers, b.n)
}

// TestBrokenLines: each is answered with its number and what is wrong, and the lines after it go on.
func TestBrokenLines(t *testing.T) {
	b := openBank(t)
	good, mistyped := bulkLine(1), bulkLine(2)
	mistyped.Token.Class, mistyped.Token.Subject = "card", "6037991234567890"
	reused := good
	reused.Token.Subject = "acc-other"
	second := good
	second.Key = "another-key"
	with := func(old, new string) string {
		return strings.Replace(strings.TrimSpace(bulkText(t, bulkLine(3))), old, new, 1)
	}
	lines := []struct {
		line any
		code string // "" for none
		key  string
		says string
	}{
		{good, "", good.Key, ""},
		{"", "body_malformed", "", "not JSON"},
		{"{", "body_malformed", "", "not JSON"},
		{"\xff", "body_malformed", "", "not UTF-8"},
		{with(`"key"`, `"class":"x","key"`), "request_invalid", "batch-000003", "line: an unknown field stands in line; known are key, token"},
		{with(`"class"`, `"force":true,"class"`), "request_invalid", "batch-000003", "line.token: an unknown field stands in line.token; known are channel, class"},
		{with(`"class"`, `"class":"card","class"`), "body_malformed", "", "a field is given twice"},
		{with(`"batch-000003"`, `"a b"`), "request_invalid", "", "line.key"},
		{with(`"key":"batch-000003",`, ``), "request_invalid", "", "key"},
		{with(`"app"`, `7`), "request_invalid", "batch-000003", "line.token.channel"},
		{`[]`, "request_invalid", "", "line"},
		{`{"end":true}`, "request_invalid", "", "lines"},
		{`{"end":false,"lines":1}`, "request_invalid", "", "line.end"},
		{with(`"acc-000003"`, `"`+strings.Repeat("a", 9<<10)+`"`), "body_too_large", "", "8192 bytes"},
		{with(`"acc-000003"`, `"`+strings.Repeat("a", 7<<10)+`"`), "request_invalid", "batch-000003", "line.token.subject"},
		{mistyped, "subject_invalid", mistyped.Key, "mistyped"},
		{reused, "idempotency_key_reused", good.Key, ""},
		{second, "live_token_exists", second.Key, ""},
		{good, "", good.Key, ""},
		{bulkLine(4), "", bulkLine(4).Key, ""},
	}
	before := b.bulk(t, good, wire.BulkEnd{End: true, Lines: 1}) // for lines of one stream have no order among themselves
	require.Equal(t, 1, before.summary.Issued)
	var sent []any
	for _, l := range lines {
		sent = append(sent, l.line)
	}
	r := b.bulk(t, append(sent, wire.BulkEnd{End: true, Lines: len(sent)})...)
	require.Equal(t, &wire.BulkSummary{Lines: len(sent), Issued: 1, Repeated: 2, Refused: len(sent) - 3, Complete: true}, r.summary)
	require.Len(t, r.answers, len(lines))
	for i, l := range lines {
		a := r.answers[i]
		require.Equal(t, l.key, a.Key, "line %d", i+1)
		if l.code == "" {
			require.Nil(t, a.Problem, "line %d", i+1)
			continue
		}
		require.NotNil(t, a.Problem, "line %d", i+1)
		require.Equal(t, l.code, a.Problem.Code, "line %d", i+1)
		require.Contains(t, a.Problem.Detail+strings.Join(a.Problem.Errors, " "), l.says, "line %d", i+1)
		require.NotEmpty(t, a.Problem.RequestID)
		require.Empty(t, a.Serial)
	}
	require.Equal(t, before.answers[0].Serial, r.answers[0].Serial)
	require.Equal(t, before.answers[0].Serial, r.answers[18].Serial)
	require.NotContains(t, b.log.String(), mistyped.Token.Subject)
}

// TestLinesMustEnd: without the last line, with another count, or with something behind it, the lines count as cut; what
// was carried out stays.
func TestLinesMustEnd(t *testing.T) {
	for name, c := range map[string]struct {
		behind string
		says   string
	}{
		"no last line":      {"", "without the last line"},
		"half a line":       {`{"key":"batch-000003","token":{`, "without the last line"},
		"a whole line":      {strings.TrimSpace(bulkText(t, bulkLine(3))), "without the last line"},
		"too many counted":  {`{"end":true,"lines":3}` + "\n", "2 came, but the last line counts 3"},
		"too few counted":   {`{"end":true,"lines":1}` + "\n", "2 came, but the last line counts 1"},
		"a line behind it":  {`{"end":true,"lines":2}` + "\n" + bulkText(t, bulkLine(3)), "something followed it"},
		"a second last one": {`{"end":true,"lines":2}` + "\n" + `{"end":true,"lines":2}` + "\n", "something followed it"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{}
			w := start(t, rec, nil)
			r := w.send("issuer", http.MethodPost, bulkPath, bulkText(t, bulkLine(1), bulkLine(2))+c.behind)
			got := readBulk(t, strings.NewReader(r.body))
			require.Len(t, got.answers, 2)
			require.False(t, got.summary.Complete)
			require.Equal(t, 2, got.summary.Issued)
			require.Equal(t, wire.CodeUploadCut, got.summary.Problem.Code)
			require.Contains(t, got.summary.Problem.Detail, c.says)
			require.Contains(t, w.log.String(), `"code":"upload_cut"`)
			require.Len(t, rec.seen(), 3, "asked once, and two lines")
		})
	}
	w := start(t, &recorder{}, nil)
	whole := w.send("issuer", http.MethodPost, bulkPath, bulkText(t, bulkLine(1))+`{"end":true,"lines":1}`)
	require.True(t, readBulk(t, strings.NewReader(whole.body)).summary.Complete, "the last line needs no newline")
}

// TestBulkAdmission: who may not issue, or sends something else, is refused before a line is read.
func TestBulkAdmission(t *testing.T) {
	b := openBank(t)
	text := bulkText(t, bulkLine(1), wire.BulkEnd{End: true, Lines: 1})
	big := strings.Repeat(bulkText(t, bulkLine(1)), 5_000)
	before := b.rows()
	for name, c := range map[string]struct {
		client, body, header string
		status               int
		code                 string
	}{
		"wrong role":               {"verifier", text, "A: b", 403, "not_allowed"},
		"wrong role, much sent":    {"courier", big, "A: b", 403, "not_allowed"},
		"no certificate":           {"", text, "A: b", 401, "certificate_required"},
		"a stranger's certificate": {"stranger", big, "A: b", 403, "certificate_unknown"},
		"JSON":                     {"issuer", text, "Content-Type: application/json", 415, "media_type_not_supported"},
		"another charset":          {"issuer", text, "Content-Type: application/x-ndjson; charset=utf-16", 415, "media_type_not_supported"},
		"compressed":               {"issuer", text, "Content-Encoding: gzip", 415, "encoding_not_supported"},
		"nothing":                  {"issuer", "", "Content-Type: application/x-ndjson", 400, "body_required"},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.send(c.client, http.MethodPost, bulkPath, c.body, c.header)
			require.Equal(t, c.status, r.status)
			require.Equal(t, c.code, r.problem(t).Code)
			require.Equal(t, before, b.rows())
		})
	}
	require.Contains(t, b.send("issuer", http.MethodPost, bulkPath, text, "Content-Type: text/plain").problem(t).Detail, "application/x-ndjson")
	require.Equal(t, "serial_invalid", b.send("issuer", http.MethodGet, bulkPath, "").problem(t).Code, "bulk is no serial")
	_, err := b.goClient("verifier").BulkIssue(t.Context(), (&batch{n: 100_000}).next, (&batch{}).got)
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "not_allowed", p.Code)
	require.NotErrorIs(t, err, client.ErrCut)
}

// TestFaultsOfLines: what fails a line fails that line alone, the cause is logged once, and a panic is an internal error.
func TestFaultsOfLines(t *testing.T) {
	var n atomic.Int64
	rec := &recorder{hook: func(_ context.Context, name string) error {
		if name != "issue" {
			return nil
		}
		switch n.Add(1) {
		case 2, 3:
			return &keyservice.Error{Code: keyservice.CodeHSMUnavailable, Detail: "later", Err: errors.New("cause-4711")}
		case 4:
			panic("secret-4711")
		}
		return nil
	}}
	w := start(t, rec, nil)
	answered := make(chan struct{}, 1)
	b := &batch{n: 5, before: func(n int) {
		if n > 1 {
			<-answered
		}
	}}
	summary, err := w.goClient("issuer").BulkIssue(t.Context(), b.next, func(a wire.BulkAnswer) error {
		answered <- struct{}{}
		return b.got(a)
	})
	require.NoError(t, err)
	require.Equal(t, wire.BulkSummary{Lines: 5, Issued: 2, Refused: 3, Complete: true}, summary)
	require.Equal(t, "hsm_unavailable", b.answers[1].Problem.Code)
	require.Equal(t, "hsm_unavailable", b.answers[2].Problem.Code)
	require.Equal(t, "internal", b.answers[3].Problem.Code)
	require.Equal(t, 1, strings.Count(w.log.String(), "cause-4711"), "once")
	require.Contains(t, w.log.String(), "panic in a handler")
	require.NotContains(t, w.log.String(), "secret-4711")
}

// TestLinesWaitForTheirTurn: lines count against the client's rate, and wait; none is refused.
func TestLinesWaitForTheirTurn(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.Requests = api.Rate{PerSecond: 50, Burst: 5} })
	b := &batch{n: 25}
	began := time.Now()
	summary, err := w.goClient("issuer").BulkIssue(t.Context(), b.next, b.got)
	require.NoError(t, err)
	require.Equal(t, 25, summary.Issued)
	require.Greater(t, time.Since(began), 300*time.Millisecond, "26 tokens, 5 of them at once")
}
