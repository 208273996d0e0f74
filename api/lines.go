package api

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// drainGrace is how long, once draining, a connection without a request may still begin one: a request that is
	// already on its way is answered, not reset.
	drainGrace = 250 * time.Millisecond
	// Who is answered while still sending must be heard until it closes the connection or falls silent, else the reset that
	// follows a close with unread data overtakes the answer. The buffers between hold several MiB already, so for a
	// configured client only time bounds this. A stranger is not worth that much.
	lingerTime    = 5 * time.Second
	lingerSilence = time.Second
	strangerBytes = 1 << 20
)

// lines is the open connections of one server. fasthttp's own shutdown closes a connection that looks idle even if a
// request has just been read from it, which is then carried out but never answered; here a connection that waits only
// gets an early read deadline, which cannot take an answer away.
//
// Nobody has to be known to connect, so strangers must not be able to keep clients out. While all connections are taken,
// a new one replaces the one whose handshake has been going on for longest: to be replaced before its own is done, a
// client would have to meet as many new connections as there are handshakes, within the few milliseconds that one takes.
// Once it shows a client's certificate, a connection is not replaced. Those that do not may be an eighth of all, the
// newest, and each is for one request.
type lines struct {
	limit     int
	strangers int // the most of standing stranger

	mu       sync.Mutex // guards all below, and what line says it does
	open     [standings]*list.List
	replaced uint64
	leaving  int          // replaced, but their goroutines have not ended yet
	left     *sync.Cond   // one of them has
	stop     func() error // closes the listener; nil before Serve
	drainBy  time.Time    // when waiting connections are given up; zero until drain
	empty    chan struct{}
}

// standing is how far a connection is known.
type standing int

const (
	shaking   standing = iota // its TLS handshake is not done
	stranger                  // no certificate, or one that is no configured client's
	client                    // a configured client's certificate
	standings                 // how many there are
)

func newLines(limit int) *lines {
	a := &lines{limit: limit, strangers: max(1, limit/8), empty: make(chan struct{})}
	for s := range a.open {
		a.open[s] = list.New()
	}
	a.left = sync.NewCond(&a.mu)
	return a
}

// line is one connection: TLS, and what limits and draining must know of it.
type line struct {
	*tls.Conn
	all    *lines
	client func(tls.ConnectionState) bool // whether a configured client is at the other end
	failed func(error)                    // told of a failed handshake
	linger bool                           // touched by the connection's own goroutine only

	// Guarded by all.mu.
	standing standing
	place    *list.Element // in all.open[standing]; nil once it is not counted any more
	replaced bool
	waiting  bool      // no byte of a request has been read since the last answer
	asked    time.Time // the read deadline fasthttp last asked for
}

// listener accepts TLS connections within the limit.
type listener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener. A connection above the limit is closed before it costs a handshake, unless it can
// replace another.
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
		c := &line{
			Conn: tls.Server(raw, l.server.TLS), all: all, client: l.server.isClient,
			failed: l.server.handshakeFailed(raw.RemoteAddr()), waiting: true,
		}
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

// add counts a new connection in; false if there is no place for it.
func (a *lines) add(c *line) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.leaving >= a.limit { // else a flood could leave any number of goroutines to end
		a.left.Wait()
	}
	if !a.drainBy.IsZero() {
		return false
	}
	if a.sum() >= a.limit {
		if !a.replaceOldest(shaking) && !a.replaceOldest(stranger) {
			return false
		}
	}
	c.place = a.open[shaking].PushBack(c)
	return true
}

// shaken counts a connection as what its handshake has shown; false if it was replaced meanwhile.
func (a *lines) shaken(c *line, as standing) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.place == nil {
		return false
	}
	if as == stranger && a.open[stranger].Len() >= a.strangers {
		a.replaceOldest(stranger)
	}
	a.open[shaking].Remove(c.place)
	c.standing, c.place = as, a.open[as].PushBack(c)
	return true
}

// replaceOldest cuts off the oldest connection of a standing and gives its place away; false if there is none. Its own
// goroutine sees the error. a.mu is held.
func (a *lines) replaceOldest(s standing) bool {
	oldest := a.open[s].Front()
	if oldest == nil {
		return false
	}
	c, ours := oldest.Value.(*line)
	if ours {
		c.place, c.replaced = nil, true
		_ = c.NetConn().Close()
	}
	a.open[s].Remove(oldest)
	a.replaced++
	a.leaving++
	return ours
}

func (a *lines) remove(c *line) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.replaced {
		c.replaced = false
		a.leaving--
		a.left.Signal()
	}
	if c.place == nil {
		return
	}
	a.open[c.standing].Remove(c.place)
	c.place = nil
	if !a.drainBy.IsZero() && a.sum() == 0 {
		close(a.empty)
	}
}

// sum is how many connections are open. a.mu is held.
func (a *lines) sum() int {
	n := 0
	for _, l := range a.open {
		n += l.Len()
	}
	return n
}

// count returns how many connections are open, and how many were replaced so far.
func (a *lines) count() (open int, replaced uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sum(), a.replaced
}

// all lists the open connections. a.mu is held.
func (a *lines) all() []*line {
	all := make([]*line, 0, a.sum())
	for _, l := range a.open {
		for e := l.Front(); e != nil; e = e.Next() {
			if c, ours := e.Value.(*line); ours {
				all = append(all, c)
			}
		}
	}
	return all
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
	left := a.all()
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
	if a.sum() == 0 {
		close(a.empty)
	}
	for _, c := range a.all() {
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

// Handshake implements what fasthttp looks for in a TLS connection; fasthttp gives it ReadTimeout. fasthttp ignores its
// error, so the connection is closed here; nothing can be read from it.
func (c *line) Handshake() error {
	if err := c.Conn.Handshake(); err != nil {
		if c.counted() { // else it was replaced
			c.failed(err)
		}
		_ = c.NetConn().Close()
		return err
	}
	as := stranger
	if c.client(c.ConnectionState()) {
		as = client
	}
	if !c.all.shaken(c, as) {
		return net.ErrClosed
	}
	return nil
}

func (c *line) counted() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.place != nil
}

// single says whether the connection is for one request only.
func (c *line) single() bool {
	c.all.mu.Lock()
	defer c.all.mu.Unlock()
	return c.standing != client
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
		c.drop()
	}
	return c.Conn.Close()
}

// drop reads and drops what the other end sends, until it closes or falls silent, within the bounds above. An error means
// that no more can be read.
func (c *line) drop() {
	most := int64(math.MaxInt64)
	if c.single() {
		most = strangerBytes
	}
	buffer := make([]byte, 16<<10) // a TLS record
	for until := time.Now().Add(lingerTime); most > 0 && time.Now().Before(until); {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerSilence))
		n, err := c.Conn.Read(buffer)
		if err != nil {
			return
		}
		most -= int64(n)
	}
}
