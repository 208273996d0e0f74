package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// drainGrace is how long, once draining, a connection without a request may still begin one: a request that is
	// already on its way is answered, not reset.
	drainGrace = 250 * time.Millisecond
	// A client that is refused while it still sends must be heard for a while, else the reset that follows a close with
	// unread data can overtake the answer.
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// lines is the open connections of one server. fasthttp's own shutdown closes a connection that looks idle even if a
// request has just been read from it, which is then carried out but never answered; here a connection that waits only
// gets an early read deadline, which cannot take an answer away.
type lines struct {
	limit int

	mu      sync.Mutex // guards all below, and line.waiting and line.asked
	open    map[*line]struct{}
	stop    func() error // closes the listener; nil before Serve
	drainBy time.Time    // when waiting connections are given up; zero until drain
	empty   chan struct{}
}

func newLines(limit int) *lines {
	return &lines{limit: limit, open: map[*line]struct{}{}, empty: make(chan struct{})}
}

// line is one connection: TLS, and what draining must know of it.
type line struct {
	*tls.Conn
	all     *lines
	shook   func(error) // told of a failed handshake
	waiting bool        // no byte of a request has been read since the last answer
	asked   time.Time   // the read deadline fasthttp last asked for
	linger  bool        // touched by the connection's own goroutine only
}

// listener accepts TLS connections within the limit.
type listener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener. A connection above the limit is closed before it costs a handshake.
func (l *listener) Accept() (net.Conn, error) {
	all := l.server.lines
	if !all.listening(l.Close) {
		return nil, errors.Join(net.ErrClosed, l.Close())
	}
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &line{Conn: tls.Server(raw, l.server.TLS), all: all, shook: l.server.handshakeFailed(raw.RemoteAddr()), waiting: true}
		if all.add(c) {
			return c, nil
		}
		l.server.metrics.refused.Inc()
		_ = raw.Close()
	}
}

// listening remembers how to stop accepting; false when draining has begun.
func (a *lines) listening(stop func() error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop = stop
	return a.drainBy.IsZero()
}

func (a *lines) add(c *line) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.drainBy.IsZero() || len(a.open) >= a.limit {
		return false
	}
	a.open[c] = struct{}{}
	return true
}

func (a *lines) remove(c *line) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, open := a.open[c]; !open {
		return
	}
	delete(a.open, c)
	if !a.drainBy.IsZero() && len(a.open) == 0 {
		close(a.empty)
	}
}

func (a *lines) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)
}

func (a *lines) draining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.drainBy.IsZero()
}

// drain closes the listener, gives waiting connections a last moment, and waits for all to end or for ctx.
func (a *lines) drain(ctx context.Context) error {
	if err := a.beginDrain(); err != nil {
		return err
	}
	select {
	case <-a.empty:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	left := make([]*line, 0, len(a.open))
	for c := range a.open {
		left = append(left, c)
	}
	a.mu.Unlock()
	for _, c := range left {
		_ = c.NetConn().Close() // its own goroutine sees the error and removes it
	}
	return ctx.Err()
}

func (a *lines) beginDrain() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.drainBy.IsZero() {
		return nil
	}
	a.drainBy = time.Now().Add(drainGrace)
	if len(a.open) == 0 {
		close(a.empty)
	}
	for c := range a.open {
		if c.waiting {
			_ = c.Conn.SetReadDeadline(a.drainBy) // an error means that it is closed already
		}
	}
	if a.stop == nil {
		return nil
	}
	if err := a.stop(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// state is fasthttp's ConnState hook: after an answer the connection waits for the next request.
func (a *lines) state(c net.Conn, s fasthttp.ConnState) {
	l, ours := c.(*line)
	if !ours || s != fasthttp.StateIdle {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l.waiting = true
}

// Handshake implements what fasthttp looks for in a TLS connection. fasthttp ignores its error, so the connection is
// closed here; nothing can be read from it.
func (c *line) Handshake() error {
	err := c.Conn.Handshake()
	if err != nil {
		c.shook(err)
		_ = c.NetConn().Close()
	}
	return err
}

// Read implements net.Conn. The first byte of a request lifts the draining deadline.
func (c *line) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.busy()
	}
	return n, err
}

func (c *line) busy() {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	if c.waiting && !c.all.drainBy.IsZero() {
		_ = c.Conn.SetReadDeadline(c.asked)
	}
	c.waiting = false
}

// silent says whether nothing of a request has arrived.
func (c *line) silent() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.waiting
}

// SetReadDeadline implements net.Conn. While draining, a waiting connection is given up sooner.
func (c *line) SetReadDeadline(t time.Time) error {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	c.asked = t
	if by := c.all.drainBy; c.waiting && !by.IsZero() && (t.IsZero() || t.After(by)) {
		t = by
	}
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *line) Close() error {
	defer c.all.remove(c)
	if c.linger {
		_ = c.CloseWrite()
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
	}
	return c.Conn.Close()
}
