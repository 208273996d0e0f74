package client_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// dropping is a TLS server that answers the first request of each connection and closes the connection upon the second,
// after it has read it: the answer is lost, as when the server or the network between fails.
type dropping struct {
	listener net.Listener
	done     sync.WaitGroup

	mu   sync.Mutex
	seen []*http.Request
}

func newDropping(t *testing.T) (*dropping, *client.Client) {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // only for its certificate
	defer certified.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, block, 0o600))
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS13})
	require.NoError(t, err)
	d := &dropping{listener: ln}
	d.done.Go(d.accept)
	c, err := client.New(client.Options{BaseURL: "https://" + ln.Addr().String(), CAFile: ca})
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		require.NoError(t, ln.Close())
		d.done.Wait()
	})
	return d, c
}

func (d *dropping) accept() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.done.Go(func() { d.serve(conn) })
	}
}

func (d *dropping) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	for answered := 0; ; answered++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		d.mu.Lock()
		d.seen = append(d.seen, req)
		d.mu.Unlock()
		if answered == 1 {
			return
		}
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
		if err != nil {
			return
		}
	}
}

// requests are the method, path and key of each request so far.
func (d *dropping) requests() (all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.seen {
		all = append(all, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Idempotency-Key")))
	}
	return all
}

// TestLostAnswersAreRepeatedOnlyUnderAKey: when a kept connection breaks instead of answering, a verification may have
// been carried out. Without a key it is not sent again; with one it is, under the same key.
func TestLostAnswersAreRepeatedOnlyUnderAKey(t *testing.T) {
	request := wire.VerificationRequest{Serial: "402519938461", Use: "second-pin", OTP: "492039"}
	for name, call := range map[string]func(context.Context, *client.Client) error{
		"/v1/verifications": func(ctx context.Context, c *client.Client) error { _, err := c.Verify(ctx, request); return err },
		"/v1/challenges": func(ctx context.Context, c *client.Client) error {
			_, err := c.Challenge(ctx, wire.ChallengeRequest{Class: "card", Subject: "6037991234567893", Use: "second-pin"})
			return err
		},
		"/v1/tokens": func(ctx context.Context, c *client.Client) error {
			_, err := c.Issue(ctx, wire.IssueRequest{})
			return err
		},
		"/v1/tokens/402519938461/activation": func(ctx context.Context, c *client.Client) error {
			_, err := c.Activate(ctx, "402519938461", wire.ActivationRequest{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, c := newDropping(t)
			require.NoError(t, call(t.Context(), c))
			err := call(t.Context(), c)
			require.Error(t, err)
			var p *wire.Problem
			require.False(t, errors.As(err, &p), "the outcome is unknown")
			require.Equal(t, []string{"POST " + name, "POST " + name}, d.requests(), "it was not sent a third time")
			require.NoError(t, call(t.Context(), c))
			require.NoError(t, call(client.WithIdempotencyKey(t.Context(), "k-4711"), c), "sent again by itself")
			require.Equal(t, []string{"POST " + name, "POST " + name + " k-4711", "POST " + name + " k-4711"}, d.requests()[2:])
		})
	}
}

// TestChangesAreNotRepeated: nor is what takes no key.
func TestChangesAreNotRepeated(t *testing.T) {
	for name, call := range map[string]func(context.Context, *client.Client) error{
		"PUT /v1/tokens/1/uses": func(ctx context.Context, c *client.Client) error {
			_, err := c.SetUses(ctx, "1", wire.UsesRequest{Uses: []string{}})
			return err
		},
		"PUT /v1/tokens/1/pin": func(ctx context.Context, c *client.Client) error {
			_, err := c.SetPIN(ctx, "1", wire.PINRequest{PIN: "27182818"})
			return err
		},
		"PUT /v1/tokens/1/mobile": func(ctx context.Context, c *client.Client) error {
			_, err := c.SetMobile(ctx, "1", wire.MobileRequest{Mobile: "09121234567"})
			return err
		},
		"POST /v1/tokens/1/removal": func(ctx context.Context, c *client.Client) error {
			_, err := c.Remove(ctx, "1", wire.RemovalRequest{Proof: []byte("proof")})
			return err
		},
		"POST /v1/tokens/1/unlock": func(ctx context.Context, c *client.Client) error { _, err := c.Unlock(ctx, "1"); return err },
		"POST /v1/tokens/1/resync": func(ctx context.Context, c *client.Client) error {
			_, err := c.Resync(ctx, "1", wire.ResyncRequest{OTP1: "1", OTP2: "2"})
			return err
		},
		"POST /v1/tokens/1/confirmation": func(ctx context.Context, c *client.Client) error {
			_, err := c.Confirm(ctx, "1", wire.ConfirmationRequest{OTP: "1"})
			return err
		},
		"POST /v1/subjects/deactivations": func(ctx context.Context, c *client.Client) error {
			_, err := c.DeactivateSubject(ctx, wire.SubjectRequest{Class: "card", Subject: "1"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, c := newDropping(t)
			require.NoError(t, call(t.Context(), c))
			require.Error(t, call(t.Context(), c))
			require.Equal(t, []string{name, name}, d.requests())
		})
	}
}
