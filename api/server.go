// Package api is the HTTP edge of Ramzban: routes, identity from the client certificate, limits, problem documents,
// metrics, and the operator's listener. Handlers decode, call a use case and encode.
//
// It must not know how anything is decided: authorisation and audit happen inside the use cases. It knows no HSM and no
// storage engine.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"ramzban/keyservice/authz"
)

// Options is what a Server is made of. Service, Directory and TLS are required; the zero value of each other field
// stands for the default named beside it.
type Options struct {
	Service   Service
	Directory *authz.Directory // who the client certificates' names are

	// TLS is the base of the listener's configuration: it must hold the server's certificate (Certificates or
	// GetCertificate) and ClientCAs, the authorities of client certificates. New copies it and enforces the rest: TLS
	// 1.3, and a client certificate that is verified if given.
	TLS *tls.Config

	Clock   func() time.Time      // time.Now; what /v1/time tells and certificates are held against
	Log     *slog.Logger          // slog.Default()
	Metrics prometheus.Registerer // a registry of its own
	Version string                // "dev"; in the OpenAPI document

	BodyLimit         int           // 16 KiB; a longer body is refused
	HeaderLimit       int           // 8 KiB; request line and header together
	Requests          Rate          // 20000/s, 40000 at once; of one client, or of one address that shows no client's certificate
	Denials           Rate          // 5/s, 50 at once; of one client's requests that it may not make, or of one unknown certificate
	MaxConnections    int           // 4096; an eighth of them for who shows no client's certificate
	HandlerTimeout    time.Duration // 10 s; one use case, all waiting included
	ComparisonTimeout time.Duration // 5 min; the comparison of audit log and store reads all of both
	ReadTimeout       time.Duration // 10 s; handshake, and then each whole request
	WriteTimeout      time.Duration // 10 s; each whole answer
	IdleTimeout       time.Duration // 60 s; between requests on one connection
}

const (
	defaultBodyLimit      = 16 << 10
	defaultHeaderLimit    = 8 << 10
	defaultMaxConnections = 4096
)

var (
	defaultRequests = Rate{PerSecond: 20_000, Burst: 40_000}
	defaultDenials  = Rate{PerSecond: 5, Burst: 50}
)

// Server answers the API on one listener.
type Server struct {
	Options
	app     *fiber.App
	inner   fasthttp.RequestHandler // Fiber's: routing and everything behind it
	http    *fasthttp.Server
	lines   *lines
	metrics *metrics
	limits  *limits
	huma    huma.API
	routes  routeTable
	forms   bulkForms
	streams places // of the bulk issues that run

	auditing places // of the streams of audit entries that run

	running context.Context // ends when Shutdown begins: streams end then
	stop    context.CancelFunc
}

// New makes a server. It does not listen yet.
func New(o Options) (*Server, error) {
	if o.Service == nil || o.Directory == nil || o.TLS == nil {
		return nil, errors.New("api: Service, Directory and TLS are required")
	}
	o = withDefaults(o)
	conf, err := serverTLS(o.TLS)
	if err != nil {
		return nil, err
	}
	o.TLS = conf
	s := &Server{Options: o, lines: newLines(o.MaxConnections), streams: places{what: "bulk issues", client: bulkPerClient, server: bulkStreams, of: map[string]int{}}}
	s.running, s.stop = context.WithCancel(context.Background())
	if s.metrics, err = newMetrics(o.Metrics, s.lines); err != nil {
		return nil, err
	}
	if s.limits, err = newLimits(o, s.metrics.limited); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s.app = fiber.New(fiberConfig(o, s.failed))
	s.app.Use(s.admit)
	if err := s.register(); err != nil {
		return nil, err
	}
	s.inner = s.app.Handler()
	s.http = s.app.Server()
	s.http.Handler, s.http.ErrorHandler = s.edge, s.broken
	s.http.ConnState = s.lines.state
	s.http.SecureErrorLogMessage = true
	return s, nil
}

func withDefaults(o Options) Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	defaultLimits(&o)
	defaultTimeouts(&o)
	return o
}

func defaultLimits(o *Options) {
	for _, n := range []struct {
		v *int
		d int
	}{{&o.BodyLimit, defaultBodyLimit}, {&o.HeaderLimit, defaultHeaderLimit}, {&o.MaxConnections, defaultMaxConnections}} {
		if *n.v <= 0 {
			*n.v = n.d
		}
	}
	o.Requests, o.Denials = o.Requests.or(defaultRequests), o.Denials.or(defaultDenials)
}

func defaultTimeouts(o *Options) {
	for _, t := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&o.HandlerTimeout, 10 * time.Second}, {&o.ComparisonTimeout, 5 * time.Minute},
		{&o.ReadTimeout, 10 * time.Second}, {&o.WriteTimeout, 10 * time.Second}, {&o.IdleTimeout, time.Minute},
	} {
		if *t.v <= 0 {
			*t.v = t.d
		}
	}
}

// serverTLS copies the base and enforces what the API rests on. Without ClientCAs Go would trust every public
// authority for client certificates, so that is an error. Sessions are not resumed: each connection shows its certificate.
func serverTLS(base *tls.Config) (*tls.Config, error) {
	if len(base.Certificates) == 0 && base.GetCertificate == nil {
		return nil, errors.New("api: TLS holds no server certificate")
	}
	if base.ClientCAs == nil {
		return nil, errors.New("api: TLS names no authorities for client certificates (ClientCAs)")
	}
	conf := base.Clone()
	conf.MinVersion = tls.VersionTLS13
	conf.ClientAuth = tls.VerifyClientCertIfGiven
	conf.NextProtos = []string{"http/1.1"}
	conf.SessionTicketsDisabled = true
	return conf, nil
}

// fiberConfig: Immutable because Fiber's strings else change when the request is over; multipart is not parsed because
// fasthttp would inflate it before any limit; Fiber's own connection limit is never reached, because it shakes hands with
// and writes to a refused connection inside the accept loop, which a silent client can block. Bodies are streamed for the bulk
// issue; those of all other routes are read by the edge, within BodyLimit.
func fiberConfig(o Options, failed fiber.ErrorHandler) fiber.Config {
	return fiber.Config{
		DisableStartupMessage: true, Immutable: true, CaseSensitive: true, StrictRouting: true,
		StreamRequestBody: true, BodyLimit: o.BodyLimit, ReadBufferSize: o.HeaderLimit, DisablePreParseMultipartForm: true,
		Concurrency: math.MaxInt32,
		ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, IdleTimeout: o.IdleTimeout,
		ErrorHandler: failed,
	}
}

// Serve accepts connections on ln until Shutdown; it then returns nil. ln is a plain listener: Serve adds TLS.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(&listener{Listener: ln, server: s}); err != nil {
		return fmt.Errorf("api: serving %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown stops accepting, lets every request that has begun to arrive finish and be answered, and returns when the
// last connection is closed. A bulk issue carries out the lines it has read, ends with its summary, and drops what its
// client still sends, for at most 5 s. When ctx ends first, what is left is cut off and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	if err := s.lines.drain(ctx); err != nil {
		return fmt.Errorf("api: shutting down: %w", err)
	}
	return nil
}
