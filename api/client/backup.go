package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"ramzban/api/wire"
)

// BackupTaken is what Backup has written.
type BackupTaken struct {
	Rows   uint64
	Bytes  int64
	SHA256 string // of the file, in hexadecimal
}

// ErrBackupCut says that a backup is not whole: what was written of it is worth nothing.
var ErrBackupCut = errors.New("the backup was cut: take another one")

// Backup takes a backup of the whole database and writes the file to to, as it comes. Only the service's HSM opens it. It may
// take long: Options.Timeout is the longest time in which nothing comes. Role: operator.
func (c *Client) Backup(ctx context.Context, to io.Writer) (BackupTaken, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(c.timeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	req, err := request(ctx, http.MethodPost, c.at("backups"), nil)
	if err != nil {
		return BackupTaken{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return BackupTaken{}, fmt.Errorf("client: %w", reason(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return BackupTaken{}, problem(resp)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), &watched{resp.Body, stalled, c.timeout})
	if err != nil {
		return BackupTaken{}, fmt.Errorf("client: after %d bytes %w: %w", n, ErrBackupCut, reason(ctx, err))
	}
	taken := BackupTaken{Bytes: n, SHA256: fmt.Sprintf("%x", sum.Sum(nil))}
	taken.Rows, err = strconv.ParseUint(resp.Trailer.Get(wire.BackupRowsTrailer), 10, 64)
	if err != nil || resp.Trailer.Get(wire.BackupDigestTrailer) != taken.SHA256 {
		return BackupTaken{}, fmt.Errorf("client: after %d bytes %w: it is not what the service has sent", n, ErrBackupCut)
	}
	return taken, nil
}

// reason is why a call was given up.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// watched puts off the end of a call whenever something comes.
type watched struct {
	io.Reader
	stalled *time.Timer
	limit   time.Duration
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.stalled.Reset(w.limit)
	}
	return n, err
}
