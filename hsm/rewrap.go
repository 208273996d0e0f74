package hsm

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// Rewrap takes a stored seed from the wrapping master key that holds it to the active one (RFC 5649), in the HSM, and
// proves that what comes out makes the same MACs. A seed under the active key already is returned as it is. Seeds that
// are unwrapped for verification are neither used nor touched.
//
// seed.ErrBadBlob: the HSM refuses the blob; seed.ErrKeyNotFound: it lacks the key that wrapped it.
func (h *HSM) Rewrap(ctx context.Context, w seed.Wrapped, hash seed.Hash) (seed.Wrapped, error) {
	if err := h.checkStored(w, hash); err != nil {
		return seed.Wrapped{}, fmt.Errorf("rewrap a seed: %w", err)
	}
	var made seed.Wrapped
	err := h.run(ctx, func(g *generation) error {
		active, _ := g.ring().current(labelWrap)
		if w.Key == active {
			made = w
			return nil
		}
		return g.workers.withSession(ctx, func(s *session) (err error) {
			made, err = g.rewrapTo(s, active, w, hash)
			return err
		})
	})
	if err != nil {
		return seed.Wrapped{}, err
	}
	return made, nil
}

// rewrapTo wraps a stored seed under another version of the wrapping master key.
func (g *generation) rewrapTo(s *session, to seed.KeyRef, w seed.Wrapped, hash seed.Hash) (made seed.Wrapped, err error) {
	want, err := g.signStored(s, w, hash)
	if err != nil {
		return seed.Wrapped{}, err
	}
	defer clear(want)
	key, err := g.ring().get(w.Key)
	if err != nil {
		return seed.Wrapped{}, err
	}
	extractable, err := s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, rewrapTemplate(len(w.Blob)-8, g.cfg.Profile))
	if err != nil { // the key has just unwrapped it: that it should refuse now is an outage
		return seed.Wrapped{}, fmt.Errorf("%w: %w", errLeftover, err)
	}
	err = s.lend(extractable, "a seed to be wrapped again", func(h pkcs11.ObjectHandle) (err error) {
		made, err = g.wrapWith(s, to, h)
		return err
	})
	if err != nil {
		return seed.Wrapped{}, err
	}
	got, err := g.checkWrapped(s, made, hash)
	if err == nil && !hmac.Equal(got, want[:checkLength]) {
		err = errors.New("rewrap a seed: what was wrapped anew is another seed")
	}
	return made, err
}

// signStored makes the MAC that identifies a stored seed; seed.ErrBadBlob if its key refuses it. The caller clears it.
func (g *generation) signStored(s *session, w seed.Wrapped, hash seed.Hash) (sum []byte, err error) {
	key, err := g.ring().get(w.Key)
	if err != nil {
		return nil, err
	}
	h, err := s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, verifyTemplate(hash, len(w.Blob)-8, g.cfg.Profile))
	if err != nil {
		return nil, blobError(err, g.cfg.Profile)
	}
	err = s.lend(h, "an unwrapped seed", func(h pkcs11.ObjectHandle) (err error) {
		sum, err = s.hmac(h, hash, tagged(purposeSelfCheck))
		return err
	})
	return sum, err
}
