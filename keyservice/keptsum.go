package keyservice

import (
	"bytes"
	"context"
	"crypto/sha3"
	"encoding/binary"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// An older row of what removed entries said carries a right MAC. So each pruning writes, with where its log begins, the sum of
// the rows that it wrote less those that it wrote over; all of these together, of all logs, are the sum of all rows that must
// be there. An older beginning does not pass for the newest: entries that it tells of are missing.
//
// The sum is LtHash (Bellare and Micciancio; Lewi et al., IACR ePrint 2019/227): each row's digest is 1024 numbers of 16 bits,
// added one by one. It does not matter in which order, and nobody finds other rows of the same sum.

const keptSumLength = 2048 // bytes

// keptSum is a sum of rows; nil is that of none.
type keptSum []byte

// plus adds another sum.
func (s keptSum) plus(other []byte) keptSum {
	return s.combined(other, func(a, b uint16) uint16 { return a + b })
}

// minus takes another sum away.
func (s keptSum) minus(other []byte) keptSum {
	return s.combined(other, func(a, b uint16) uint16 { return a - b })
}

func (s keptSum) combined(other []byte, with func(a, b uint16) uint16) keptSum {
	both := make(keptSum, keptSumLength)
	copy(both, s)
	for i := 0; i+1 < min(len(other), keptSumLength); i += 2 {
		n := with(binary.LittleEndian.Uint16(both[i:]), binary.LittleEndian.Uint16(other[i:]))
		binary.LittleEndian.PutUint16(both[i:], n)
	}
	return both
}

// sumOfKept is that of one row: of what it says and where, not of its MAC, which a rotation changes.
func sumOfKept(key store.Key, k audit.Kept) (keptSum, error) {
	_, bound, err := encodeBody(key, kept{schema, k})
	if err != nil {
		return nil, err
	}
	return sha3.SumSHAKE256(bound, keptSumLength), nil
}

// compareKept holds the sum of the rows that were read against what the prunings of all logs say that it must be.
func (s *Service) compareKept(ctx context.Context, snap store.Snapshot, read keptSum) ([]Discrepancy, error) {
	begin, err := s.beginnings(ctx, snap)
	if err != nil {
		return nil, err
	}
	var written keptSum
	for _, b := range begin {
		written = written.plus(b.Kept)
	}
	if bytes.Equal(written.plus(nil), read.plus(nil)) {
		return nil, nil
	}
	return []Discrepancy{{What: keptBack}}, nil
}
