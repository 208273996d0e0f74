package badgerstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"

	"ramzban/keyservice/store"
)

// A memtable's log is a header and then the rows of each batch followed by an end mark. A row is
//
//	meta (1) | user meta (1) | key length | value length | expiry | key | value | CRC-32C of all before (4)
//
// with the three numbers as varints; the last 8 bytes of the key are the bitwise complement of the batch number, big
// endian. The end mark's key is endKey and its value the batch number in decimal. Zeroes follow the last row.

// Bits of meta.
const (
	metaInBatch = 1 << 6
	metaEnd     = 1 << 7
)

const (
	endKey       = "!badger!txn"
	endHeaderLen = 5       // an end mark's numbers take one byte each
	maxKeyLen    = 1 << 16 // Badger's own limit
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// logBatches are the batches that a log holds whole; 0 and 0 when none.
type logBatches struct{ first, last uint64 }

// row is one record of a log.
type row struct {
	meta  byte
	key   []byte // without the batch number
	value []byte
	batch uint64
	size  int
}

// walkLog reads a log as Badger will, which stops at the first row that it cannot read. That is right only for the
// last batch, cut short by a power cut: batches of a later number behind it mean that the log is damaged. before is
// the last batch of the tables and logs before this one.
func walkLog(b []byte, before uint64) (logBatches, error) {
	var found logBatches
	expected := before + 1
	for at := min(logHeader, len(b)); ; {
		number, size, ok := readBatch(b[at:])
		if !ok {
			return found, checkTail(b[at+size:], expected)
		}
		if found.first == 0 {
			found.first = number
		} else if number != expected {
			return logBatches{}, fmt.Errorf("batch %d follows batch %d", number, found.last)
		}
		found.last = number
		expected = number + 1
		at += size
	}
}

// readBatch reads the rows of one batch up to its end mark. If it is not whole, size is where it breaks off.
func readBatch(b []byte) (number uint64, size int, ok bool) {
	for {
		r, ok := readRow(b[size:])
		switch {
		case !ok:
			return 0, size, false
		case r.meta&metaInBatch != 0 && (number == 0 || number == r.batch):
			number = r.batch
		case r.isEnd() && r.batch == number:
			return number, size + r.size, true
		default:
			return 0, size, false
		}
		size += r.size
	}
}

// checkTail tells what is left of the batch that was being written from damage. A torn row never claims more than it
// had: Badger would make room for what it claims.
func checkTail(b []byte, torn uint64) error {
	if h, ok := readHeader(b); ok && h.valueLen > store.MaxValue {
		return fmt.Errorf("it is damaged in batch %d", torn)
	}
	if later := endMarkAfter(b, torn); later > 0 {
		return fmt.Errorf("it is damaged in batch %d, before batch %d", torn, later)
	}
	return nil
}

func (r row) isEnd() bool {
	return r.meta&metaEnd != 0 && string(r.key) == endKey && string(r.value) == strconv.FormatUint(r.batch, 10)
}

// rowHeader is what precedes a row's key.
type rowHeader struct {
	meta             byte
	keyLen, valueLen uint64
	size             int
}

func readHeader(b []byte) (h rowHeader, ok bool) {
	if len(b) < 2 {
		return rowHeader{}, false
	}
	var numbers [3]uint64 // length of the key, of the value, expiry
	at := 2
	for i := range numbers {
		n, size := binary.Uvarint(b[at:])
		if size <= 0 {
			return rowHeader{}, false
		}
		numbers[i], at = n, at+size
	}
	return rowHeader{meta: b[0], keyLen: numbers[0], valueLen: numbers[1], size: at}, true
}

// readRow reads the row at the beginning of b; ok is false if there is none or its checksum is wrong.
func readRow(b []byte) (r row, ok bool) {
	h, ok := readHeader(b)
	if !ok || h.keyLen < 8 || h.keyLen > maxKeyLen || h.valueLen > uint64(len(b)) {
		return row{}, false
	}
	value := h.size + int(h.keyLen)
	end := value + int(h.valueLen)
	if end+crc32.Size > len(b) || binary.BigEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], castagnoli) {
		return row{}, false
	}
	return row{
		meta:  h.meta,
		key:   b[h.size : value-8],
		value: b[value:end],
		batch: math.MaxUint64 - binary.BigEndian.Uint64(b[value-8:]),
		size:  end + crc32.Size,
	}, true
}

// endMarkAfter looks anywhere in b for the end mark of a batch later than the given one and returns that batch, or 0.
func endMarkAfter(b []byte, batch uint64) uint64 {
	for {
		at := bytes.Index(b, []byte(endKey))
		if at < 0 {
			return 0
		}
		if at >= endHeaderLen {
			if r, ok := readRow(b[at-endHeaderLen:]); ok && r.isEnd() && r.batch > batch {
				return r.batch
			}
		}
		b = b[at+1:]
	}
}
