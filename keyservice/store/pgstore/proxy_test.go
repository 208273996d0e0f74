package pgstore

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

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgtest"
)

// cut says where a proxy cuts a connection at a COMMIT.
type cut int

const (
	pass         cut = iota
	beforeCommit     // the server never sees it
	withCommit       // as soon as it is sent: the server is perhaps working on it
	beforeAnswer     // when the server has answered
)

// proxy stands between stores and a server and reads what passes: enough of the protocol to know a COMMIT
// (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
type proxy struct {
	listener net.Listener
	socket   string // of the server
	decide   func() cut
	commits  atomic.Int64
	cancels  atomic.Int64 // requests to cancel what another connection does

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// startProxy starts a proxy that asks decide at every COMMIT. It ends with the test.
func startProxy(t testing.TB, s *pgtest.Server, decide func() cut) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, socket: s.Socket(), decide: decide, conns: map[net.Conn]struct{}{}}
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
		p.cutAll()
		group.Wait()
	})
	return p
}

func (p *proxy) dsn(database string) string {
	address := p.listener.Addr().(*net.TCPAddr)
	return fmt.Sprintf("host=127.0.0.1 port=%d sslmode=disable user=postgres dbname=%s", address.Port, database)
}

// cutAll breaks every connection.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

func (p *proxy) serve(client net.Conn) {
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

// forward passes the client's messages on. The first has no type.
func (p *proxy) forward(client io.Reader, server io.Writer, mute *atomic.Bool) error {
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
			p.cancels.Add(1)
		}
		what := pass
		if bytes.Equal(message[header:], []byte("COMMIT\x00")) {
			p.commits.Add(1)
			what = p.decide()
		}
		if what == beforeCommit {
			return errCut
		}
		mute.Store(what == withCommit || what == beforeAnswer)
		if _, err := server.Write(message); err != nil || what == withCommit {
			return errors.Join(err, errCut)
		}
	}
}
