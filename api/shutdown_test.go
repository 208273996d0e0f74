package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (w *world) shutdown(t *testing.T, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return w.server.Shutdown(ctx)
}

// TestShutdownAnswersWhatIsInFlight: requests that were being carried out get their answers, and nobody new gets in.
func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	const clients = 20
	entered, release := make(chan struct{}, clients), make(chan struct{})
	rec := &recorder{hook: func(context.Context, string) error {
		entered <- struct{}{}
		<-release
		return nil
	}}
	w := start(t, rec, nil)
	replies := make(chan reply, clients)
	for range clients {
		go func() {
			r, err := w.try(w.as("verifier"), "POST", "/v1/verifications", verifyBody)
			if err != nil {
				r = reply{body: err.Error()}
			}
			replies <- r
		}()
	}
	for range clients {
		<-entered
	}
	done := make(chan error, 1)
	go func() { done <- w.shutdown(t, 20*time.Second) }()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, 5*time.Second, 5*time.Millisecond, "new connections are refused")
	select {
	case err := <-done:
		t.Fatalf("shutdown did not wait: %v", err)
	default:
	}
	close(release)
	for range clients {
		r := <-replies
		require.Equal(t, 200, r.status, r.body)
	}
	require.NoError(t, <-done)
}

// TestShutdownUnderLoad: whatever was carried out was answered, over connections that are used again and again.
func TestShutdownUnderLoad(t *testing.T) {
	for range 4 {
		rec := &recorder{}
		w := start(t, rec, nil)
		var answered atomic.Int64
		warm := make(chan struct{}, 16)
		var wg sync.WaitGroup
		for range 16 {
			h := httpClient(w.tls("verifier"))
			defer h.CloseIdleConnections()
			wg.Go(func() {
				for n := 0; ; n++ {
					r, err := w.try(h, "POST", "/v1/verifications", verifyBody)
					if err != nil || r.status != 200 {
						return
					}
					answered.Add(1)
					if n == 10 {
						warm <- struct{}{}
					}
				}
			})
		}
		for range 16 {
			<-warm
		}
		require.NoError(t, w.shutdown(t, 20*time.Second))
		wg.Wait()
		require.Equal(t, int64(len(rec.seen())), answered.Load())
	}
}

// TestShutdownDoesNotWaitForSilence: connections that ask nothing hold nothing up.
func TestShutdownDoesNotWaitForSilence(t *testing.T) {
	w := start(t, &recorder{}, nil)
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status, "leaves an idle connection")
	silent, err := tls.Dial("tcp", w.addr, w.tls("verifier"))
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	bare, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	defer func() { _ = bare.Close() }()
	require.Equal(t, 200, w.send("issuer", "POST", "/v1/tokens/1/suspend", "").status, "accepted after the two above")
	began := time.Now()
	require.NoError(t, w.shutdown(t, 20*time.Second))
	require.Less(t, time.Since(began), 5*time.Second)
	rest, err := io.ReadAll(silent)
	require.NoError(t, err)
	require.Empty(t, rest, "nobody who asked nothing is answered")
}

// TestRequestDuringShutdown: a request that was arriving when the shutdown began is read to its end and answered, and
// its connection is not kept.
func TestRequestDuringShutdown(t *testing.T) {
	w := start(t, &recorder{}, nil)
	late, err := tls.Dial("tcp", w.addr, w.tls("verifier"))
	require.NoError(t, err)
	defer func() { _ = late.Close() }()
	_, err = fmt.Fprintf(late, "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", len(verifyBody))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- w.shutdown(t, 20*time.Second) }()
	time.AfterFunc(time.Second, func() { _, _ = io.WriteString(late, verifyBody[1:]) })
	resp, err := http.ReadResponse(bufio.NewReader(late), nil)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.True(t, resp.Close, "the connection is not kept")
	require.NoError(t, resp.Body.Close())
	require.NoError(t, <-done)
}

// TestShutdownCutsOffWhatDoesNotEnd: when the caller's patience ends, so do the connections.
func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	rec := &recorder{hook: func(context.Context, string) error {
		close(entered)
		<-release
		return nil
	}}
	w := start(t, rec, nil)
	failed := make(chan error, 1)
	go func() {
		_, err := w.try(w.as("verifier"), "POST", "/v1/verifications", verifyBody)
		failed <- err
	}()
	<-entered
	require.ErrorIs(t, w.shutdown(t, 50*time.Millisecond), context.DeadlineExceeded)
	require.Error(t, <-failed)
	close(release)
}
