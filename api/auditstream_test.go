package api_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// A stream that cannot go on says so in its last line, and where to read on.
func TestACutAuditStreamIsNeverTakenForAWholeOne(t *testing.T) {
	rec := &recorder{cut: func(context.Context) error {
		return &keyservice.Error{Code: keyservice.CodeStorageUnavailable, Detail: "try again"}
	}}
	w := start(t, rec, nil)
	came := 0
	summary, err := w.goClient("auditor").StreamAudit(context.Background(), client.AuditQuery{}, func(wire.AuditEntry) error {
		came++
		return nil
	})
	require.ErrorIs(t, err, client.ErrAuditCut)
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "storage_unavailable", p.Code)
	require.Equal(t, 2, came)
	require.Equal(t, 2, summary.Entries)
	require.EqualValues(t, 10, summary.Next)
	require.False(t, summary.Complete)
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), `"complete":"false"`) }, 10*time.Second, time.Millisecond)
}

// A panic on the way is one too, and takes nothing else with it.
func TestAPanicWithinAnAuditStream(t *testing.T) {
	w := start(t, &recorder{cut: func(context.Context) error { panic("on the way") }}, nil)
	_, err := w.goClient("auditor").StreamAudit(context.Background(), client.AuditQuery{}, func(wire.AuditEntry) error { return nil })
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "internal", p.Code)
	require.NotContains(t, w.log.String(), "on the way")
}

// Only so many streams run at once, and fewer of one client; one ends with its reader, and when the service stops.
func TestAuditStreamsAreBounded(t *testing.T) {
	held, cut := make(chan struct{}, 10), errors.New("the reader left")
	rec := &recorder{cut: func(ctx context.Context) error {
		held <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	w := start(t, rec, func(o *api.Options) {
		clients := roleNames()
		for _, name := range []string{"auditor-2", "auditor-3"} {
			clients = append(clients, authz.Client{Name: name, Certificates: []string{name}, Roles: []authz.Role{authz.Auditor}})
		}
		var err error
		o.Directory, err = authz.NewDirectory(clients)
		require.NoError(t, err)
	})
	ended := make(chan error, 10)
	read := func(ctx context.Context, name string) {
		_, err := w.goClient(name).StreamAudit(ctx, client.AuditQuery{}, func(wire.AuditEntry) error { return nil })
		ended <- err
	}
	leaving, leave := context.WithCancelCause(context.Background())
	go read(leaving, "auditor")
	<-held
	for _, name := range []string{"auditor", "auditor-2", "auditor-2"} {
		go read(context.Background(), name)
		<-held
		if name == "auditor" {
			own := w.send(name, "GET", "/v1/audit/stream", "")
			require.Equal(t, 429, own.status)
			require.Equal(t, wire.CodeTooManyRequests, own.problem(t).Code)
		}
	}
	r := w.send("auditor-3", "GET", "/v1/audit/stream", "")
	require.Equal(t, 503, r.status)
	require.Equal(t, "busy", r.problem(t).Code)
	leave(cut)
	require.ErrorIs(t, <-ended, cut)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, w.server.Shutdown(ctx))
	for range 3 {
		var p *wire.Problem
		require.ErrorAs(t, <-ended, &p)
		require.Equal(t, "not_ready", p.Code)
	}
}

// A stream that finds nothing of what was asked for ends with its reader, too; and while it looks, its reader knows.
func TestABarrenAuditStreamEndsWithItsReader(t *testing.T) {
	var looking atomic.Int64
	w := start(t, &recorder{barren: func() bool { looking.Add(1); return true }}, nil)
	ctx, leave := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := w.goClient("auditor").StreamAudit(ctx, client.AuditQuery{}, func(wire.AuditEntry) error { return nil })
		ended <- err
	}()
	require.Eventually(t, func() bool { return looking.Load() > 100 }, 10*time.Second, time.Millisecond)
	leave()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), `"complete":"false"`) }, 10*time.Second, time.Millisecond)
	looked := looking.Load()
	require.Never(t, func() bool { return looking.Load() > looked }, 100*time.Millisecond, 10*time.Millisecond)

	left := 1000
	w = start(t, &recorder{barren: func() bool { left--; return left > 0 }}, nil)
	summary, err := w.goClient("auditor").StreamAudit(context.Background(), client.AuditQuery{}, func(wire.AuditEntry) error { return nil })
	require.NoError(t, err)
	require.Equal(t, 4, summary.Entries)
}

// An error of whoever reads ends the stream.
func TestAnAuditStreamEndsWithItsReader(t *testing.T) {
	w, full := start(t, &recorder{}, nil), errors.New("the disk is full")
	_, err := w.goClient("auditor").StreamAudit(context.Background(), client.AuditQuery{}, func(wire.AuditEntry) error { return full })
	require.ErrorIs(t, err, full)
}
