package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// exchange is one request and its answer: what the log line, the metrics and the problem document say of it. It holds
// copies only: Fiber uses its buffers again.
type exchange struct {
	id      string // request id
	method  string
	route   string // pattern, "" if no route has this path
	started time.Time
	caller  authz.Caller
	names   map[string]bool     // field names a problem may repeat
	fields  map[string][]string // of the route's body: the names in each object, by its place
	code    string              // of the problem answered, "" if none
	retry   time.Duration       // when to try again, 0 for what the code says
	cause   error               // why, for the log

	replayed bool     // the answer was given before, under the same idempotency key
	size     int      // of the body, in bytes
	unread   bool     // what is left of the body is not read here, so the connection cannot carry another request
	stream   streamed // writes the answer after the handler has returned, nil if none does
}

// streamed is an answer that is still being written when its handler has returned. It ends the exchange.
type streamed interface {
	attrs() []slog.Attr // what the access log says of it
}

type exchangeKey struct{}

// exchangeOf returns the exchange that ctx belongs to; one that nobody reads if it belongs to none.
func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

const requestIDHeader = "X-Request-Id"

func (s *Server) begin(ctx *fasthttp.RequestCtx) *exchange {
	method, route := string(ctx.Method()), s.routes.match(string(ctx.URI().PathOriginal()))
	x := &exchange{
		id: requestID(string(ctx.Request.Header.Peek(requestIDHeader))), method: method, route: route,
		started: time.Now(), names: s.routes.names, fields: s.routes.infos[method+" "+route].fields,
	}
	ctx.SetUserValue(exchangeKey{}, x)
	s.metrics.inFlight.Inc()
	return x
}

// requestID takes over a well-formed id, at most 64 of A-Z a-z 0-9 . _ -, and makes one otherwise. The id goes into the
// access log and, for ever, into the audit log, and some client will put there what it has at hand: so an id that could
// be or hold a card number or a serial is not taken over either.
func requestID(given string) string {
	if given == "" || len(given) > 64 || strings.ContainsFunc(given, notIDRune) || holdsNumber(given) {
		return rand.Text()
	}
	return given
}

// A serial has 12 digits, a card number 16 to 19, which people also write in groups.
const (
	maxIDDigits        = 11 // in a row
	maxGroupedIDDigits = 15 // in a row but for . _ -
)

func holdsNumber(id string) bool {
	inRow, grouped := 0, 0
	for _, r := range id {
		switch {
		case r >= '0' && r <= '9':
			inRow++
			grouped++
		case r == '.' || r == '_' || r == '-':
			inRow = 0
		default:
			inRow, grouped = 0, 0
		}
		if inRow > maxIDDigits || grouped > maxGroupedIDDigits {
			return true
		}
	}
	return false
}

func notIDRune(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '.' && r != '_' && r != '-'
}

// edge is the first and last to see every request that could be read.
func (s *Server) edge(ctx *fasthttp.RequestCtx) {
	x := s.begin(ctx)
	defer s.finish(ctx, x)
	defer s.recovered(ctx, x)
	ctx.Request.Header.Del(fiber.HeaderAccept) // answers are JSON, whatever huma would negotiate
	p := s.receive(ctx, x)
	switch {
	case p != nil:
		p.write(ctx)
	case len(ctx.Request.Header.PeekAll(fiber.HeaderContentEncoding)) > 0: // before Fiber would inflate it
		x.problem(wire.CodeEncodingUnsupported, "").write(ctx)
	case !knownMethod(x.method): // Fiber would answer it in plain text
		x.problem(wire.CodeMethodNotAllowed, "").write(ctx)
	default:
		s.inner(ctx)
	}
}

// receive reads the body within the limit, unless its route does so line by line.
func (s *Server) receive(ctx *fasthttp.RequestCtx, x *exchange) *Problem {
	in := ctx.RequestBodyStream()
	if r, _ := s.routes.of(x); in == nil || r.stream {
		x.unread = in != nil && ctx.Request.Header.ContentLength() != 0
		return nil
	}
	body, err := s.readBody(in, ctx.Request.Header.ContentLength())
	if err != nil {
		x.unread = true
		return connectionProblem(x, err)
	}
	x.size = len(body)
	ctx.Request.SetBodyStream(bytes.NewReader(body), len(body)) // where huma reads it
	return nil
}

// readBody reads a body of this announced length, negative if it comes in chunks.
func (s *Server) readBody(in io.Reader, length int) ([]byte, error) {
	if length > s.BodyLimit {
		return nil, fasthttp.ErrBodyTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(in, int64(s.BodyLimit)+1))
	if err == nil && len(body) > s.BodyLimit {
		err = fasthttp.ErrBodyTooLarge
	}
	return body, err
}

// broken answers what could not be read as a request.
func (s *Server) broken(ctx *fasthttp.RequestCtx, err error) {
	l, ours := ctx.Conn().(*line)
	if ours && l.silent() {
		_ = l.NetConn().Close() // nobody asked anything
		return
	}
	x := s.begin(ctx)
	defer s.finish(ctx, x)
	connectionProblem(x, err).write(ctx)
}

// failed is Fiber's error handler: no route took the request.
func (s *Server) failed(c *fiber.Ctx, err error) error {
	x := exchangeOf(c.Context())
	status := fiber.StatusInternalServerError
	if e, ok := err.(*fiber.Error); ok {
		status = e.Code
	} else {
		x.cause = err
	}
	routeProblem(x, status).write(c.Context())
	return nil
}

// recovered turns a panic into a problem.
func (s *Server) recovered(ctx *fasthttp.RequestCtx, x *exchange) {
	r := recover()
	if r == nil {
		return
	}
	p := s.panicked(x, r)
	ctx.Response.Reset()
	p.write(ctx)
}

// panicked logs a panic. Its value may hold anything, so only its type is logged.
func (s *Server) panicked(x *exchange, r any) *Problem {
	what := fmt.Sprintf("%T", r)
	if e, ok := r.(runtime.Error); ok {
		what = e.Error()
	}
	s.Log.Error("panic in a handler", "request_id", x.id, "route", x.route, "panic", what, "stack", string(debug.Stack()))
	return x.problem(string(keyservice.CodeInternal), "")
}

// finish completes every answer: headers, and, unless it is still to be written, log line and metrics.
func (s *Server) finish(ctx *fasthttp.RequestCtx, x *exchange) {
	h := &ctx.Response.Header
	if ctx.Response.StatusCode() >= fasthttp.StatusBadRequest && string(h.ContentType()) != problemType {
		routeProblem(x, ctx.Response.StatusCode()).write(ctx)
	}
	h.Set(requestIDHeader, x.id)
	h.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	h.Set(fiber.HeaderCacheControl, "no-store")
	if after := x.retryAfter(); after != "" {
		h.Set(fiber.HeaderRetryAfter, after)
	}
	if x.replayed {
		h.Set(replayedHeader, "true")
	}
	l, ours := ctx.Conn().(*line)
	if s.lines.draining() || x.unread || (ours && l.single()) {
		h.SetConnectionClose()
	}
	if ours && x.unread {
		l.linger = true
	}
	if x.stream == nil {
		s.ended(x, ctx.RemoteAddr(), ctx.Response.StatusCode())
	}
}

// ended settles, counts and logs an exchange.
func (s *Server) ended(x *exchange, remote net.Addr, status int) {
	took := time.Since(x.started)
	s.limits.settle(x)
	s.metrics.inFlight.Dec()
	s.metrics.observe(x, status, took)
	s.access(x, remote, status, took)
}

// access writes the request's line in the log: no body, no query, no path but the route's pattern.
func (s *Server) access(x *exchange, remote net.Addr, status int, took time.Duration) {
	level := levelOf(x, status)
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", methodLabel(x.method)), slog.String("route", routeLabel(x.route)),
		slog.Int("status", status), slog.Int64("took_us", took.Microseconds()), slog.String("remote", remote.String()),
	}
	if x.caller.Name != "" {
		attrs = append(attrs, slog.String("client", x.caller.Name))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", x.code))
	}
	if status >= fasthttp.StatusInternalServerError && x.cause != nil {
		attrs = append(attrs, slog.String("cause", x.cause.Error()))
	}
	if x.stream != nil {
		attrs = append(attrs, x.stream.attrs()...)
	}
	s.Log.LogAttrs(context.Background(), level, "request", attrs...)
}

// levelOf: a request that was refused because there are too many must not fill the log instead; a metric counts it.
func levelOf(x *exchange, status int) slog.Level {
	switch {
	case status >= fasthttp.StatusInternalServerError:
		return slog.LevelError
	case x.code == wire.CodeTooManyRequests:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}
