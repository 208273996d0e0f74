package api_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
)

// TestConnectionLimit: while clients hold all connections, a further one is closed at once; then it gets in.
func TestConnectionLimit(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.MaxConnections = 2 })
	for _, client := range []string{"verifier", "auditor"} {
		require.Equal(t, 200, w.send(client, "GET", "/v1/time", "").status, "leaves an idle connection")
	}
	h := httpClient(w.tls("issuer"))
	defer h.CloseIdleConnections()
	_, err := w.try(h, "POST", "/v1/tokens/1/suspend", "")
	require.Error(t, err)
	require.Contains(t, w.gather(t), "ramzban_connections_refused_total 1")
	require.Contains(t, w.gather(t), "ramzban_connections_replaced_total 0", "no client gives way")
	w.as("auditor").CloseIdleConnections()
	require.Eventually(t, func() bool {
		r, err := w.try(h, "POST", "/v1/tokens/1/suspend", "")
		return err == nil && r.status == 200
	}, 5*time.Second, 10*time.Millisecond)
}

// TestStrangerGivesWayToAClient: the last place is a client's, even if a stranger has it.
func TestStrangerGivesWayToAClient(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.MaxConnections = 2 })
	require.Equal(t, 200, w.send("verifier", "GET", "/v1/time", "").status, "leaves an idle connection")
	c, err := tls.Dial("tcp", w.addr, w.tls(""))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = io.WriteString(c, "GET /v1/time HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
	require.NoError(t, err)
	_, err = http.ReadResponse(bufio.NewReader(c), nil) // 100: the handshake is over, the request is not
	require.NoError(t, err)
	require.Equal(t, 200, w.send("issuer", "GET", "/v1/time", "").status)
}

// strangers are the ways to hold a connection without being a client; each returns when it has done all it can.
func strangers(t *testing.T, w *world) map[string]func() net.Conn {
	bare := func() net.Conn {
		c, err := net.Dial("tcp", w.addr)
		require.NoError(t, err)
		return c
	}
	shaken := func(certificate string) net.Conn {
		c, err := tls.Dial("tcp", w.addr, w.tls(certificate))
		require.NoError(t, err)
		return c
	}
	return map[string]func() net.Conn{
		"silent": bare,
		"stops within the handshake": func() net.Conn {
			c := bare()
			_, err := c.Write([]byte{0x16, 3, 1, 2, 0, 1})
			require.NoError(t, err)
			return c
		},
		"no certificate, no request":     func() net.Conn { return shaken("") },
		"a certificate that is nobody's": func() net.Conn { return shaken("stranger") },
		"stops within a request": func() net.Conn {
			c := shaken("")
			_, err := io.WriteString(c, "GET /v1/time HTTP/1.1\r\nHost: x\r\n")
			require.NoError(t, err)
			return c
		},
		"keeps alive": func() net.Conn {
			c := shaken("")
			_, err := io.WriteString(c, "GET /v1/time HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
			require.NoError(t, err)
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			require.NoError(t, err)
			require.True(t, r.Close, "a stranger's connection is for one request")
			return c
		},
	}
}

// TestStrangersCannotKeepClientsOut: however a stranger holds connections, and however many, a client that is connected
// stays so, and another gets in.
func TestStrangersCannotKeepClientsOut(t *testing.T) {
	const limit = 8
	w := start(t, &recorder{}, func(o *api.Options) { o.MaxConnections = limit })
	held, err := tls.Dial("tcp", w.addr, w.tls("verifier"))
	require.NoError(t, err)
	defer func() { _ = held.Close() }()
	answers := bufio.NewReader(held)
	stillServed := func(t *testing.T) {
		_, err := io.WriteString(held, "GET /v1/time HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		r, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.Equal(t, 200, r.StatusCode)
		require.False(t, r.Close)
		_, err = io.Copy(io.Discard, r.Body)
		require.NoError(t, err)
	}
	stillServed(t) // so its handshake is done
	for name, hold := range strangers(t, w) {
		t.Run(name, func(t *testing.T) {
			for range 3 * limit {
				c := hold()
				defer func() { _ = c.Close() }()
			}
			fresh := httpClient(w.tls("issuer"))
			defer fresh.CloseIdleConnections()
			require.Equal(t, 200, w.sendWith(fresh, "POST", "/v1/tokens/1/suspend", "").status)
			stillServed(t)
			require.Equal(t, 200, w.send("", "GET", "/v1/time", "").status, "another stranger is served too")
		})
	}
	require.Contains(t, w.gather(t), "ramzban_connections_refused_total 0")
	require.NotContains(t, w.gather(t), "ramzban_connections_replaced_total 0")
	require.NotContains(t, w.log.String(), "use of closed", "who was replaced is counted, not logged")
}

// TestStrangersHoldAnEighth: of those who show no client's certificate, no more than that stay, and they are served.
func TestStrangersHoldAnEighth(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.MaxConnections = 16 })
	var held []net.Conn
	for range 5 {
		c, err := tls.Dial("tcp", w.addr, w.tls(""))
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
		held = append(held, c)
	}
	require.Eventually(t, func() bool {
		return strings.Contains(w.gather(t), "ramzban_connections_replaced_total 3")
	}, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, w.gather(t), "ramzban_connections_open 2")
	served := 0
	for _, c := range held {
		_, err := io.WriteString(c, "GET /v1/time HTTP/1.1\r\nHost: x\r\n\r\n")
		if err != nil {
			continue
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the others are cut off")
		if err == nil && r.StatusCode == 200 {
			served++
		}
	}
	require.Equal(t, 2, served)
}

// TestHandshakesEnd: a handshake that does not end is ended after ReadTimeout, even if there is always another byte.
func TestHandshakesEnd(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.ReadTimeout = 200 * time.Millisecond })
	silent, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	slow, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	defer func() { _ = slow.Close() }()
	_, err = slow.Write([]byte{0x16, 3, 1, 0x40, 0})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := slow.Write([]byte{1})
		return err != nil
	}, 5*time.Second, 20*time.Millisecond)
	require.NoError(t, silent.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = silent.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Eventually(t, func() bool {
		return strings.Contains(w.gather(t), "ramzban_connections_open 0")
	}, 5*time.Second, 20*time.Millisecond)
}
