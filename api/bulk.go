package api

import (
	"fmt"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

const (
	bulkPath   = "/v1/tokens/bulk"
	ndjsonType = "application/x-ndjson"

	bulkLineLimit = 8 << 10 // bytes of one line; the longest that is of the documented form has about 2 KiB
	bulkInFlight  = 64      // lines of one stream that are worked on or wait to be written
	bulkStreams   = 16      // streams at once: together with the two limits above, this bounds their memory to 8 MiB
	bulkPerClient = 4       // of them, so that no client can keep the others out
)

// places is who runs how many of something that bounds itself.
type places struct {
	what           string // of which, in the plural
	client, server int    // how many one client may run at once, and all together

	mu  sync.Mutex // guards what follows
	all int
	of  map[string]int // by client; without those that run none
}

// take gives a client a place. It returns the code of the refusal if there is none, with what to do.
func (p *places) take(client string) (code, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.of[client] >= p.client:
		return wire.CodeTooManyRequests, fmt.Sprintf("try again when one of this client's %s has ended: it may run %d at once", p.what, p.client)
	case p.all >= p.server:
		return string(keyservice.CodeBusy), fmt.Sprintf("enough %s are running: try again when one has ended", p.what)
	}
	p.all++
	p.of[client]++
	return "", ""
}

func (p *places) giveBack(client string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.of[client]--; p.of[client] == 0 {
		delete(p.of, client)
	}
}

// bulkForms are the lines of a bulk issue as they must be.
type bulkForms struct {
	line, end *huma.Schema
	fields    map[string][]string // of each object in a line, by its place
}

// bulkRoute registers the bulk issue. It is a plain Fiber route, for huma reads a body whole before its handler runs and
// writes an answer when it has ended; so it is documented by hand.
func (s *Server) bulkRoute() {
	doc := s.huma.OpenAPI()
	all := doc.Components.Schemas
	all.RegisterTypeAlias(reflect.TypeFor[wire.Problem](), reflect.TypeFor[Problem]())
	s.forms = bulkForms{
		line: all.Schema(reflect.TypeFor[wire.BulkLine](), true, ""), end: all.Schema(reflect.TypeFor[wire.BulkEnd](), true, ""),
		fields: map[string][]string{},
	}
	addFields(s.forms.fields, all, linePlace, s.forms.line)
	r := route{
		method: post, path: bulkPath, id: "issue-bulk", role: authz.Issuer, status: http.StatusOK, body: true,
		summary: "Issue many tokens in one stream",
		description: "One JSON document per line (`application/x-ndjson`), both ways. Each line issues a token as `POST /v1/tokens` does, " +
			"under an idempotency key of its own: the same line under the same key gets the same token, so after a cut stream the same " +
			"lines may simply be sent again. The last line is `{\"end\":true,\"lines\":N}`, N being how many came before it; without it " +
			"the upload counts as cut. A line has at most 8 KiB and must be whole a read timeout after the one before it.\n\n" +
			"The answers come in the order of the lines, while they are still being sent, and must be read meanwhile. Up to 64 lines are " +
			"carried out side by side, so none may rely on another. A line that is refused is answered with a problem as " +
			"`POST /v1/tokens` answers it, and the lines after it go on. The last line of the answer is `{\"summary\":{…}}`; without it " +
			"the answer was cut. If the lines did not all arrive, it holds a problem, such as `upload_cut`, `request_timeout`, or " +
			"`not_ready` when the service stops: send the same lines again. The status is 200 as soon as lines are read: whether all " +
			"went well stands in the summary. Each line counts as a request against the client's rate, which slows the stream down. " +
			"The connection is closed after the answer: who gets the summary while still sending must stop, and close it.\n\n" +
			"A client may run 4 bulk issues at once, all clients together 16.",
		codes: []keyservice.Code{keyservice.CodeBusy},
	}
	op := s.bulkOperation(r)
	doc.AddOperation(&op)
	s.app.Add(post, bulkPath, s.bulk)
}

// bulkOperation documents what huma cannot: lines.
func (s *Server) bulkOperation(r route) huma.Operation {
	all := s.huma.OpenAPI().Components.Schemas
	op := r.operation(s.huma)
	op.RequestBody = &huma.RequestBody{
		Required: true, Description: "Lines, and a last line that counts them",
		Content: map[string]*huma.MediaType{ndjsonType: {Schema: &huma.Schema{OneOf: []*huma.Schema{s.forms.line, s.forms.end}}}},
	}
	op.Responses["200"] = &huma.Response{Description: "Answers, and a last line that sums them up", Content: map[string]*huma.MediaType{
		ndjsonType: {Schema: &huma.Schema{OneOf: []*huma.Schema{
			all.Schema(reflect.TypeFor[wire.BulkAnswer](), true, ""), all.Schema(reflect.TypeFor[wire.BulkResult](), true, ""),
		}}},
	}}
	return op
}

// bulk begins a bulk issue: who may not issue, or comes when enough streams run, is refused before anything is read.
func (s *Server) bulk(c *fiber.Ctx) error {
	ctx, x := c.Context(), exchangeOf(c.Context())
	if err := s.Service.MayIssue(c.UserContext(), x.caller); err != nil {
		refuse(c.UserContext(), err).write(ctx)
		return nil
	}
	if code, detail := s.streams.take(x.caller.Name); code != "" {
		if code == wire.CodeTooManyRequests {
			s.metrics.limited.WithLabelValues(x.caller.Name).Inc() // the log does not show it
		}
		x.problem(code, detail).write(ctx)
		return nil
	}
	stream := s.newBulkStream(ctx, x)
	x.stream = stream
	ctx.Response.Header.SetContentType(ndjsonType)
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(stream, -1)
	return nil
}
