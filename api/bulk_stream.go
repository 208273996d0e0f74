package api

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
)

// bulkStream is one bulk issue. fasthttp reads the answer from it, and meanwhile it reads the request: a reader takes the
// lines and starts a worker for each, and Read hands out their answers in the order of the lines. A line holds a place
// from before it is read until its answer has been taken, which bounds memory and slows the sender down.
//
// Reader and workers use the connection and its buffers, which fasthttp gives to others afterwards: Close ends them first.
type bulkStream struct {
	server  *Server
	x       *exchange
	request *fasthttp.RequestCtx
	conn    net.Conn
	body    *bufio.Reader // belongs to the reader

	ctx    context.Context // ends with the stream, or when the server shuts down
	cancel context.CancelFunc
	group  sync.WaitGroup // reader, workers, and who wakes the reader up
	begun  sync.Once
	closed sync.Once

	places chan struct{} // holds one for each line in flight
	jobs   chan *bulkJob // in the order of the lines; closed when no more will come
	cut    *Problem      // why the lines ended before their end, nil if they are whole; set before jobs is closed
	faults sync.Map      // codes of the server's own faults that are in the log already

	// The rest belongs to Read.
	head  *bulkJob         // whose answer is the next
	out   bytes.Buffer     // what has not been taken yet
	total wire.BulkSummary // of the answers that have been in out
	ended bool             // the summary has been in out
}

// bulkJob is one line: what it asks, and the answer once it is there.
type bulkJob struct {
	line   wire.BulkLine
	number int
	answer chan wire.BulkAnswer // holds one
}

func (s *Server) newBulkStream(request *fasthttp.RequestCtx, x *exchange) *bulkStream {
	b := &bulkStream{
		server: s, x: x, request: request, conn: request.Conn(),
		body:   bufio.NewReaderSize(request.RequestBodyStream(), bulkLineLimit+1),
		places: make(chan struct{}, bulkInFlight), jobs: make(chan *bulkJob, bulkInFlight),
	}
	b.ctx, b.cancel = context.WithCancel(s.running)
	return b
}

// begin starts the reader; it runs when fasthttp asks for the answer and so has nothing more to do with the request.
func (b *bulkStream) begin() {
	b.group.Go(b.receive)
	b.group.Go(func() {
		<-b.ctx.Done()
		_ = b.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader up; an error means that nothing can be read anyway
	})
}

// Read implements io.Reader: at least one answer, and as many more as are there already.
func (b *bulkStream) Read(p []byte) (int, error) {
	b.begun.Do(b.begin)
	for b.out.Len() == 0 {
		if b.ended {
			return 0, io.EOF
		}
		if err := b.write(b.next()); err != nil {
			return 0, err
		}
	}
	for b.out.Len() < len(p) {
		answer, ready := b.ready()
		if !ready {
			break
		}
		if err := b.write(answer); err != nil {
			return 0, err
		}
	}
	if err := b.conn.SetWriteDeadline(time.Now().Add(b.server.WriteTimeout)); err != nil {
		return 0, err
	}
	return b.out.Read(p)
}

// next waits for the next answer; nil after the last.
func (b *bulkStream) next() *wire.BulkAnswer {
	if b.head == nil {
		b.head = <-b.jobs
	}
	if b.head == nil {
		return nil
	}
	answer := <-b.head.answer
	b.head = nil
	return &answer
}

// ready returns the next answer if it is there.
func (b *bulkStream) ready() (*wire.BulkAnswer, bool) {
	if b.head == nil {
		select {
		case b.head = <-b.jobs:
		default:
		}
	}
	if b.head == nil {
		return nil, false
	}
	select {
	case answer := <-b.head.answer:
		b.head = nil
		return &answer, true
	default:
		return nil, false
	}
}

// write puts an answer into out and gives its place away; nil stands for the end, where the summary comes.
func (b *bulkStream) write(answer *wire.BulkAnswer) error {
	if answer == nil {
		b.ended = true
		b.total.Complete = b.cut == nil
		if b.cut != nil {
			b.total.Problem = &b.cut.Problem
		}
		return jsonFormat.Marshal(&b.out, wire.BulkResult{Summary: b.total})
	}
	b.total.Lines++
	switch {
	case answer.Problem != nil:
		b.total.Refused++
	case answer.Repeated:
		b.total.Repeated++
	default:
		b.total.Issued++
	}
	<-b.places
	return jsonFormat.Marshal(&b.out, answer)
}

// Close implements io.Closer. fasthttp calls it when the answer has been written or cannot be.
func (b *bulkStream) Close() error {
	b.closed.Do(func() {
		b.begun.Do(func() {}) // if nothing was read, nothing will be
		b.cancel()
		b.group.Wait()
		b.server.streams.giveBack(b.x.caller.Name)
		b.server.ended(b.x, b.conn.RemoteAddr(), fasthttp.StatusOK)
	})
	return nil
}

// attrs are what the access log says of the stream: how far it came, and whether its caller was told all of it.
func (b *bulkStream) attrs() []slog.Attr {
	return []slog.Attr{
		slog.Int("lines", b.total.Lines), slog.Int("issued", b.total.Issued), slog.Int("repeated", b.total.Repeated),
		slog.Int("refused", b.total.Refused), slog.String("complete", strconv.FormatBool(b.total.Complete && b.out.Len() == 0)),
	}
}
