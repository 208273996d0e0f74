package client

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// conn is a connection whose answer is read to its end even when nothing more can be sent. The service may answer while a
// body is still being sent, and then read no more of it; but net/http closes a connection as soon as it cannot write to
// it, and loses what has arrived on it. So a failed Write returns only when the connection is closed, which net/http does
// once it has read the answer, cannot read on, or nobody waits for it any more.
type conn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// dialer returns what connects and shakes hands, both together within the timeout.
func dialer(conf *tls.Config, timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: timeout}, Config: conf}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conn{Conn: c, closed: make(chan struct{})}, nil
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		<-c.closed
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
