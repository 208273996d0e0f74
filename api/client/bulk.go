package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"ramzban/api/wire"
)

const (
	linesType     = "application/x-ndjson"
	maxBulkAnswer = 64 << 10 // bytes of one line of the answer
)

// ErrCut says that a bulk issue was cut: some lines may have been carried out without an answer that arrived.
var ErrCut = errors.New("the stream was cut: it is safe to send the same lines with the same keys again")

// errStalled is why a bulk issue is given up when nothing comes back.
var errStalled = errors.New("no answer came in time")

// BulkIssue issues a token for each line, in one stream. Role: issuer.
//
// next returns the lines one after another, and false after the last; got is given their answers in the same order, the
// problems of refused lines too, while later lines are still being sent. They are called from two goroutines, and not
// again once BulkIssue has returned: so next must return when ctx ends. An error of either cuts the stream.
//
// Each line must come within the service's read timeout (10 s unless configured) of the one before it. Options.Timeout is
// the longest time without an answer while a line waits for one.
//
// The error is ErrCut (errors.Is) if the lines or their answers did not all arrive; the service's reason, if it gave one,
// is the *wire.Problem (errors.As) in it. The same lines can then be sent again: those carried out get the same answers.
func (c *Client) BulkIssue(ctx context.Context, next func() (wire.BulkLine, bool, error), got func(wire.BulkAnswer) error) (wire.BulkSummary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, lines := io.Pipe()
	b := &bulk{lines: lines, got: got, limit: c.timeout, giveUp: cancel}
	sent := make(chan error, 1)
	go func() { sent <- b.send(next) }()
	stop := b.watch()
	summary, err := b.exchange(ctx, c, body)
	stop()
	_ = body.CloseWithError(ErrCut) // so that send ends
	if failed := <-sent; failed != nil {
		return summary, failed
	}
	return summary, err
}

// bulk is one bulk issue on its way.
type bulk struct {
	lines  *io.PipeWriter
	got    func(wire.BulkAnswer) error
	limit  time.Duration           // without any answer
	giveUp context.CancelCauseFunc // ends it
	answer int                     // number of the last line that was answered

	mu      sync.Mutex // guards what follows
	waiting int        // lines sent, the last one too, that have no answer yet
	since   time.Time  // when the last answer came or, if later, when the first line began to wait
}

// send writes all lines, and the one that counts them. Its error is next's alone: that the service reads no more is seen
// by who reads the answer.
func (b *bulk) send(next func() (wire.BulkLine, bool, error)) error {
	for n := 0; ; n++ {
		line, more, err := next()
		if err != nil {
			err = fmt.Errorf("client: line %d: %w", n+1, err)
			b.giveUp(err)
			return errors.Join(err, b.lines.CloseWithError(err))
		}
		if !more {
			b.write(wire.BulkEnd{End: true, Lines: n})
			return b.lines.Close()
		}
		if !b.write(line) {
			return nil
		}
	}
}

func (b *bulk) write(line any) bool {
	text, err := json.Marshal(line)
	if err != nil {
		b.giveUp(err)
		return false
	}
	b.mu.Lock()
	if b.waiting == 0 {
		b.since = time.Now()
	}
	b.waiting++
	b.mu.Unlock()
	_, err = b.lines.Write(append(text, '\n'))
	return err == nil
}

func (b *bulk) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting--
	b.since = time.Now()
}

// idle returns for how long a line has been waiting while no answer came, 0 if none waits.
func (b *bulk) idle() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == 0 {
		return 0
	}
	return time.Since(b.since)
}

// watch gives the stream up when lines wait for longer than the limit. It returns what ends it.
func (b *bulk) watch() func() {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(b.limit)
		defer timer.Stop()
		for {
			select {
			case <-ended:
				return
			case <-timer.C:
			}
			idle := b.idle()
			if idle >= b.limit {
				b.giveUp(errStalled)
				return
			}
			timer.Reset(b.limit - idle)
		}
	}()
	return func() { close(ended); <-done }
}

// exchange posts the lines and reads their answers.
func (b *bulk) exchange(ctx context.Context, c *Client, body io.Reader) (wire.BulkSummary, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.at("tokens", "bulk").String(), body)
	if err != nil {
		return wire.BulkSummary{}, fmt.Errorf("client: making the request: %w", err)
	}
	req.Header.Set("Content-Type", linesType)
	req.Header.Set("Accept", linesType+", application/problem+json")
	resp, err := c.http.Do(req)
	if err != nil {
		return wire.BulkSummary{}, b.lost(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return wire.BulkSummary{}, problem(resp)
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != linesType {
		return wire.BulkSummary{}, fmt.Errorf("client: status 200 with content type %q instead of %s: %w", media, linesType, ErrAnswer)
	}
	return b.receive(ctx, resp.Body)
}

// receive reads answers until the summary.
func (b *bulk) receive(ctx context.Context, from io.Reader) (wire.BulkSummary, error) {
	text := bufio.NewScanner(from)
	text.Buffer(make([]byte, 0, 4096), maxBulkAnswer)
	for text.Scan() {
		var line struct {
			wire.BulkAnswer
			Summary *wire.BulkSummary `json:"summary"`
		}
		if json.Unmarshal(text.Bytes(), &line) != nil {
			return wire.BulkSummary{}, b.lost(ctx, cmp.Or(text.Err(), ErrAnswer)) // a read error tears the last line
		}
		b.answered()
		if line.Summary != nil {
			return *line.Summary, b.check(*line.Summary)
		}
		if b.answer++; line.Line != b.answer {
			return wire.BulkSummary{}, b.lost(ctx, fmt.Errorf("line %d was answered in the place of %d: %w", line.Line, b.answer, ErrAnswer))
		}
		if err := b.got(line.BulkAnswer); err != nil {
			err = fmt.Errorf("client: the answer to line %d: %w", b.answer, err)
			b.giveUp(err)
			return wire.BulkSummary{}, err
		}
	}
	return wire.BulkSummary{}, b.lost(ctx, text.Err())
}

// check holds the summary against the answers.
func (b *bulk) check(s wire.BulkSummary) error {
	switch {
	case s.Complete && s.Lines == b.answer:
		return nil
	case s.Problem != nil:
		return fmt.Errorf("client: after %d answers %w: %w", b.answer, ErrCut, s.Problem)
	}
	return fmt.Errorf("client: after %d answers %w", b.answer, ErrCut)
}

// lost is the error of a stream that ended without its summary.
func (b *bulk) lost(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("client: after %d answers %w: %w", b.answer, ErrCut, err)
}
