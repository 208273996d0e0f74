package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

// bulkConn is a bulk issue on a bare connection, so that a test can cut it anywhere.
type bulkConn struct {
	*tls.Conn
	t       testing.TB
	answer  *http.Response
	answers *bufio.Reader
	text    strings.Builder // what was read of them
}

// openBulk sends the header of a bulk issue.
func (w *world) openBulk(t testing.TB) *bulkConn { return w.openBulkAs(t, "issuer") }

func (w *world) openBulkAs(t testing.TB, client string) *bulkConn {
	t.Helper()
	tcp, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	require.NoError(t, tcp.(*net.TCPConn).SetReadBuffer(4096)) // what is not read soon stands in the server's way
	conf := w.tls(client)
	conf.ServerName = "127.0.0.1"
	c := tls.Client(tcp, conf)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n", bulkPath)
	require.NoError(t, err)
	return &bulkConn{Conn: c, t: t}
}

// send writes text as one chunk.
func (c *bulkConn) send(text string) {
	c.t.Helper()
	_, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(text), text)
	require.NoError(c.t, err)
}

// read returns the next line of the answer, io.EOF at its end.
func (c *bulkConn) read() (string, error) {
	if c.answer == nil {
		var err error
		if c.answer, err = http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			return "", err
		}
		c.answers = bufio.NewReader(c.answer.Body)
	}
	line, err := c.answers.ReadString('\n')
	c.text.WriteString(line)
	return line, err
}

// rest reads the answer to its end, and returns all of it.
func (c *bulkConn) rest() bulkReply {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			require.ErrorIs(c.t, err, io.EOF)
			return readBulk(c.t, strings.NewReader(c.text.String()))
		}
	}
}

// settles waits until so many streams were logged and none of their goroutines is left.
func (w *world) settles(t testing.TB, streams int) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	require.Eventually(t, func() bool {
		return strings.Count(w.log.String(), `"route":"/v1/tokens/bulk"`) == streams &&
			!strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "bulkStream")
	}, 15*time.Second, 10*time.Millisecond)
}

// records counts the tokens that are stored.
func (b *bank) records() int {
	n := 0
	for key := range b.rows() {
		if strings.HasPrefix(key, "t/") {
			n++
		}
	}
	return n
}

// TestCutUpload: the client goes away in the middle. What it sent is carried out, nothing hangs, and sending all of it
// again gives every line its token, once.
func TestCutUpload(t *testing.T) {
	b := openBank(t)
	streams := 0
	for name, cut := range map[string]func(*bulkConn){
		"reset":       func(c *bulkConn) { _ = c.NetConn().(*net.TCPConn).SetLinger(0); _ = c.NetConn().Close() },
		"closed":      func(c *bulkConn) { _ = c.Close() },
		"in a chunk":  func(c *bulkConn) { _, _ = io.WriteString(c, "400\r\n{\"key\":"); _ = c.Close() },
		"half closed": func(c *bulkConn) { _ = c.CloseWrite() },
	} {
		c := b.openBulk(t)
		for n := range 100 {
			c.send(bulkText(t, bulkLine(n+1)))
		}
		for range 10 {
			_, err := c.read()
			require.NoError(t, err, name)
		}
		cut(c)
		if name == "half closed" {
			r := c.rest()
			require.Equal(t, wire.CodeUploadCut, r.summary.Problem.Code)
			require.Equal(t, 100, r.summary.Lines)
		}
		streams++
		b.settles(t, streams)
	}
	require.Equal(t, 4, strings.Count(b.log.String(), `"complete":"false"`))
	require.Equal(t, 4, strings.Count(b.log.String(), `"code":"upload_cut"`), "not for another reason")
	again := &batch{n: 150}
	summary, err := b.goClient("issuer").BulkIssue(t.Context(), again.next, again.got)
	require.NoError(t, err)
	require.Equal(t, 150, summary.Issued+summary.Repeated)
	require.GreaterOrEqual(t, summary.Repeated, 100, "the half-closed stream was carried out whole")
	require.Equal(t, 150, b.records(), "no line was carried out twice")
}

// TestRefusalReachesWhoStillSends: who has sent much by the time it is refused still finds the refusal, not a reset.
func TestRefusalReachesWhoStillSends(t *testing.T) {
	w := start(t, &recorder{hook: func(context.Context, string) error {
		return &keyservice.Error{Code: keyservice.CodeDenied, Detail: "no"}
	}}, nil)
	c := w.openBulkAs(t, "verifier")
	c.send(strings.Repeat(bulkText(t, bulkLine(1)), 20_000)) // 3 MB
	w.settles(t, 1)
	c.send(bulkText(t, bulkLine(2)))
	line, err := c.read()
	require.NoError(t, err)
	require.Contains(t, line, `"code":"not_allowed"`)
}

// TestCutDownload: the client sends, but does not read. The service waits no longer than its write timeout.
func TestCutDownload(t *testing.T) {
	w := start(t, &recorder{}, func(o *api.Options) { o.WriteTimeout = 300 * time.Millisecond })
	c := w.openBulk(t)
	c.send(strings.Repeat("\n", 60_000)) // empty lines, whose problems are long: more than all buffers between hold
	w.settles(t, 1)
	require.Contains(t, w.log.String(), `"complete":"false"`)
}

// TestSlowLines: each line has the read timeout for itself; one that does not come whole ends the stream.
func TestSlowLines(t *testing.T) {
	const timeout = 400 * time.Millisecond
	w := start(t, &recorder{}, func(o *api.Options) { o.ReadTimeout = timeout })
	c := w.openBulk(t)
	for n := range 4 { // longer together than one timeout
		c.send(bulkText(t, bulkLine(n+1)))
		_, err := c.read()
		require.NoError(t, err)
		pause := time.NewTimer(timeout / 2)
		<-pause.C
	}
	began := time.Now()
	c.send(`{"key":"`)
	text := make(chan bulkReply, 1)
	go func() { text <- c.rest() }()
	trickle := time.NewTicker(timeout / 8)
	defer trickle.Stop()
	for {
		select {
		case <-trickle.C: // a byte now and then does not count as a line
			_, _ = io.WriteString(c, "1\r\na\r\n")
			continue
		case r := <-text:
			require.Equal(t, wire.CodeRequestTimeout, r.summary.Problem.Code)
		}
		break
	}
	require.Less(t, time.Since(began), 10*timeout)
}

// TestShutdownEndsStreams: lines that were read are carried out and answered, and the summary says that it is not all.
func TestShutdownEndsStreams(t *testing.T) {
	entered, release := make(chan struct{}, 10), make(chan struct{})
	rec := &recorder{hook: func(_ context.Context, name string) error {
		if name == "issue" {
			entered <- struct{}{}
			<-release
		}
		return nil
	}}
	w := start(t, rec, nil)
	c := w.openBulk(t)
	for n := range 10 {
		c.send(bulkText(t, bulkLine(n+1)))
	}
	for range 10 {
		<-entered
	}
	done := make(chan error, 1)
	go func() { done <- w.shutdown(t, 20*time.Second) }()
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	r := c.rest()
	require.Len(t, r.answers, 10)
	require.Equal(t, 10, r.summary.Issued)
	require.False(t, r.summary.Complete)
	require.Equal(t, wire.CodeNotReady, r.summary.Problem.Code)
	require.NoError(t, c.Close())
	require.NoError(t, <-done)
}

// TestShutdownUnderBulk: a client that sends all the time is told that the service stops, and every line it was not told
// of is one that it has to send again.
func TestShutdownUnderBulk(t *testing.T) {
	b := openBank(t)
	warm := make(chan struct{}, 1)
	lines := &batch{n: 1 << 30}
	result := make(chan error, 1)
	var summary wire.BulkSummary
	go func() {
		var err error
		summary, err = b.goClient("issuer").BulkIssue(t.Context(), lines.next, func(a wire.BulkAnswer) error {
			if a.Line == 200 {
				warm <- struct{}{}
			}
			return lines.got(a)
		})
		result <- err
	}()
	<-warm
	require.NoError(t, b.shutdown(t, 20*time.Second))
	err := <-result
	require.ErrorIs(t, err, client.ErrCut)
	var p *wire.Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, wire.CodeNotReady, p.Code)
	require.Equal(t, len(lines.answers), summary.Issued)
	require.Equal(t, len(lines.answers), b.records(), "nothing was done that was not told")
}

// TestSummaryReachesWhoStillSends: however much is sent after the service has begun to stop, its summary is not lost.
func TestSummaryReachesWhoStillSends(t *testing.T) {
	w := start(t, &recorder{}, nil)
	c := w.openBulk(t)
	c.send(bulkText(t, bulkLine(1)))
	_, err := c.read()
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- w.shutdown(t, 20*time.Second) }()
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), `"complete":"false"`) }, 10*time.Second, time.Millisecond)
	text := strings.Repeat(bulkText(t, bulkLine(2)), 1_000)
	for sent := 0; sent < 16<<20; sent += len(text) { // more than all buffers between hold
		c.send(text)
	}
	r := c.rest()
	require.Len(t, r.answers, 1)
	require.Equal(t, wire.CodeNotReady, r.summary.Problem.Code)
	require.NoError(t, c.Close())
	require.NoError(t, <-done)
}

// TestPanicWhileReceiving: a fault in what takes the lines cuts that stream, and nothing else.
func TestPanicWhileReceiving(t *testing.T) {
	var broken atomic.Bool
	w := start(t, &recorder{}, func(o *api.Options) {
		o.Clock = func() time.Time { // looked at for each line, to see whether its client asks too often
			if broken.Load() {
				panic("secret-4711")
			}
			return time.Now()
		}
	})
	c := w.openBulk(t)
	c.send(bulkText(t, bulkLine(1)))
	_, err := c.read()
	require.NoError(t, err)
	broken.Store(true)
	c.send(bulkText(t, bulkLine(2)))
	r := c.rest()
	broken.Store(false)
	require.Len(t, r.answers, 1)
	require.False(t, r.summary.Complete)
	require.Equal(t, 1, r.summary.Issued)
	require.Equal(t, "internal", r.summary.Problem.Code)
	w.settles(t, 2) // its line in the log, and the panic's
	require.Regexp(t, `"msg":"panic in a handler","request_id":"`+r.summary.Problem.RequestID+`"`, w.log.String())
	require.Contains(t, w.log.String(), `"code":"internal"`)
	require.NotContains(t, w.log.String(), "secret-4711")
	require.True(t, w.bulk(t, bulkLine(3), wire.BulkEnd{End: true, Lines: 1}).summary.Complete, "the service goes on")
}

// TestCertificateWithdrawnMeanwhile: a stream lasts no longer than its certificate is good.
func TestCertificateWithdrawnMeanwhile(t *testing.T) {
	var withdrawn atomic.Bool
	w := start(t, &recorder{}, func(o *api.Options) {
		o.TLS.VerifyConnection = func(tls.ConnectionState) error {
			if withdrawn.Load() {
				return errors.New("revoked")
			}
			return nil
		}
	})
	c := w.openBulk(t)
	c.send(bulkText(t, bulkLine(1)))
	_, err := c.read()
	require.NoError(t, err)
	withdrawn.Store(true)
	result := make(chan bulkReply, 1)
	go func() { result <- c.rest() }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for sent := 1; ; sent++ {
		select {
		case r := <-result:
			require.Equal(t, wire.CodeCertificateRevoked, r.summary.Problem.Code)
			return
		case <-tick.C:
			require.Less(t, sent, 200, "it goes on")
			_, _ = fmt.Fprintf(c, "%x\r\n%s\r\n", len(bulkText(t, bulkLine(sent))), bulkText(t, bulkLine(sent)))
		}
	}
}
