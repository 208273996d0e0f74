package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// feed gives n lines.
func feed(n int) func() (wire.BulkLine, bool, error) {
	i := 0
	return func() (wire.BulkLine, bool, error) {
		i++
		return wire.BulkLine{Key: fmt.Sprint(i)}, i <= n, nil
	}
}

func ignore(wire.BulkAnswer) error { return nil }

// answering says these lines, after all lines were read, and then ends the answer as it should.
func answering(lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		for _, l := range lines {
			_, _ = fmt.Fprintln(w, l)
		}
	}
}

// TestBulkSendsItsEnd: the lines, and a last one that counts them.
func TestBulkSendsItsEnd(t *testing.T) {
	got := make(chan []string, 1)
	c := against(t, 0, func(w http.ResponseWriter, r *http.Request) {
		var lines []string
		for text := bufio.NewScanner(r.Body); text.Scan(); {
			lines = append(lines, text.Text())
		}
		got <- lines
		answering(`{"line":1}`, `{"line":2,"new":1}`, `{"summary":{"lines":2,"issued":2,"complete":true}}`)(w, r)
	})
	summary, err := c.BulkIssue(t.Context(), feed(2), ignore)
	require.NoError(t, err)
	require.Equal(t, wire.BulkSummary{Lines: 2, Issued: 2, Complete: true}, summary)
	lines := <-got
	require.Len(t, lines, 3)
	require.JSONEq(t, `{"end":true,"lines":2}`, lines[2])
}

// TestBulkSeesCuts: whatever is missing of the answer, the caller is told that the same lines may be sent again.
func TestBulkSeesCuts(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"no summary":             answering(`{"line":1}`, `{"line":2}`),
		"nothing":                answering(),
		"half a line":            answering(`{"line":1}`, `{"li`),
		"another order":          answering(`{"line":2}`, `{"line":1}`, `{"summary":{"lines":2,"complete":true}}`),
		"fewer answers":          answering(`{"line":1}`, `{"summary":{"lines":2,"complete":true}}`),
		"incomplete":             answering(`{"line":1}`, `{"line":2}`, `{"summary":{"lines":2,"complete":false}}`),
		"incomplete, and why":    answering(`{"summary":{"lines":0,"complete":false,"problem":{"code":"not_ready"}}}`),
		"the connection is gone": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := against(t, 0, h).BulkIssue(t.Context(), feed(2), ignore)
			require.ErrorIs(t, err, client.ErrCut)
			require.ErrorContains(t, err, "safe to send the same lines")
			var p *wire.Problem
			require.Equal(t, name == "incomplete, and why", errors.As(err, &p))
		})
	}
}

// TestBulkRefusals: an answer that is no stream is what it says, while lines are still being sent.
func TestBulkRefusals(t *testing.T) {
	c := against(t, 0, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `{"code":"not_allowed"}`)
	})
	_, err := c.BulkIssue(t.Context(), feed(1<<20), ignore)
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.NotErrorIs(t, err, client.ErrCut)
	_, err = against(t, 0, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "hello") }).BulkIssue(t.Context(), feed(1), ignore)
	require.ErrorIs(t, err, client.ErrAnswer)
}

// TestBulkEndsWithItsCaller: errors of next and got, and the end of the caller's context, cut the stream and are told.
func TestBulkEndsWithItsCaller(t *testing.T) {
	mine := errors.New("mine")
	_, err := against(t, 0, prompt).BulkIssue(t.Context(), feed(1<<20), func(a wire.BulkAnswer) error {
		if a.Line == 3 {
			return mine
		}
		return nil
	})
	require.ErrorIs(t, err, mine)
	lines := feed(3)
	_, err = against(t, 0, prompt).BulkIssue(t.Context(), func() (wire.BulkLine, bool, error) {
		l, more, _ := lines()
		if !more {
			return l, false, mine
		}
		return l, true, nil
	}, ignore)
	require.ErrorIs(t, err, mine)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = against(t, 0, prompt).BulkIssue(ctx, feed(1<<20), func(wire.BulkAnswer) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, client.ErrCut)
}

// TestBulkDoesNotWaitForSilence: lines that wait for an answer for longer than the timeout end the stream; a caller that
// has no line to send does not.
func TestBulkDoesNotWaitForSilence(t *testing.T) {
	const timeout = 100 * time.Millisecond
	done := make(chan struct{})
	defer close(done)
	silent := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		<-done
	}
	began := time.Now()
	_, err := against(t, timeout, silent).BulkIssue(t.Context(), feed(1), ignore)
	require.ErrorIs(t, err, client.ErrCut)
	require.ErrorContains(t, err, "no answer came in time")
	require.Less(t, time.Since(began), 20*timeout)

	lines := feed(3)
	summary, err := against(t, timeout, prompt).BulkIssue(t.Context(), func() (wire.BulkLine, bool, error) {
		pause := time.NewTimer(3 * timeout)
		<-pause.C
		return lines()
	}, ignore)
	require.NoError(t, err)
	require.Equal(t, 3, summary.Lines)
}

// prompt answers each line at once.
func prompt(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	_ = control.Flush()
	n := 0
	for text := bufio.NewScanner(r.Body); text.Scan(); {
		if strings.HasPrefix(text.Text(), `{"end"`) {
			_, _ = fmt.Fprintf(w, "{\"summary\":{\"lines\":%d,\"complete\":true}}\n", n)
			continue // the end of the body comes next
		}
		n++
		_, _ = fmt.Fprintf(w, "{\"line\":%d}\n", n)
		_ = control.Flush()
	}
}
