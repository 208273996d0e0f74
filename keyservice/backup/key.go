package backup

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"

	"filippo.io/age"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Keys wraps and unwraps data keys of 32 bytes in the HSM, under ramzban/backup/N.
type Keys interface {
	WrapDataKey(ctx context.Context, key []byte) (seed.Wrapped, error)
	UnwrapDataKey(ctx context.Context, w seed.Wrapped) ([]byte, error)
}

const stanzaType = "ramzban-hsm"

const (
	dataKeyLength = 32
	fileKeyLength = 16 // age's
)

// stanza is the body of age's stanza. It is CBOR with these integer keys.
type stanza struct {
	Data seed.Wrapped `cbor:"1,keyasint"` // the data key
	File []byte       `cbor:"2,keyasint"` // age's file key under it
}

// recipient implements age.Recipient.
type recipient struct {
	ctx  context.Context
	keys Keys
}

// Recipient makes files that this HSM opens.
func Recipient(ctx context.Context, keys Keys) age.Recipient { return &recipient{ctx, keys} }

// Wrap implements age.Recipient.
func (r *recipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	data := make([]byte, dataKeyLength)
	rand.Read(data) // never fails
	defer clear(data)
	wrapped, err := r.keys.WrapDataKey(r.ctx, data)
	if err != nil {
		return nil, err
	}
	aead, err := aeadOf(data)
	if err != nil {
		return nil, err
	}
	body, err := store.Encode(stanza{wrapped, aead.Seal(nil, make([]byte, aead.NonceSize()), fileKey, nil)})
	return []*age.Stanza{{Type: stanzaType, Args: []string{wrapped.Key.String()}, Body: body}}, err
}

func aeadOf(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// identity implements age.Identity.
type identity struct {
	ctx    context.Context
	keys   Keys
	failed error // of the HSM; nil: the file is to blame
}

// Unwrap implements age.Identity.
func (i *identity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if len(stanzas) != 1 || stanzas[0].Type != stanzaType {
		return nil, age.ErrIncorrectIdentity
	}
	s, err := store.Decode[stanza](stanzas[0].Body)
	if err != nil {
		return nil, err
	}
	if len(stanzas[0].Args) != 1 || stanzas[0].Args[0] != s.Data.Key.String() {
		return nil, errors.New("its header names two keys")
	}
	data, err := i.keys.UnwrapDataKey(i.ctx, s.Data)
	if err != nil {
		i.failed = explain(s.Data.Key, err)
		return nil, err
	}
	defer clear(data)
	return open(data, s.File)
}

// explain tells a file that this HSM cannot open from one that was changed, as far as anybody can.
func explain(key seed.KeyRef, err error) error {
	switch {
	case errors.Is(err, seed.ErrKeyNotFound):
		return fmt.Errorf("the backup's key is under %s, which this HSM does not have: use the HSM of the installation it was taken of: %w", key, err)
	case errors.Is(err, seed.ErrBadBlob):
		return fmt.Errorf("%w: the HSM does not unwrap its key: it was changed, or %s of another HSM made it: %w", ErrDamaged, key, err)
	}
	return err
}

func open(data, sealed []byte) ([]byte, error) {
	if len(data) != dataKeyLength {
		return nil, errors.New("its data key has another length")
	}
	aead, err := aeadOf(data)
	if err != nil {
		return nil, err
	}
	fileKey, err := aead.Open(nil, make([]byte, aead.NonceSize()), sealed, nil)
	if err == nil && len(fileKey) != fileKeyLength {
		err = errors.New("its file key has another length")
	}
	return fileKey, err
}
