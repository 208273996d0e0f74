package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// ErrEncoding: bytes are not what Encode writes.
var ErrEncoding = errors.New("store: not the encoding of a row")

// Rows and entries are CBOR (RFC 8949) with integer keys in core deterministic encoding, so that what is sealed is what
// is stored.
var encoder = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constant options: fails in every test or never
	}
	return m
}()

var decoder = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField}.DecMode()
	if err != nil {
		panic(err) // constant options: fails in every test or never
	}
	return m
}()

// Encode returns the one encoding of v.
func Encode(v any) ([]byte, error) {
	b, err := encoder.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	return b, nil
}

// Decode reads what Encode wrote. Unknown fields, and any other encoding of the same value, are ErrEncoding.
func Decode[T any](b []byte) (T, error) {
	var v, none T
	if err := decoder.Unmarshal(b, &v); err != nil {
		return none, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	again, err := Encode(v)
	if err != nil {
		return none, err
	}
	if !bytes.Equal(again, b) {
		return none, fmt.Errorf("%w: not in core deterministic form", ErrEncoding)
	}
	return v, nil
}
