package keyservice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/backup"
	"ramzban/keyservice/store"
)

// swappedFile is a file that somebody writes over while it is read: after so many reads another one lies there, and after so
// many more the first one again.
type swappedFile struct {
	is, other  io.ReaderAt
	from, back int
	reads      int
}

func (e *swappedFile) ReadAt(p []byte, off int64) (int, error) {
	e.reads++
	if e.reads > e.from && e.reads <= e.back {
		return e.other.ReadAt(p, off)
	}
	return e.is.ReadAt(p, off)
}

// backupOf is a backup of some rows with this byte in them, of several chunks.
func backupOf(t *testing.T, b byte) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := backup.NewWriter(&file, backup.Recipient(context.Background(), theHSM), backup.Header{Installation: "a bank"})
	require.NoError(t, err)
	for i := range 4 {
		require.NoError(t, w.Add(store.Key(fmt.Sprintf("t/%d", i)), bytes.Repeat([]byte{b}, 60<<10)))
	}
	_, err = w.Close()
	require.NoError(t, err)
	return file.Bytes()
}

// What is restored is of the file whose digest the officers signed, whenever another whole backup is put in its place: both
// files are the installation's own.
func TestAFileThatIsExchangedWhileItIsReadIsFound(t *testing.T) {
	agreed, other := backupOf(t, 'a'), backupOf(t, 'b')
	require.Len(t, other, len(agreed))
	total := &swappedFile{is: bytes.NewReader(agreed)}
	all, ok := readExchanged(total, len(agreed), sha256.Sum256(agreed))
	require.True(t, ok)
	require.Len(t, all, 8)
	found := 0
	for from := range total.reads {
		for back := from + 1; back <= total.reads; back++ {
			for _, files := range [][2][]byte{{agreed, other}, {other, agreed}} {
				e := &swappedFile{is: bytes.NewReader(files[0]), other: bytes.NewReader(files[1]), from: from, back: back}
				rows, ok := readExchanged(e, len(agreed), sha256.Sum256(agreed))
				for _, row := range rows {
					require.Equal(t, byte('a'), row[0], "other file from read %d to %d", from, back)
				}
				if !ok {
					found++
				}
			}
		}
	}
	require.Positive(t, found)
}

// readExchanged reads a file as a restore does, twice, if its digest is the agreed one's.
func readExchanged(file *swappedFile, size int, agreed [sha256.Size]byte) (rows [][]byte, ok bool) {
	ctx := context.Background()
	f, err := backup.OpenFile(ctx, file, int64(size), theHSM)
	if err != nil {
		return nil, false
	}
	if _, err := f.Check(ctx); err != nil || f.Digest != agreed {
		return nil, false
	}
	for range 2 {
		if err := f.Each(ctx, "", func(row store.Put) error {
			rows = append(rows, row.Value)
			return nil
		}); err != nil {
			return rows, false
		}
	}
	return rows, true
}
