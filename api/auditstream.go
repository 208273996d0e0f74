package api

import (
	"bytes"
	"context"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

const (
	auditStreams   = 4 // streams of entries at once: each holds a page of up to a thousand
	auditPerClient = 2 // of them, so that no client can keep the others out
)

// auditStreamRoute registers the stream of entries. huma reads what is asked for; the answer is written by fasthttp out of
// the stream, because huma would hold it back until it is whole.
func (s *Server) auditStreamRoute() {
	s.auditing = places{what: "streams of the audit log", client: auditPerClient, server: auditStreams, of: map[string]int{}}
	r := route{
		method: get, path: "/v1/audit/stream", id: "audit-stream", role: authz.Auditor, status: http.StatusOK,
		summary: "Stream an audit log",
		description: "All entries of the log, or those of them that were asked for, one JSON document per line (`application/x-ndjson`), " +
			"as the log was when the stream began. The last line is `{\"summary\":{…}}`; without it the answer was cut. If the " +
			"summary is not complete, it holds a problem: read on from `next`. Empty lines stand for parts of the log with nothing of what was " +
			"asked for. The status is 200 as soon as entries are read. Reading is " +
			"itself logged, once. A client may run 2 streams at once, all clients together 4.",
		codes: []keyservice.Code{keyservice.CodeSerialInvalid, keyservice.CodeBusy},
	}
	op := r.operation(s.huma)
	all := s.huma.OpenAPI().Components.Schemas
	all.RegisterTypeAlias(reflect.TypeFor[wire.Problem](), reflect.TypeFor[Problem]())
	op.Responses["200"] = &huma.Response{Description: "Entries, and a last line that counts them", Content: map[string]*huma.MediaType{
		ndjsonType: {Schema: &huma.Schema{OneOf: []*huma.Schema{
			all.Schema(reflect.TypeFor[wire.AuditEntry](), true, ""), all.Schema(reflect.TypeFor[wire.AuditStreamEnd](), true, ""),
		}}},
	}}
	huma.Register(s.huma, op, s.streamAudit)
}

// streamAudit opens a stream: who may not read, or comes when enough of them run, is refused before.
func (s *Server) streamAudit(ctx context.Context, in *AuditFilter) (*huma.StreamResponse, error) {
	x := exchangeOf(ctx)
	if code, detail := s.auditing.take(x.caller.Name); code != "" {
		if code == wire.CodeTooManyRequests {
			s.metrics.limited.WithLabelValues(x.caller.Name).Inc() // the log does not show it
		}
		return nil, x.problem(code, detail)
	}
	a := &auditStream{server: s, x: x, leaves: in.Leaves, total: wire.AuditSummary{Next: in.From}}
	a.ctx, a.cancel = context.WithCancel(keyservice.WithRequestID(s.running, x.id)) // the request's own ends with its handler
	opened, err := s.Service.StreamAudit(a.ctx, x.caller, in.query())
	if err != nil {
		a.cancel()
		s.auditing.giveBack(x.caller.Name)
		return nil, refuse(ctx, err)
	}
	a.next, a.stop = iter.Pull2(opened.Pages)
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		request := humafiber.Unwrap(ctx).Context()
		a.conn = request.Conn()
		x.stream = a
		request.Response.Header.SetContentType(ndjsonType)
		request.Response.ImmediateHeaderFlush = true
		request.Response.SetBodyStream(a, -1)
	}}, nil
}

// auditStream is one stream of entries. fasthttp reads the answer from it, page by page.
type auditStream struct {
	server *Server
	x      *exchange
	conn   net.Conn
	leaves bool

	ctx    context.Context // ends with the stream, or when the server shuts down
	cancel context.CancelFunc
	next   func() (keyservice.AuditPage, error, bool)
	stop   func()
	closed sync.Once

	out   bytes.Buffer      // what has not been taken yet
	total wire.AuditSummary // of the lines that have been in out
	ended bool              // the summary has been in out
}

// Read implements io.Reader.
func (a *auditStream) Read(p []byte) (int, error) {
	for a.out.Len() == 0 {
		if a.ended {
			return 0, io.EOF
		}
		if err := a.fill(); err != nil {
			return 0, err
		}
	}
	if err := a.conn.SetWriteDeadline(time.Now().Add(a.server.WriteTimeout)); err != nil {
		return 0, err
	}
	return a.out.Read(p)
}

// fill puts a page into out, and the summary after the last one.
func (a *auditStream) fill() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = a.end(a.server.panicked(a.x, r))
		}
	}()
	page, err, more := a.next()
	switch {
	case a.server.running.Err() != nil:
		return a.end(a.x.problem(wire.CodeNotReady, "read on from next, at another node or later: the service is stopping"))
	case err != nil:
		return a.end(refuse(context.WithValue(a.ctx, exchangeKey{}, a.x), err))
	case !more:
		return a.end(nil)
	}
	if len(page.Entries) == 0 { // so that a caller who left is noticed, and one who waits knows that it goes on
		a.out.WriteByte('\n')
	}
	for _, e := range page.Entries {
		line, err := auditEntry(e, a.leaves)
		if err != nil {
			return err
		}
		if err := jsonFormat.Marshal(&a.out, line); err != nil {
			return err
		}
	}
	a.total.Entries += len(page.Entries)
	a.total.Next = page.Next
	return nil
}

// end puts the summary into out.
func (a *auditStream) end(p *Problem) error {
	a.ended, a.total.Complete = true, p == nil
	if p != nil {
		a.total.Problem = &p.Problem
	}
	return jsonFormat.Marshal(&a.out, wire.AuditStreamEnd{Summary: a.total})
}

// Close implements io.Closer. fasthttp calls it when the answer has been written or cannot be.
func (a *auditStream) Close() error {
	a.closed.Do(func() {
		a.cancel()
		a.stop()
		a.server.auditing.giveBack(a.x.caller.Name)
		a.server.ended(a.x, a.conn.RemoteAddr(), fasthttp.StatusOK)
	})
	return nil
}

// attrs are what the access log says of the stream: how far it came, and whether its caller was told all of it.
func (a *auditStream) attrs() []slog.Attr {
	return []slog.Attr{
		slog.Int("entries", a.total.Entries), slog.String("complete", strconv.FormatBool(a.total.Complete && a.out.Len() == 0)),
	}
}
