package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/keyservice/backup"
)

// A backup comes over the API while the service works, whole; only the HSM opens it.
func TestBackupOverTheAPI(t *testing.T) {
	b := openBank(t)
	for n := range 5 {
		b.issue(n)
	}
	var file bytes.Buffer
	taken, err := b.goClient("operator").Backup(t.Context(), &file)
	require.NoError(t, err)
	require.Equal(t, int64(file.Len()), taken.Bytes)
	require.NotContains(t, file.String(), "603799")
	f, err := backup.OpenFile(t.Context(), bytes.NewReader(file.Bytes()), int64(file.Len()), openedHSM)
	require.NoError(t, err)
	summary, err := f.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, taken.Rows, summary.Rows)
	require.Contains(t, b.log.String(), `"complete":"true"`)
	require.Equal(t, 1, b.outcomes(t)["begun"])
}

// A backup whose answer is cut, at either end, is an error for its client; the next one can be taken.
func TestACutBackupIsAnError(t *testing.T) {
	b := openBank(t)
	for n := range 300 {
		b.issue(n)
	}
	_, err := b.goClient("operator").Backup(t.Context(), &limitedWriter{left: 100})
	require.ErrorIs(t, err, client.ErrBackupCut)
	require.ErrorIs(t, err, errFull)
	require.Eventually(t, func() bool {
		_, err := b.goClient("operator").Backup(t.Context(), io.Discard)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond, "the next one")

	resp, err := b.as("operator").Post("https://"+b.addr+"/v1/backups", "", http.NoBody)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- b.server.Shutdown(ctx) }()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil { // it had all been sent before
		require.NotEmpty(t, resp.Trailer.Get("Ramzban-Backup-Sha256"))
	}
	require.NoError(t, <-shut)
}

var errFull = errors.New("the disk is full")

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}
