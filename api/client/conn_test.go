package client_test

import (
	"bufio"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// abrupt serves one connection: it reads the request's header and its first lines, answers, and resets the connection
// while more is being sent.
func abrupt(t *testing.T, answer string) (c *client.Client, gone <-chan struct{}) {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // only for its certificate
	defer certified.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, block, 0o600))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tcp, err := ln.Accept()
		if err != nil {
			return
		}
		_ = tcp.SetDeadline(time.Now().Add(20 * time.Second))
		s := tls.Server(tcp, &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS13})
		req, err := http.ReadRequest(bufio.NewReader(s))
		if err == nil {
			_, _ = io.CopyN(io.Discard, req.Body, 100)
			_, _ = io.WriteString(s, answer)
		}
		_ = tcp.(*net.TCPConn).SetLinger(0)
		_ = tcp.Close()
	}()
	t.Cleanup(func() {
		require.NoError(t, ln.Close())
		<-done
	})
	c, err = client.New(client.Options{BaseURL: "https://" + ln.Addr().String(), CAFile: ca})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c, done
}

// untilSteady returns when a count has stood still for a moment.
func untilSteady(count *atomic.Int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for last := int64(-1); last != count.Load(); <-tick.C {
		last = count.Load()
	}
}

// TestAnswerOutlivesTheConnection: what the service said before it hung up is told, although writing failed meanwhile.
func TestAnswerOutlivesTheConnection(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n\r\n"
	for range 5 {
		c, gone := abrupt(t, head+`{"line":1}`+"\n"+`{"line":2}`+"\n"+`{"summary":{"lines":2,"issued":2,"problem":{"code":"not_ready"}}}`+"\n")
		var sent atomic.Int64
		lines := feed(1 << 30)
		summary, err := c.BulkIssue(t.Context(), func() (wire.BulkLine, bool, error) {
			sent.Add(1)
			return lines()
		}, func(a wire.BulkAnswer) error {
			if a.Line == 1 {
				<-gone
				untilSteady(&sent) // writing has failed
			}
			return nil
		})
		require.ErrorIs(t, err, client.ErrCut)
		var p *wire.Problem
		require.ErrorAs(t, err, &p)
		require.Equal(t, wire.CodeNotReady, p.Code)
		require.Equal(t, 2, summary.Issued)
	}
}

// TestRefusalOutlivesTheConnection: the same for an answer that is no stream.
func TestRefusalOutlivesTheConnection(t *testing.T) {
	for range 20 {
		c, _ := abrupt(t, "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: application/problem+json\r\nContent-Length: 22\r\n\r\n"+`{"code":"not_allowed"}`)
		_, err := c.BulkIssue(t.Context(), feed(1<<30), ignore)
		var p *wire.Problem
		require.ErrorAs(t, err, &p)
		require.Equal(t, "not_allowed", p.Code)
	}
}
