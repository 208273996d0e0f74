package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
)

const (
	linePlace = "line" // what problems call the document that a line is

	// certificateAge is how long a stream goes on before it looks again whether its certificate is still good: a stream may
	// last for minutes, and each request asks.
	certificateAge = time.Second
)

var errLineTooLong = errors.New("the line is too long")

// receive takes lines until they end, and notes why if they did not end as they must. No other goroutine's recovery
// catches a panic here, so without its own it would end the process.
func (b *bulkStream) receive() {
	defer close(b.jobs)
	defer func() {
		if r := recover(); r != nil {
			b.cut = b.server.panicked(b.x, r)
		}
	}()
	b.cut = b.receiveLines()
}

func (b *bulkStream) receiveLines() *Problem {
	checked := time.Now()
	for n := 0; ; n++ {
		select {
		case b.places <- struct{}{}:
		case <-b.ctx.Done():
			return b.interrupted(b.ctx.Err())
		}
		text, err := b.readLine()
		if err != nil && !errors.Is(err, errLineTooLong) && len(text) == 0 {
			return b.interrupted(err)
		}
		job := &bulkJob{number: n + 1, answer: make(chan wire.BulkAnswer, 1)}
		end, p := b.decode(text, errors.Is(err, errLineTooLong), &job.line)
		switch {
		case end != nil:
			return b.checkEnd(*end, n)
		case errors.Is(err, io.EOF): // a line without its end is half of one
			return b.interrupted(err)
		}
		if stop := b.admit(&checked); stop != nil {
			return stop
		}
		b.start(job, p)
	}
}

// readLine returns the next line. The last one may lack its newline: it comes with io.EOF. What is returned is good until
// the next call.
func (b *bulkStream) readLine() ([]byte, error) {
	if err := b.conn.SetReadDeadline(time.Now().Add(b.server.ReadTimeout)); err != nil {
		return nil, err
	}
	if err := b.ctx.Err(); err != nil { // looked at after the deadline was set, which else would undo the wake-up
		return nil, err
	}
	text, err := b.body.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		if err != nil && !errors.Is(err, io.EOF) {
			text = nil
		}
		return text, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = b.body.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return nil, errLineTooLong
}

// checkEnd holds the last line against what came before it, and looks that nothing follows.
func (b *bulkStream) checkEnd(end wire.BulkEnd, lines int) *Problem {
	if end.Lines != lines {
		return b.x.problem(wire.CodeUploadCut, fmt.Sprintf("send the same lines again: %d came, but the last line counts %d", lines, end.Lines))
	}
	_, err := b.body.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return b.x.problem(wire.CodeUploadCut, "send no line behind the last line: something followed it, and was not read")
	}
	return b.interrupted(err)
}

// interrupted says why no more can be read.
func (b *bulkStream) interrupted(err error) *Problem {
	var timeout interface{ Timeout() bool }
	switch {
	case b.server.running.Err() != nil:
		return b.x.problem(wire.CodeNotReady, "send the same lines again, to another node or later: the service is stopping")
	case errors.As(err, &timeout) && timeout.Timeout() && b.ctx.Err() == nil: // else it is our own wake-up
		return b.x.problem(wire.CodeRequestTimeout, "send the same lines again, faster: the next one did not arrive in time")
	}
	return b.x.problem(wire.CodeUploadCut, "")
}

// admit asks of each line what is asked of each request: whether its certificate is still good, and whether the client
// asks too often. A line waits for its turn.
func (b *bulkStream) admit(checked *time.Time) *Problem {
	s := b.server
	if time.Since(*checked) >= certificateAge {
		if _, err := verifiedLeaf(b.request, s.TLS, s.Clock()); err != nil {
			return b.x.problem(certificateCode(err), "")
		}
		*checked = time.Now()
	}
	for wait := s.limits.clients.take(b.x.caller.Name); wait > 0; wait = s.limits.clients.take(b.x.caller.Name) {
		select {
		case <-time.After(wait):
		case <-b.ctx.Done():
			return b.interrupted(b.ctx.Err())
		}
	}
	return nil
}

// decode reads a line as strictly as a body is read: it is the last line, or one to issue a token for, or a problem. What
// can be known of a broken line, its key, is in into.
func (b *bulkStream) decode(text []byte, tooLong bool, into *wire.BulkLine) (*wire.BulkEnd, *Problem) {
	x := b.exchange()
	if tooLong {
		return nil, x.problem(wire.CodeBodyTooLarge, fmt.Sprintf("send at most %d bytes in a line", bulkLineLimit))
	}
	var document any
	if err := unmarshalBody(text, &document); err != nil {
		detail := "a line must be one JSON document in UTF-8, each field once"
		if slices.Contains(bodyFaults, err) {
			detail += ": " + err.Error()
		}
		return nil, x.problem(wire.CodeBodyMalformed, detail)
	}
	fields, _ := document.(map[string]any)
	if _, is := fields["end"]; is {
		end := &wire.BulkEnd{}
		if p := b.server.checkForm(x, b.server.forms.end, document, text, end); p != nil {
			return nil, p
		}
		return end, nil
	}
	p := b.server.checkForm(x, b.server.forms.line, document, text, into)
	if key, is := fields["key"].(string); p != nil && is && keyIs.MatchString(key) {
		into.Key = key
	}
	return nil, p
}

// checkForm holds a line against its schema, and decodes it.
func (s *Server) checkForm(x *exchange, form *huma.Schema, document any, text []byte, into any) *Problem {
	place, found := huma.NewPathBuffer(nil, 0), huma.ValidateResult{}
	place.Push(linePlace)
	huma.Validate(s.huma.OpenAPI().Components.Schemas, form, place, huma.ModeWriteToServer, document, &found)
	if len(found.Errors) > 0 {
		return x.problem(string(keyservice.CodeInvalid), "", x.places(found.Errors)...)
	}
	if err := unmarshalBody(text, into); err != nil {
		return x.problem(wire.CodeBodyMalformed, "")
	}
	return nil
}

// exchange is a line as if it were a request of its own, with the request id of the stream.
func (b *bulkStream) exchange() *exchange {
	return &exchange{
		id: b.x.id, method: b.x.method, route: b.x.route, started: time.Now(), caller: b.x.caller,
		names: b.server.routes.names, fields: b.server.forms.fields,
	}
}

// start hands a line to a worker, or answers it with the problem that it is. jobs has room for each line with a place.
func (b *bulkStream) start(job *bulkJob, p *Problem) {
	b.jobs <- job
	if p != nil {
		job.answer <- wire.BulkAnswer{Line: job.number, Key: job.line.Key, Problem: &p.Problem}
		return
	}
	b.group.Go(func() { job.answer <- b.issue(job) })
}

// issue carries one line out. It has the time of a request of its own, and goes on when the stream is cut: what has begun
// is finished.
func (b *bulkStream) issue(job *bulkJob) (a wire.BulkAnswer) {
	x := b.exchange()
	a = wire.BulkAnswer{Line: job.number, Key: job.line.Key}
	defer func() {
		if r := recover(); r != nil {
			a.Problem = &b.server.panicked(x, r).Problem
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), b.server.HandlerTimeout)
	defer cancel()
	ctx = context.WithValue(keyservice.WithRequestID(ctx, x.id), exchangeKey{}, x)
	t, err := b.server.issue(ctx, x.caller, &issueInput{IdempotencyKey: job.line.Key, Body: job.line.Token})
	a.Repeated = x.replayed
	if err != nil {
		a.Problem = &refuse(ctx, err).Problem
		b.report(x, job.number, a.Problem)
		return a
	}
	a.Serial, a.Status, a.Activation = t.Serial, t.Status, t.Activation
	return a
}

// report logs the cause of a fault of the server, once for each code: when the HSM is away, every line meets the same.
func (b *bulkStream) report(x *exchange, line int, p *wire.Problem) {
	if p.Status < fasthttp.StatusInternalServerError {
		return
	}
	if _, told := b.faults.LoadOrStore(p.Code, struct{}{}); told {
		return
	}
	b.server.Log.Error("a line of a bulk issue failed; others with the same code are not logged",
		slog.String("request_id", x.id), slog.Int("line", line), slog.String("code", p.Code), slog.String("cause", x.cause.Error()))
}
