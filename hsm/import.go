package hsm

import (
	"context"
	"errors"

	"ramzban/keyservice/seed"
)

// ImportKey returns the public key (DER SubjectPublicKeyInfo) to which makers of hardware tokens wrap seeds.
func (h *HSM) ImportKey(context.Context) ([]byte, error) { return nil, errors.ErrUnsupported }

// Import takes a maker's seed to the active wrapping master key.
func (h *HSM) Import(context.Context, []byte, seed.Hash) (seed.Wrapped, error) {
	return seed.Wrapped{}, errors.ErrUnsupported
}
