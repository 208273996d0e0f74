package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/wire"
	"ramzban/keyservice/authz"
)

// roleNames are the clients of the tests: one per role, named as the role, by common name.
func roleNames() []authz.Client {
	var all []authz.Client
	for _, r := range authz.Roles() {
		all = append(all, authz.Client{Name: "the-" + string(r), Certificates: []string{string(r)}, Roles: []authz.Role{r}})
	}
	all = append(all, authz.Client{Name: "another-verifier", Certificates: []string{"another-verifier"}, Roles: []authz.Role{authz.Verifier}})
	return append(all, authz.Client{Name: "by-uri", Certificates: []string{"spiffe://bank/core"}, Roles: []authz.Role{authz.Verifier}})
}

// logBuffer collects log lines from many goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// take returns what was written since the last take.
func (l *logBuffer) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

// world is a real server on loopback with its own authority.
type world struct {
	t       testing.TB
	ca      *authority
	server  *api.Server
	addr    string
	log     *logBuffer
	metrics *prometheus.Registry
	served  chan error

	mu    sync.Mutex
	certs map[string]tls.Certificate
	https map[string]*http.Client
}

// start serves s over mutual TLS; edit changes the options first.
func start(t testing.TB, s api.Service, edit func(*api.Options)) *world {
	t.Helper()
	return startAs(t, newAuthority(t, "test authority"), s, edit)
}

// startAs is start with an authority that was made before.
func startAs(t testing.TB, ca *authority, s api.Service, edit func(*api.Options)) *world {
	t.Helper()
	w := &world{
		t: t, ca: ca, log: &logBuffer{}, metrics: prometheus.NewRegistry(), served: make(chan error, 1),
		certs: map[string]tls.Certificate{}, https: map[string]*http.Client{},
	}
	dir, err := authz.NewDirectory(roleNames())
	require.NoError(t, err)
	o := api.Options{
		Service: s, Directory: dir, Metrics: w.metrics, Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		TLS: &tls.Config{Certificates: []tls.Certificate{w.ca.certify("server", nil)}, ClientCAs: w.ca.pool()},
	}
	if edit != nil {
		edit(&o)
	}
	w.server, err = api.New(o)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w.addr = ln.Addr().String()
	go func() { w.served <- w.server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, w.server.Shutdown(ctx))
		require.NoError(t, <-w.served)
	})
	return w
}

// tls is the client side's configuration of the client whose certificate has this name; "" has none.
func (w *world) tls(name string) *tls.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	conf := &tls.Config{RootCAs: w.ca.pool(), MinVersion: tls.VersionTLS13}
	if name == "" {
		return conf
	}
	if _, made := w.certs[name]; !made {
		w.certs[name] = w.ca.certify(name, nil)
	}
	conf.Certificates = []tls.Certificate{w.certs[name]}
	return conf
}

// as is an HTTP client with the certificate of this name.
func (w *world) as(name string) *http.Client {
	conf := w.tls(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.https[name] == nil {
		w.https[name] = httpClient(conf)
		w.t.Cleanup(w.https[name].CloseIdleConnections)
	}
	return w.https[name]
}

func httpClient(conf *tls.Config) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 256, DisableCompression: true}}
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// problem decodes the reply as a problem document; anything else fails the test.
func (r reply) problem(t testing.TB) wire.Problem {
	t.Helper()
	var p wire.Problem
	require.Equal(t, "application/problem+json", r.header.Get("Content-Type"), r.body)
	dec := json.NewDecoder(strings.NewReader(r.body))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&p), r.body)
	require.True(t, strings.HasSuffix(r.body, "}\n"), "problems end as ordinary answers do: %q", r.body)
	require.Equal(t, r.status, p.Status)
	require.NotEmpty(t, p.Code)
	require.NotEmpty(t, p.Title)
	require.Equal(t, "/docs#"+p.Code, p.Type)
	require.Equal(t, r.header.Get("X-Request-Id"), p.RequestID)
	return p
}

// send sends one request; a header is given as "Name: value".
func (w *world) send(client, method, path, body string, headers ...string) reply {
	w.t.Helper()
	return w.sendWith(w.as(client), method, path, body, headers...)
}

func (w *world) sendWith(c *http.Client, method, path, body string, headers ...string) reply {
	w.t.Helper()
	r, err := w.try(c, method, path, body, headers...)
	require.NoError(w.t, err)
	checkDocumented(w.t, method, path, r)
	return r
}

// checkDocumented fails the test if a route answered with a problem that the OpenAPI document does not name for it.
func checkDocumented(t testing.TB, method, path string, r reply) {
	t.Helper()
	if r.status < 400 {
		return
	}
	if op, is := documentedOperation(t, method, path); is {
		code := r.problem(t).Code
		require.Contains(t, op.Responses[strconv.Itoa(r.status)].Content["application/problem+json"].Examples, code, method+" "+op.ID)
	}
}

// documented is what every server's OpenAPI document says; read from a server of its own, whose limits no test sets.
var (
	documentOnce sync.Once
	documented   document
)

// documentedOperation finds a request's; the path with the fewest parameters counts, as for the server.
func documentedOperation(t testing.TB, method, path string) (op operation, is bool) {
	t.Helper()
	documentOnce.Do(func() { documented = start(t, &recorder{}, nil).document(t) })
	fewest := len(path)
	path, _, _ = strings.Cut(path, "?")
	for pattern, item := range documented.Paths {
		form := regexp.MustCompile("^" + placeholder.ReplaceAllString(pattern, "[^/]+") + "$")
		if n := strings.Count(pattern, "{"); n < fewest && form.MatchString(path) {
			fewest = n
			op, is = item[strings.ToLower(method)]
		}
	}
	return op, is
}

func (w *world) try(c *http.Client, method, path, body string, headers ...string) (reply, error) {
	req, err := http.NewRequest(method, "https://"+w.addr+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", mediaOf(path))
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, body: string(b)}, err
}

// mediaOf is what a route takes: documents, or lines of them.
func mediaOf(path string) string {
	if path == "/v1/tokens/bulk" || strings.HasPrefix(path, "/v1/seed-imports/") {
		return "application/x-ndjson"
	}
	return "application/json"
}

// raw writes bytes to a fresh connection and returns all that comes back.
func (w *world) raw(client, text string) string {
	w.t.Helper()
	c, err := tls.Dial("tcp", w.addr, w.tls(client))
	require.NoError(w.t, err)
	defer func() { _ = c.Close() }()
	require.NoError(w.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(c, text)
	require.NoError(w.t, err)
	all, err := io.ReadAll(c)
	require.NoError(w.t, err)
	return string(all)
}
