package pgtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"ramzban/keyservice/store/pgstore/pgserver"
)

// Cut says where a proxy cuts a connection at a COMMIT.
type Cut int

// The places of a Cut.
const (
	Pass         Cut = iota // nowhere
	BeforeCommit            // the server never sees it
	WithCommit              // as soon as it is sent: the server is perhaps working on it
	BeforeAnswer            // when the server has answered
)

// Proxy stands between stores and a server and reads what passes: enough of the protocol to know a COMMIT
// (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
type Proxy struct {
	Commits atomic.Int64
	Cancels atomic.Int64 // requests to cancel what another connection does

	listener net.Listener
	socket   string // of the server
	decide   func() Cut

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// StartProxy starts a proxy that asks decide at every COMMIT. It ends with the test.
func (s *Server) StartProxy(t testing.TB, decide func() Cut) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, socket: s.Socket(), decide: decide, conns: map[net.Conn]struct{}{}}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.CutAll()
		group.Wait()
	})
	return p
}

// DSN returns a DSN for the superuser, through the proxy.
func (p *Proxy) DSN(database string) string {
	address := p.listener.Addr().(*net.TCPAddr)
	return fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable user=%s dbname=%s", address.Port, pgserver.Superuser, database)
}

// CutAll breaks every connection.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

func (p *Proxy) serve(client net.Conn) {
	p.keep(client)
	defer p.drop(client)
	server, err := net.Dial("unix", p.socket)
	if err != nil {
		return
	}
	p.keep(server)
	defer p.drop(server)
	var mute atomic.Bool // the server's answers are kept back, and the first one cuts the connection
	go func() {
		defer client.Close()
		defer server.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil || mute.Load() {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	_ = p.forward(client, server, &mute) // it ends with its connection
}

var errCut = errors.New("cut")

// watcher finds the COMMITs among a client's messages: simple queries, and statements that were prepared before.
type watcher struct {
	prepared map[string]bool // names of statements that are COMMIT
	bound    bool            // the portal to be executed next is one's
}

// commits says whether the message makes the server commit.
func (w *watcher) commits(kind byte, body []byte) bool {
	first, rest, _ := bytes.Cut(body, []byte{0})
	second, _, _ := bytes.Cut(rest, []byte{0})
	switch kind {
	case 'Q':
		return string(first) == "COMMIT"
	case 'P': // Parse: name, query
		w.prepared[string(first)] = string(second) == "COMMIT"
	case 'B': // Bind: portal, name
		w.bound = w.prepared[string(second)]
	case 'E': // Execute
		return w.bound
	}
	return false
}

// forward passes the client's messages on. The first has no type.
func (p *Proxy) forward(client io.Reader, server io.Writer, mute *atomic.Bool) error {
	w := watcher{prepared: map[string]bool{}}
	for header := 4; ; header = 5 {
		message := make([]byte, header)
		if _, err := io.ReadFull(client, message); err != nil {
			return err
		}
		message = append(message, make([]byte, int(binary.BigEndian.Uint32(message[header-4:]))-4)...)
		if _, err := io.ReadFull(client, message[header:]); err != nil {
			return err
		}
		if header == 4 && binary.BigEndian.Uint32(message[4:]) == 80877102 {
			p.Cancels.Add(1)
		}
		what := Pass
		if header == 5 && w.commits(message[0], message[header:]) {
			p.Commits.Add(1)
			what = p.decide()
		}
		if what == BeforeCommit {
			return errCut
		}
		if what != Pass {
			mute.Store(true) // for good: what follows is only to carry it out
		}
		if _, err := server.Write(message); err != nil || what == WithCommit {
			return errors.Join(err, errCut)
		}
	}
}
