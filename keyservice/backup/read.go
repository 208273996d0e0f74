package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"ramzban/keyservice/store"
)

// File is a backup whose key the HSM has unwrapped. Once it was checked it can be read several times, also at once: whatever
// is read then is of the file that has the digest, or an error, even if somebody writes to the file meanwhile.
type File struct {
	raw    held
	plain  io.ReaderAt
	size   int64
	marks  []mark // in the order of keys; none before Check
	Header Header
	Digest [sha256.Size]byte // SHA-256 of the file as it lies there; none before Check
}

// held is a file whose head was read once. In the head stand age's header and nonce, of which the keys of all chunks are made:
// so no chunk opens that belongs to another file than the head that was summed up.
type held struct {
	head []byte
	file io.ReaderAt
	size int64
}

const headLength = 64 << 10 // bytes; a header as Recipient makes it has less than 2 KiB

func hold(file io.ReaderAt, size int64) (held, error) {
	h := held{head: make([]byte, min(size, headLength)), file: file, size: size}
	_, err := io.ReadFull(io.NewSectionReader(file, 0, size), h.head)
	return h, err
}

// ReadAt implements io.ReaderAt.
func (h held) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(h.head)) {
		return h.file.ReadAt(p, off)
	}
	n := copy(p, h.head[off:])
	if n == len(p) {
		return n, nil
	}
	more, err := h.file.ReadAt(p[n:], off+int64(n))
	return n + more, err
}

// sum is the SHA-256 of the whole file.
func (h held) sum() (digest [sha256.Size]byte, err error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(h, 0, h.size)); err != nil {
		return digest, fmt.Errorf("reading a backup: %w", err)
	}
	sum.Sum(digest[:0])
	return digest, nil
}

// mark is where a row begins, so that those before it need not be read again.
type mark struct {
	key store.Key
	at  int64
}

const markEvery = 1 << 20 // bytes

// OpenFile reads the beginning of a backup of so many bytes, and the last chunk, which says whether it is whole. Of what lies
// between nothing is known before it was read: see Check. ErrDamaged, or the error of the HSM.
func OpenFile(ctx context.Context, file io.ReaderAt, size int64, keys Keys) (*File, error) {
	raw, err := hold(file, size)
	if err != nil {
		return nil, damaged(err)
	}
	id := &identity{ctx: ctx, keys: keys}
	plain, plainSize, err := age.DecryptReaderAt(raw, size, id)
	if id.failed != nil {
		return nil, id.failed
	}
	if err != nil {
		return nil, damaged(err)
	}
	f := &File{raw: raw, plain: plain, size: plainSize}
	r, err := f.read()
	if err != nil {
		return nil, err
	}
	f.Header = r.header
	return f, nil
}

func damaged(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// Check reads all of the file, sums it up and returns its summary; ErrDamaged if anything is not as it was written.
func (f *File) Check(ctx context.Context) (Summary, error) {
	var err error
	if f.Digest, err = f.raw.sum(); err != nil {
		return Summary{}, err
	}
	r, err := f.read()
	if err != nil {
		return Summary{}, err
	}
	f.marks = nil
	for marked := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return Summary{}, err
		}
		at := r.at
		row, err := r.next()
		if errors.Is(err, io.EOF) {
			return r.total, nil
		}
		if err != nil {
			return Summary{}, err
		}
		if at >= marked {
			f.marks, marked = append(f.marks, mark{row.Key, at}), at+markEvery
		}
	}
}

// errEnough ends a reading early.
var errEnough = errors.New("enough was read")

// Each calls fn for each row from the key from on, in the order of keys. fn may keep the row. The file was checked before.
func (f *File) Each(ctx context.Context, from store.Key, fn func(store.Put) error) error {
	r, err := f.readFrom(from)
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		row, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && row.Key >= from {
			err = fn(row)
		}
		if err != nil {
			return err
		}
	}
}

// readFrom begins at a mark before the first row from the key from on.
func (f *File) readFrom(from store.Key) (*reader, error) {
	i, exact := slices.BinarySearchFunc(f.marks, from, func(m mark, k store.Key) int { return strings.Compare(string(m.key), string(k)) })
	if !exact {
		i--
	}
	if i < 0 {
		return f.read()
	}
	return &reader{in: f.from(f.marks[i].at), partly: true}, nil
}

func (f *File) from(at int64) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(f.plain, at, f.size-at), 256<<10)
}

// Range calls fn for each row whose key has the prefix and is at or after from, in order. What comes behind them is not read.
func (f *File) Range(ctx context.Context, prefix, from store.Key, fn func(store.Put) error) error {
	err := f.Each(ctx, max(prefix, from), func(p store.Put) error {
		if !strings.HasPrefix(string(p.Key), string(prefix)) {
			return errEnough
		}
		return fn(p)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// reader reads the payload.
type reader struct {
	in     *bufio.Reader
	at     int64 // how much was read
	partly bool  // not from its beginning: nothing is summed up
	sum    hash.Hash
	header Header
	last   store.Key
	total  Summary // of what was read so far; at the end that of the file
}

func (f *File) read() (*reader, error) {
	r := &reader{in: f.from(0), sum: sha256.New()}
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(r.in, begin); err != nil {
		return nil, damaged(err)
	}
	if string(begin) != magic {
		return nil, fmt.Errorf("%w: it is of a form that this version does not know", ErrDamaged)
	}
	encoded, err := r.block(maxHeader)
	if err != nil {
		return nil, err
	}
	r.sum.Write(begin)
	r.sum.Write(block(encoded))
	r.at = int64(len(begin) + 4 + len(encoded))
	if r.header, err = store.Decode[Header](encoded); err != nil {
		return nil, damaged(err)
	}
	return r, nil
}

// block reads a length and so many bytes.
func (r *reader) block(most uint32) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r.in, length[:]); err != nil {
		return nil, damaged(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > most {
		return nil, fmt.Errorf("%w: a length is beyond its limit", ErrDamaged)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return nil, damaged(err)
	}
	return b, nil
}

// next reads a row; io.EOF after the last one, if the file is whole.
func (r *reader) next() (store.Put, error) {
	key, err := r.block(store.MaxKey)
	if err != nil {
		return store.Put{}, err
	}
	if len(key) == 0 {
		return store.Put{}, r.end()
	}
	value, err := r.block(store.MaxValue)
	if err != nil {
		return store.Put{}, err
	}
	row := store.Put{Key: store.Key(key), Value: value}
	if err := store.CheckPut(row); err != nil || row.Key <= r.last {
		return store.Put{}, fmt.Errorf("%w: a row is not one, or out of order", ErrDamaged)
	}
	r.last = row.Key
	r.at += int64(8 + len(key) + len(value))
	if r.partly {
		return row, nil
	}
	r.sum.Write(block(key))
	r.sum.Write(block(value))
	r.total.Rows++
	r.total.Bytes += uint64(len(key) + len(value))
	return row, nil
}

// end holds what was read against the summary. It returns io.EOF if all is as it was written.
func (r *reader) end() error {
	if r.partly {
		return io.EOF
	}
	r.sum.Sum(r.total.Digest[:0])
	encoded, err := r.block(maxHeader)
	if err != nil {
		return err
	}
	total, err := store.Decode[Summary](encoded)
	if err != nil {
		return damaged(err)
	}
	if total != r.total {
		return fmt.Errorf("%w: it has %d rows, and its summary tells of %d, or of others", ErrDamaged, r.total.Rows, total.Rows)
	}
	if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	}
	return io.EOF
}
