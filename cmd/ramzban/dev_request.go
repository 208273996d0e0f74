package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// question is one call of the API, as the bearer of one of the development certificates.
type question struct {
	as, method, path string
	key              string // Idempotency-Key; none if empty
	repeated         bool   // it was asked before under this key
	in               any    // the body; none if nil
}

// reply is the service's answer as it came.
type reply struct {
	status   int
	replayed bool // it was given before, under the same Idempotency-Key
	body     []byte
}

// ask calls the service. It is not api/client, because a demonstration shows what travels.
func (d dev) ask(ctx context.Context, q question) (reply, error) {
	req, err := d.newRequest(ctx, q)
	if err != nil {
		return reply{}, err
	}
	transport, err := d.transport(q.as)
	if err != nil {
		return reply{}, err
	}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return reply{status: resp.StatusCode, replayed: resp.Header.Get("Idempotency-Replayed") == "true", body: body}, err
}

func (d dev) newRequest(ctx context.Context, q question) (*http.Request, error) {
	body := io.Reader(http.NoBody)
	if q.in != nil {
		b, err := json.Marshal(q.in)
		if err != nil {
			return nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, "https://"+d.api+q.path, body)
	if err != nil {
		return nil, err
	}
	if q.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.key != "" {
		req.Header.Set("Idempotency-Key", q.key)
	}
	return req, nil
}

func (d dev) transport(as string) (*http.Transport, error) {
	p := &pki{dir: filepath.Join(d.dir, "pki")}
	cert, err := tls.LoadX509KeyPair(p.path(as+".crt"), p.path(as+".key"))
	if err != nil {
		return nil, fmt.Errorf("loading the certificate of %s: %w", as, err)
	}
	ca, err := os.ReadFile(p.path("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("loading the CA: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert},
	}}, nil
}

// exchange calls the service without showing it.
func (d dev) exchange(ctx context.Context, q question, status int, out any) error {
	got, err := d.ask(ctx, q)
	if err != nil {
		return err
	}
	if got.replayed != q.repeated {
		return fmt.Errorf("%s %s: is the answer a repeated one? It should be %v", q.method, q.path, q.repeated)
	}
	if got.status != status {
		return fmt.Errorf("%s %s should answer %d but answered %d: %s", q.method, q.path, status, got.status, got.body)
	}
	return json.Unmarshal(got.body, out)
}
