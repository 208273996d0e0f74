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
	"net/url"
	"strconv"
	"time"

	"ramzban/api/wire"
)

// AuditLogs lists the audit logs, one of each node. Role: auditor.
func (c *Client) AuditLogs(ctx context.Context) (wire.AuditLogsAnswer, error) {
	return call[wire.AuditLogsAnswer](ctx, c, http.MethodGet, c.at("audit", "logs"), nil)
}

// AuditQuery says which entries of an audit log are wanted. The zero value of a field asks for any, or is left to the
// service.
type AuditQuery struct {
	Node                           string // whose log; may be empty if there is only one
	From                           uint64 // the first index
	Limit                          int    // of one page: 1 to 1000, 0 for 100
	Serial, Action, Actor, Outcome string
	Since, Until                   time.Time
	Leaves                         bool // each entry with its bytes
}

func (q AuditQuery) encode() string {
	values := url.Values{"from": {strconv.FormatUint(q.From, 10)}}
	for name, value := range map[string]string{"node": q.Node, "serial": q.Serial, "action": q.Action, "actor": q.Actor, "outcome": q.Outcome} {
		if value != "" {
			values.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			values.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Leaves {
		values.Set("leaves", "true")
	}
	return values.Encode()
}

// AuditEntries reads a page of a node's audit log. Read on from Next until it is End. Role: auditor.
func (c *Client) AuditEntries(ctx context.Context, q AuditQuery) (wire.AuditAnswer, error) {
	to := c.at("audit", "entries")
	to.RawQuery = q.encode()
	return call[wire.AuditAnswer](ctx, c, http.MethodGet, to, nil)
}

// ErrAuditCut says that a stream of entries ended before its end.
var ErrAuditCut = errors.New("the stream was cut: read on from where it ended")

// StreamAudit calls got for every entry that the query asks for, as the log is when the stream begins. It takes no limit.
// Options.Timeout is the longest time without an entry. An error of got ends the stream. ErrAuditCut (errors.Is): not all entries came;
// the service's reason, if it gave one, is the *wire.Problem (errors.As) in it, and the summary's Next says where to read
// on. Role: auditor.
func (c *Client) StreamAudit(ctx context.Context, q AuditQuery, got func(wire.AuditEntry) error) (wire.AuditSummary, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(c.timeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	q.Limit = 0
	to := c.at("audit", "stream")
	to.RawQuery = q.encode()
	req, err := request(ctx, http.MethodGet, to, nil)
	if err != nil {
		return wire.AuditSummary{}, err
	}
	req.Header.Set("Accept", linesType+", application/problem+json")
	resp, err := c.http.Do(req)
	if err != nil {
		return wire.AuditSummary{}, fmt.Errorf("client: %w", cmp.Or(context.Cause(ctx), err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return wire.AuditSummary{}, problem(resp)
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != linesType {
		return wire.AuditSummary{}, fmt.Errorf("client: status 200 with content type %q instead of %s: %w", media, linesType, ErrAnswer)
	}
	summary := wire.AuditSummary{Next: q.From}
	err = readAuditLines(resp.Body, &summary, got, func() { stalled.Reset(c.timeout) })
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ErrAuditCut) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return summary, err
}

// maxAuditLine bounds one line of a stream, in bytes: an entry has at most 256 KiB, which base64 makes longer, twice.
const maxAuditLine = 1 << 20

// readAuditLines reads entries until the summary. Without one, the summary counts what came.
func readAuditLines(from io.Reader, summary *wire.AuditSummary, got func(wire.AuditEntry) error, alive func()) error {
	text := bufio.NewScanner(from)
	text.Buffer(make([]byte, 0, 64<<10), maxAuditLine)
	for text.Scan() {
		alive()
		if len(text.Bytes()) == 0 { // a part of the log with nothing of what was asked for
			continue
		}
		var line struct {
			wire.AuditEntry
			Summary *wire.AuditSummary `json:"summary"`
		}
		if json.Unmarshal(text.Bytes(), &line) != nil { // a read error tears the last line
			return fmt.Errorf("client: after %d entries %w: %w", summary.Entries, ErrAuditCut, cmp.Or(text.Err(), ErrAnswer))
		}
		if line.Summary != nil {
			came := summary.Entries
			*summary = *line.Summary
			return checkAuditEnd(*summary, came)
		}
		if err := got(line.AuditEntry); err != nil {
			return err
		}
		summary.Entries++
		summary.Next = max(summary.Next, line.Index+1)
	}
	return fmt.Errorf("client: after %d entries %w: %w", summary.Entries, ErrAuditCut, cmp.Or(text.Err(), io.ErrUnexpectedEOF))
}

// checkAuditEnd holds the summary against what came.
func checkAuditEnd(s wire.AuditSummary, came int) error {
	switch {
	case s.Complete && s.Entries == came:
		return nil
	case s.Problem != nil:
		return fmt.Errorf("client: after %d entries %w: %w", came, ErrAuditCut, s.Problem)
	}
	return fmt.Errorf("client: after %d entries %w", came, ErrAuditCut)
}

// AuditCheckpoint reads the newest checkpoint of a node's audit log. The node may be empty if only one has any.
// Role: auditor.
func (c *Client) AuditCheckpoint(ctx context.Context, node string) (wire.CheckpointAnswer, error) {
	return call[wire.CheckpointAnswer](ctx, c, http.MethodGet, c.ofNode(node, nil, "audit", "checkpoint"), nil)
}

// ProveInclusion reads the proof that an entry is in the tree of a size; of the newest checkpoint if that is 0.
// Role: auditor.
func (c *Client) ProveInclusion(ctx context.Context, node string, index, size uint64) (wire.InclusionAnswer, error) {
	to := c.ofNode(node, map[string]uint64{"index": index, "size": size}, "audit", "proofs", "inclusion")
	return call[wire.InclusionAnswer](ctx, c, http.MethodGet, to, nil)
}

// ProveConsistency reads the proof that the tree of size to, of the newest checkpoint if that is 0, begins with that of
// size from. Role: auditor.
func (c *Client) ProveConsistency(ctx context.Context, node string, from, to uint64) (wire.ConsistencyAnswer, error) {
	at := c.ofNode(node, map[string]uint64{"from": from, "to": to}, "audit", "proofs", "consistency")
	return call[wire.ConsistencyAnswer](ctx, c, http.MethodGet, at, nil)
}

// ofNode is an address with what is asked for.
func (c *Client) ofNode(node string, numbers map[string]uint64, elements ...string) *url.URL {
	to, values := c.at(elements...), url.Values{}
	if node != "" {
		values.Set("node", node)
	}
	for name, n := range numbers {
		values.Set(name, strconv.FormatUint(n, 10))
	}
	to.RawQuery = values.Encode()
	return to
}

// AuditKeys reads the public keys that sign checkpoints. Role: auditor.
func (c *Client) AuditKeys(ctx context.Context) (wire.AuditKeysAnswer, error) {
	return call[wire.AuditKeysAnswer](ctx, c, http.MethodGet, c.at("audit", "keys"), nil)
}

// CompareAudit compares the stored state with the audit log. It may take minutes, so Options.Timeout does not hold for
// it: it ends when ctx does, or after six minutes if ctx has no deadline. Role: auditor.
func (c *Client) CompareAudit(ctx context.Context) (wire.ComparisonAnswer, error) {
	if _, given := ctx.Deadline(); !given {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, comparisonTimeout)
		defer cancel()
	}
	return exchange[wire.ComparisonAnswer](ctx, c, http.MethodGet, c.at("audit", "comparison"), nil)
}
