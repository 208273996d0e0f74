package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// dataKeyLength is the length in bytes of the data key of a backup.
const dataKeyLength = 32

// WrapDataKey wraps the data key of a backup, 32 bytes that the caller made, under the active backup key (RFC 5649).
func (h *HSM) WrapDataKey(ctx context.Context, key []byte) (seed.Wrapped, error) {
	if len(key) != dataKeyLength {
		return seed.Wrapped{}, fmt.Errorf("wrap a data key: it has %d bytes, not %d", len(key), dataKeyLength)
	}
	var made seed.Wrapped
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error {
			data, err := s.importObject(dataKeyTemplate(key))
			if err != nil {
				return fmt.Errorf("wrap a data key: %w", err)
			}
			return s.lend(data, "a data key", func(data pkcs11.ObjectHandle) (err error) {
				active, _ := g.ring().current(labelBackup)
				made, err = g.wrapWith(s, active, data)
				return err
			})
		})
	})
	if err != nil {
		return seed.Wrapped{}, err
	}
	return made, nil
}

// UnwrapDataKey returns the data key of a backup. seed.ErrBadBlob: it is damaged, or was wrapped by another HSM;
// seed.ErrKeyNotFound: the HSM lacks the version of the backup key that wrapped it.
func (h *HSM) UnwrapDataKey(ctx context.Context, w seed.Wrapped) ([]byte, error) {
	if err := h.checkBlob(w, labelBackup); err != nil {
		return nil, fmt.Errorf("unwrap a data key: %w", err)
	}
	var value []byte
	err := h.run(ctx, func(g *generation) error {
		key, err := g.ring().get(w.Key)
		if err != nil {
			return err
		}
		return g.workers.withSession(ctx, func(s *session) (err error) {
			value, err = g.readDataKey(s, key, w)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

func (g *generation) readDataKey(s *session, key pkcs11.ObjectHandle, w seed.Wrapped) (value []byte, err error) {
	data, err := s.unwrap(mechanism(uint(w.Mech), nil), key, w.Blob, readableTemplate(g.cfg.Profile))
	if err != nil {
		return nil, blobError(err, g.cfg.Profile)
	}
	err = s.lend(data, "a data key", func(data pkcs11.ObjectHandle) error {
		attrs, err := s.p.GetAttributeValue(s.handle, data, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
		if err != nil {
			return fmt.Errorf("read a data key: %w", err)
		}
		value = attrs[0].Value
		return nil
	})
	if err == nil && len(value) != dataKeyLength {
		err = fmt.Errorf("%w: it holds %d bytes, which is no data key", seed.ErrBadBlob, len(value))
	}
	return value, err
}

// dataKeyTemplate imports a data key to be wrapped in the same call: extractable, good for nothing else.
func dataKeyTemplate(value []byte) []*pkcs11.Attribute {
	return append(seedTemplate(true, 0), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
}

// readableTemplate is a data key that the host gets back: the one kind of object whose value may be read.
func readableTemplate(p profile.Profile) []*pkcs11.Attribute {
	attrs := seedTemplate(true, 0)
	for _, a := range attrs {
		if a.Type == pkcs11.CKA_SENSITIVE {
			*a = *pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false)
		}
	}
	if p.UnwrapNeedsLength {
		attrs = append(attrs, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, dataKeyLength))
	}
	return attrs
}
