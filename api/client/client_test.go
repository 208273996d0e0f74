package client_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// against returns a client of a TLS server that runs h.
func against(t *testing.T, timeout time.Duration, h http.HandlerFunc) *client.Client {
	t.Helper()
	return againstWith(t, client.Options{Timeout: timeout}, h)
}

func againstWith(t *testing.T, o client.Options, h http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, block, 0o600))
	o.BaseURL, o.CAFile = srv.URL, ca
	c, err := client.New(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestRefusalIsAProblem(t *testing.T) {
	c := against(t, 0, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"code":"token_not_found","detail":"no such token","status":200,"request_id":"r1","new":1}`)
	})
	_, err := c.Token(t.Context(), "402519938461")
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "token_not_found", p.Code)
	require.Equal(t, http.StatusNotFound, p.Status, "the status line counts, not the document")
	require.Equal(t, "r1", p.RequestID)
}

func TestForeignAnswersAreErrors(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"an HTML error page": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad gateway", http.StatusBadGateway) },
		"success that is not JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
		},
		"broken JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"serial":`)
		},
		"a problem without a code": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			_, _ = fmt.Fprint(w, `{}`)
		},
		"an endless answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"serial":"`+strings.Repeat("9", 9<<20)+`"}`)
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v1/time", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := against(t, 0, h).Token(t.Context(), "402519938461")
			require.ErrorIs(t, err, client.ErrAnswer)
		})
	}
}

func TestTimeoutEndsACall(t *testing.T) {
	done := make(chan struct{})
	defer close(done)
	c := against(t, 50*time.Millisecond, func(http.ResponseWriter, *http.Request) { <-done })
	_, err := c.Time(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, client.ErrAnswer)
}

// TestComparisonOutlivesTheTimeout: the timeout of ordinary calls does not cut a comparison off; the caller's own does.
func TestComparisonOutlivesTheTimeout(t *testing.T) {
	const timeout = 200 * time.Millisecond // a handshake must fit in, on a busy machine too
	c := against(t, timeout, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * timeout):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // an answer could still arrive
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{"discrepancies":[]}`)
	})
	_, err := c.AuditEntries(t.Context(), client.AuditQuery{Node: "", From: 0, Limit: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.CompareAudit(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err = c.CompareAudit(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestIdleConnectionsAreKept: as many connections as the caller says wait for the next calls.
func TestIdleConnectionsAreKept(t *testing.T) {
	const calls = 4
	for idle, fresh := range map[int]int{1: calls - 1, calls: 0} {
		addresses, inside := map[string]bool{}, make(chan string)
		release := make(chan struct{})
		c := againstWith(t, client.Options{IdleConnections: idle}, func(w http.ResponseWriter, r *http.Request) {
			inside <- r.RemoteAddr
			<-release
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{}`)
		})
		atOnce := func() (unknown int) {
			var wg sync.WaitGroup
			for range calls {
				wg.Go(func() {
					_, err := c.Token(context.Background(), "402519938461")
					assert.NoError(t, err)
				})
			}
			for range calls {
				if a := <-inside; !addresses[a] {
					unknown++
					addresses[a] = true
				}
			}
			for range calls {
				release <- struct{}{}
			}
			wg.Wait()
			return unknown
		}
		require.Equal(t, calls, atOnce())
		require.Equal(t, fresh, atOnce(), "%d idle connections", idle)
	}
}

func TestNoSerialReachesAnotherRoute(t *testing.T) {
	paths := make(chan string, 1)
	c := against(t, 0, func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.EscapedPath()
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{}`)
	})
	for serial, want := range map[string]string{
		"402519938461":  "/v1/tokens/402519938461/suspend",
		"../tokens/1":   "/v1/tokens/%2E%2E%2Ftokens%2F1/suspend",
		"..":            "/v1/tokens/%2E%2E/suspend",
		"1/resume?x=1#": "/v1/tokens/1%2Fresume%3Fx=1%23/suspend",
	} {
		_, err := c.Suspend(t.Context(), serial)
		require.NoError(t, err)
		require.Equal(t, want, <-paths)
	}
}

func TestOptionsThatCannotWork(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.crt")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for name, o := range map[string]client.Options{
		"plain http":               {BaseURL: "http://127.0.0.1:8443"},
		"no address":               {},
		"no authority file":        {BaseURL: "https://127.0.0.1:1", CAFile: empty + ".missing"},
		"authority file is empty":  {BaseURL: "https://127.0.0.1:1", CAFile: empty},
		"certificate without key":  {BaseURL: "https://127.0.0.1:1", CertFile: empty},
		"certificate file is bad":  {BaseURL: "https://127.0.0.1:1", CertFile: empty, KeyFile: empty},
		"key without certificate":  {BaseURL: "https://127.0.0.1:1", KeyFile: empty},
		"an address and no scheme": {BaseURL: "127.0.0.1:8443"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.New(o)
			require.Error(t, err)
		})
	}
}
