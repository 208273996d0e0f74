package badgerstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// A table is a sequence of blocks, then its index, each with its checksum behind it. Read from the end:
//
//	block … block | index | length of index (4) | checksum | length of checksum (4)
//	block: entries | entry offsets | number of entries (4) | checksum | length of checksum (4)
//
// Lengths are big endian, a block's checksum covers what precedes it, the index is a flatbuffer.

// inspectTable verifies all checksums of a table, block by block, and returns the newest batch in it.
func inspectTable(path string) (newest uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return verifyTable(f, info.Size())
}

func verifyTable(r io.ReaderAt, size int64) (newest uint64, err error) {
	defer func() {
		if p := recover(); p != nil { // the flatbuffer's accessors check nothing
			err = fmt.Errorf("reading the index panicked: %v", p)
		}
	}()
	index, end, err := readIndex(r, size)
	if err != nil {
		return 0, fmt.Errorf("its index: %w", err)
	}
	if index.OffsetsLength() == 0 {
		return 0, errors.New("its index names no block")
	}
	for i := range index.OffsetsLength() {
		var block fb.BlockOffset
		if !index.Offsets(&block, i) {
			return 0, fmt.Errorf("its index has no offset for block %d", i)
		}
		if err := verifyBlock(r, int64(block.Offset()), int64(block.Len()), end); err != nil {
			return 0, fmt.Errorf("its block %d: %w", i, err)
		}
	}
	return index.MaxVersion(), nil
}

// readIndex returns the table's index and the offset at which it begins.
func readIndex(r io.ReaderAt, size int64) (*fb.TableIndex, int64, error) {
	sum, end, err := readBack(r, size)
	if err != nil {
		return nil, 0, fmt.Errorf("its checksum: %w", err)
	}
	data, end, err := readBack(r, end)
	if err != nil {
		return nil, 0, err
	}
	if err := verifySum(data, sum); err != nil {
		return nil, 0, err
	}
	if len(data) < 4 {
		return nil, 0, errors.New("too short")
	}
	return fb.GetRootAsTableIndex(data, 0), end, nil
}

// readBack reads the part that ends before its own length at end, and returns where it begins.
func readBack(r io.ReaderAt, end int64) ([]byte, int64, error) {
	var length [4]byte
	if end < int64(len(length)) {
		return nil, 0, errors.New("the file is too short")
	}
	if _, err := r.ReadAt(length[:], end-4); err != nil {
		return nil, 0, err
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	begin := end - 4 - n
	if begin < 0 {
		return nil, 0, errors.New("its length is beyond the file")
	}
	data := make([]byte, n)
	if _, err := r.ReadAt(data, begin); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return data, begin, nil
}

// verifyBlock checks one block, which must end at or before limit.
func verifyBlock(r io.ReaderAt, offset, length, limit int64) error {
	if offset+length > limit {
		return errors.New("it is beyond the file")
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, offset); err != nil {
		return err
	}
	if length < 4 {
		return errors.New("too short")
	}
	n := int64(binary.BigEndian.Uint32(data[length-4:]))
	if n > length-4 {
		return errors.New("its checksum's length is beyond it")
	}
	return verifySum(data[:length-4-n], data[length-4-n:length-4])
}

func verifySum(data, encoded []byte) error {
	sum := &pb.Checksum{}
	if err := proto.Unmarshal(encoded, sum); err != nil {
		return fmt.Errorf("the checksum: %w", err)
	}
	if sum.Algo != pb.Checksum_CRC32C && sum.Algo != pb.Checksum_XXHash64 {
		return fmt.Errorf("the checksum has the unknown algorithm %d", sum.Algo)
	}
	return y.VerifyChecksum(data, sum)
}
