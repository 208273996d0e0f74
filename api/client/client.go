// Package client is the Go client of Ramzban's API: one method per route, over mutual TLS 1.3. A refusal of the
// service comes back as a *wire.Problem (errors.As), whose Code is stable; anything else is a transport failure, after
// which the outcome is unknown. Whether to repeat a request is for the caller to decide: WithIdempotencyKey makes it safe.
// By itself the client repeats only what cannot be done twice: reading, a request of which nothing was sent, and one that
// has an idempotency key, when the server closes a kept connection instead of answering.
//
// It must not know the server's insides: it shares nothing with it but the wire types.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"time"

	"ramzban/api/wire"
)

const (
	defaultTimeout = 15 * time.Second
	// comparisonTimeout is longer than the five minutes the service gives a comparison of audit log and store.
	comparisonTimeout      = 6 * time.Minute
	defaultIdleConnections = 64
	maxAnswer              = 8 << 20 // bytes: a full page of audit entries is well below
	maxProblem             = 64 << 10
)

// ErrAnswer says that something other than Ramzban's API answered, or that the answer cannot be read.
var ErrAnswer = errors.New("this is not an answer of Ramzban's API")

// Options says where the service is and who asks.
type Options struct {
	BaseURL  string        // e.g. https://127.0.0.1:8443; https only
	CAFile   string        // PEM: who may have signed the server's certificate; empty: the system's authorities
	CertFile string        // PEM: the client's certificate; empty together with KeyFile: none, good for Time only
	KeyFile  string        // PEM: its private key
	Timeout  time.Duration // for a whole call, the answer included; 0 means 15 s. CompareAudit has its own

	// IdleConnections is how many connections are kept for the next calls; 0 means 64. Who makes more calls at once should
	// say how many: each connection beyond these costs a TLS handshake per call.
	IdleConnections int
}

// Client calls one service. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	timeout time.Duration // of a call
}

// New reads the certificate files; it does not connect.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.BaseURL)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("client: %q is not an https address such as https://127.0.0.1:8443", o.BaseURL)
	}
	conf, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	timeout, idle := o.Timeout, o.IdleConnections
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	if idle <= 0 {
		idle = defaultIdleConnections
	}
	return &Client{base: base, timeout: timeout, http: &http.Client{
		Transport: &http.Transport{
			DialTLSContext: dialer(conf, timeout), ForceAttemptHTTP2: false, DisableCompression: true,
			MaxIdleConnsPerHost: idle, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

type idempotencyKey struct{}

// WithIdempotencyKey returns a context whose calls carry the key: 1 to 128 printable ASCII characters without spaces. A call
// that is repeated with the same key and request, within a day, gets the first answer again and does nothing twice. Verify,
// Challenge, Issue, Activate and ActivateSubject take one; the service refuses it on other calls. Draw a fresh random key, such as
// crypto/rand.Text makes, for each new request.
func WithIdempotencyKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, idempotencyKey{}, key)
}

func tlsConfig(o Options) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("client: reading the authority's certificate: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client: %s holds no PEM certificate", o.CAFile)
		}
	}
	if o.CertFile == "" && o.KeyFile == "" {
		return conf, nil
	}
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("client: loading the client certificate: %w", err)
	}
	conf.Certificates = []tls.Certificate{cert}
	return conf, nil
}

// Close gives idle connections back. Calls in flight are not disturbed.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends in (nil: no body) and reads a 2xx answer into a new A, any other into a *wire.Problem, within the client's
// timeout.
func call[A any](ctx context.Context, c *Client, method string, to *url.URL, in any) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return exchange[A](ctx, c, method, to, in)
}

func exchange[A any](ctx context.Context, c *Client, method string, to *url.URL, in any) (A, error) {
	var out A
	req, err := request(ctx, method, to, in)
	if err != nil {
		return out, err
	}
	return answer[A](c, req)
}

// answer sends a request, and reads what comes back as call does.
func answer[A any](c *Client, req *http.Request) (A, error) {
	var out A
	resp, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("client: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return out, problem(resp)
	}
	if err := decode(resp, "application/json", maxAnswer, &out); err != nil {
		var none A
		return none, err
	}
	return out, nil
}

func request(ctx context.Context, method string, to *url.URL, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("client: encoding the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, to.String(), body)
	if err != nil {
		return nil, fmt.Errorf("client: making the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if key, given := ctx.Value(idempotencyKey{}).(string); given {
		req.Header.Set("Idempotency-Key", key) // net/http takes it for leave to repeat the request, with this same key
	}
	return req, nil
}

func problem(resp *http.Response) error {
	p := &wire.Problem{}
	if err := decode(resp, "application/problem+json", maxProblem, p); err != nil {
		return err
	}
	if p.Code == "" {
		return fmt.Errorf("client: status %d without a code: %w", resp.StatusCode, ErrAnswer)
	}
	p.Status = resp.StatusCode
	return p
}

// decode reads at most limit bytes of one JSON document. Unknown fields are let by: a newer service may say more.
func decode(resp *http.Response, contentType string, limit int64, into any) error {
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || got != contentType {
		return fmt.Errorf("client: status %d with content type %q instead of %s: %w", resp.StatusCode, got, contentType, ErrAnswer)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return fmt.Errorf("client: reading the answer: %w", err)
	}
	if int64(len(b)) > limit {
		return fmt.Errorf("client: an answer above %d bytes: %w", limit, ErrAnswer)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("client: status %d, decoding: %w", resp.StatusCode, ErrAnswer)
	}
	return nil
}
