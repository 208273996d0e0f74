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

// request calls the service with one of the development certificates and returns the answer as it came. It is not
// api/client, because a demonstration shows what travels.
func (d dev) request(ctx context.Context, as, method, path string, in any) (status int, answer []byte, err error) {
	body := io.Reader(http.NoBody)
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+d.api+path, body)
	if err != nil {
		return 0, nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	transport, err := d.transport(as)
	if err != nil {
		return 0, nil, err
	}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
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
