package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// The last entries come in order, whatever lies between them; those of whoever looks are not among them.
func TestTail(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	for range 3 {
		_, err := s.verify(t.Context(), c.serial, c.password(t))
		require.NoError(t, err)
	}
	_, err = s.as("core-banking").Token(t.Context(), c.serial)
	require.Error(t, err)
	for range 60 { // more than is looked at first
		_, err := s.as("auditor").AuditLogs(t.Context())
		require.NoError(t, err)
	}
	show := func(q entriesQuery, all bool) (shown []string) {
		var out bytes.Buffer
		tail := tail{api: s.as("auditor"), out: &out, q: q, every: time.Hour, all: all, asJSON: true}
		require.NoError(t, tail.run(t.Context()))
		for line := range strings.Lines(out.String()) {
			var e wire.AuditEntry
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			shown = append(shown, e.Action+" "+e.Outcome)
		}
		return shown
	}
	require.Equal(t, []string{"otp.verify accepted", "otp.verify accepted", "otp.verify accepted", "token.read denied"}, show(entriesQuery{limit: 4}, false))
	require.Equal(t, []string{"otp.verify accepted", "otp.verify accepted"}, show(entriesQuery{limit: 2, action: "otp.verify"}, false))
	require.Equal(t, []string{"audit.read done"}, show(entriesQuery{limit: 1, action: "audit.read"}, true))
	require.Empty(t, show(entriesQuery{limit: 1, actor: "nobody"}, false))

	follow := tail{api: s.as("auditor"), q: entriesQuery{limit: 1}, every: 10 * time.Millisecond, follow: true}
	ctx, cancel := context.WithCancel(t.Context())
	lines, out := io.Pipe()
	follow.out = out
	ended := make(chan error, 1)
	go func() {
		err := follow.run(ctx)
		ended <- errors.Join(err, out.Close())
	}()
	text := bufio.NewScanner(lines)
	next := func(want string) {
		require.True(t, text.Scan())
		require.Contains(t, text.Text(), want)
		require.LessOrEqual(t, len(text.Text()), 80)
	}
	next("INDEX")
	next("token.read")
	for range 2 {
		_, err := s.verify(t.Context(), c.serial, c.password(t))
		require.NoError(t, err)
		next("otp.verify")
	}
	cancel()
	for text.Scan() {
		require.Fail(t, "more is printed", text.Text())
	}
	if err := <-ended; err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
}

func TestTimesAsFlags(t *testing.T) {
	for text, want := range map[string]time.Time{
		"2026-11-22T10:00:00Z": time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), "2026-11-22": time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC),
		"2026-11-22 10:00:00": time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), "2026-11-22T13:30:00+03:30": time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
	} {
		var m moment
		require.NoError(t, m.Set(text))
		require.True(t, want.Equal(m.Time), text)
	}
	require.ErrorContains(t, new(moment).Set("yesterday"), "is written as")
	require.Empty(t, new(moment).String())
}
