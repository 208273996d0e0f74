package api

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"
)

// watched notes the buffers that it is read into.
type watched struct {
	io.Reader
	first int      // bytes of the first one
	all   [][]byte // what was written into them
}

func (w *watched) Read(p []byte) (int, error) {
	if w.first == 0 {
		w.first = len(p)
	}
	n, err := w.Reader.Read(p)
	w.all = append(w.all, p[:n])
	return n, err
}

// A file takes memory as it comes, and stands in one buffer only, however it came; one too long is read no further.
func TestASeedFileTakesMemoryAsItComes(t *testing.T) {
	const limit = 20_000
	for size, want := range map[int]error{0: nil, firstRead: nil, limit: nil, limit + 1: fasthttp.ErrBodyTooLarge, 9 * limit: fasthttp.ErrBodyTooLarge} {
		text := strings.Repeat("s", size)
		for name, from := range map[string]io.Reader{
			"whole": strings.NewReader(text), "in halves": iotest.HalfReader(strings.NewReader(text)), "with its end": iotest.DataErrReader(strings.NewReader(text)),
		} {
			in := &watched{Reader: from}
			file, err := readFile(in, limit)
			require.Equal(t, want, err, "%d %s", size, name)
			require.Equal(t, text[:min(size, limit+1)], string(file), "%d %s", size, name)
			require.Equal(t, firstRead, in.first)
			clear(file)
			for _, b := range in.all {
				require.NotContains(t, string(b), "s", "%d %s", size, name)
			}
		}
	}
	_, err := readFile(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("ss"))), limit)
	require.ErrorIs(t, err, iotest.ErrTimeout)
}
