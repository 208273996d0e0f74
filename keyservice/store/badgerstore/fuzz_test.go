package badgerstore

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallFiles returns a table and a log of three batches, small enough to fuzz.
func smallFiles(f *testing.F) (table, log []byte) {
	dir := f.TempDir()
	s := openTest(f, Options{Dir: dir, memTable: sampleTable})
	for i := range 3 {
		mustCommit(f, s, change(sampleKey(i), "value"))
	}
	log = read(f, files(f, dir, walSuffix)[0])
	require.NoError(f, s.Close())
	return read(f, files(f, dir, tableSuffix)[0]), log[:logEnd(log)]
}

// FuzzTable: no file makes the verification panic, and what it accepts is what was written: flipping any bit of it is
// noticed.
func FuzzTable(f *testing.F) {
	table, _ := smallFiles(f)
	f.Add(table, uint32(0))
	f.Add(table[:len(table)-1], uint32(9))
	f.Add(table[len(table)-64:], uint32(3))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint32) {
		if _, err := verifyTable(bytes.NewReader(b), int64(len(b))); err != nil {
			return
		}
		if !bytes.Equal(b, table) {
			return // the fuzzer made a table of its own, checksums and all
		}
		flipped := bytes.Clone(b)
		flipped[int(at)%len(b)] ^= 1
		_, err := verifyTable(bytes.NewReader(flipped), int64(len(b)))
		require.Error(t, err)
	})
}

// FuzzLog: no log makes the walk panic or claim batches that are not there whole and in order.
func FuzzLog(f *testing.F) {
	_, log := smallFiles(f)
	f.Add(log, uint64(0))
	f.Add(log[:len(log)-10], uint64(2))
	f.Add(log[:logHeader+3], uint64(0))
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, before uint64) {
		found, err := walkLog(b, before)
		if err != nil {
			return
		}
		require.LessOrEqual(t, found.first, found.last)
		at := min(logHeader, len(b))
		for number := found.first; found.first > 0; number++ {
			got, size, ok := readBatch(b[at:])
			require.True(t, ok)
			require.Equal(t, number, got)
			if at += size; number == found.last {
				break
			}
		}
	})
}

// FuzzNext: the engine's row decodes to what was encoded, or not at all.
func FuzzNext(f *testing.F) {
	f.Add(encodeNext(0))
	f.Add(encodeNext(1 << 60))
	f.Add([]byte{})
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		next, err := decodeNext(b)
		if err == nil {
			require.Equal(t, b, encodeNext(next))
		}
	})
}
