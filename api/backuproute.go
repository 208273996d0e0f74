package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

const (
	backupPath = "/v1/backups"
	backupType = "application/octet-stream"
)

// backupRoute registers the taking of a backup. It is a plain Fiber route, for huma holds an answer back until it has ended.
func (s *Server) backupRoute() {
	r := route{
		method: post, path: backupPath, id: "take-backup", role: authz.Operator, status: http.StatusOK,
		summary: "Take a backup",
		description: "The answer is the file: all of the database as of one moment, encrypted so that only the HSM opens it, while requests " +
			"go on. Behind it come the trailers `" + wire.BackupDigestTrailer + "`, the SHA-256 of the file in hexadecimal, and `" + wire.BackupRowsTrailer +
			"`. An answer that ends without them was cut. It must be read without pause: a client that takes nothing for a write " +
			"timeout is cut off. The log says when it was begun, and what was written. Each node takes one at a time.",
	}
	op := r.operation(s.huma)
	op.Responses["200"] = &huma.Response{Description: "The file", Content: map[string]*huma.MediaType{
		backupType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	s.huma.OpenAPI().AddOperation(&op)
	s.app.Add(post, backupPath, s.backup)
}

// backup begins a backup: what can be refused is refused before anything is written.
func (s *Server) backup(c *fiber.Ctx) error {
	ctx, x := c.Context(), exchangeOf(c.Context())
	b, err := s.Service.TakeBackup(c.UserContext(), x.caller)
	if err != nil {
		refuse(c.UserContext(), err).write(ctx)
		return nil
	}
	stream := &backupStream{server: s, x: x, response: &ctx.Response, conn: ctx.Conn(), backup: b}
	stream.ctx, stream.cancel = context.WithCancel(keyservice.WithRequestID(s.running, x.id))
	x.stream = stream
	ctx.Response.Header.SetContentType(backupType)
	if err := ctx.Response.Header.SetTrailer(wire.BackupDigestTrailer + ", " + wire.BackupRowsTrailer); err != nil {
		return fmt.Errorf("announcing the trailers of a backup: %w", err) // constants: never
	}
	ctx.Response.ImmediateHeaderFlush = true
	ctx.Response.SetBodyStream(stream, -1)
	return nil
}

// backupStream is one backup on its way. fasthttp reads the answer from it; a goroutine writes the file into a pipe.
type backupStream struct {
	server   *Server
	x        *exchange
	response *fasthttp.Response
	conn     net.Conn
	backup   *keyservice.Backup

	ctx    context.Context // ends with the stream, or when the server shuts down
	cancel context.CancelFunc
	group  sync.WaitGroup
	begun  sync.Once
	closed sync.Once

	out   *io.PipeReader
	taken keyservice.BackupTaken // set before the pipe ends
	whole bool                   // the answer has ended as it must
	bytes int64
}

// begin starts the writer.
func (b *backupStream) begin() {
	out, in := io.Pipe()
	b.out = out
	b.group.Go(func() {
		defer func() {
			if r := recover(); r != nil { // no other goroutine's recovery catches it
				b.server.panicked(b.x, r)
				_ = in.CloseWithError(io.ErrUnexpectedEOF) // never fails
			}
		}()
		taken, err := b.backup.Write(b.ctx, in)
		b.taken = taken
		_ = in.CloseWithError(err) // never fails; nil is the end of the file
	})
}

// Read implements io.Reader. An error cuts the answer, so that no client takes it for whole.
func (b *backupStream) Read(p []byte) (int, error) {
	b.begun.Do(b.begin)
	n, err := b.out.Read(p)
	b.bytes += int64(n)
	switch {
	case err == io.EOF: //nolint:errorlint // as the pipe gives it
		b.whole = true
		b.response.Header.Set(wire.BackupDigestTrailer, fmt.Sprintf("%x", b.taken.FileDigest))
		b.response.Header.Set(wire.BackupRowsTrailer, strconv.FormatUint(b.taken.Rows, 10))
		return n, err
	case err != nil:
		b.server.Log.Error("a backup was cut", "request_id", b.x.id, "cause", err.Error())
		return n, err
	}
	return n, b.conn.SetWriteDeadline(time.Now().Add(b.server.WriteTimeout))
}

// Close implements io.Closer. fasthttp calls it when the answer has been written or cannot be.
func (b *backupStream) Close() error {
	b.closed.Do(func() {
		b.begun.Do(func() {}) // if nothing was read, nothing will be
		b.cancel()
		if b.out != nil {
			_ = b.out.CloseWithError(io.ErrClosedPipe) // never fails
		}
		b.group.Wait()
		b.backup.Close()
		b.server.ended(b.x, b.conn.RemoteAddr(), fasthttp.StatusOK)
	})
	return nil
}

// attrs are what the access log says of the backup.
func (b *backupStream) attrs() []slog.Attr {
	return []slog.Attr{slog.Int64("bytes", b.bytes), slog.Uint64("rows", b.taken.Rows), slog.String("complete", strconv.FormatBool(b.whole))}
}
