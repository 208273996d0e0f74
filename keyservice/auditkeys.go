package keyservice

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
)

// AuditKey is the public half of one version of the audit key.
type AuditKey struct {
	Version uint32
	audit.PublicKey
}

// versionedAuditKeys are those that the HSM has, and those that the key ring tells of: what a destroyed version signed
// can be checked as long as its public half is known.
func (s *Service) versionedAuditKeys(ctx context.Context) ([]AuditKey, error) {
	all, err := s.HSM.Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range s.ring.Load().Versions {
		all = append(all, seed.MasterKey{Key: v.Key, Public: v.Public})
	}
	var keys []AuditKey
	for _, k := range all {
		if k.Key.Label != auditLabel || len(k.Public) == 0 {
			continue
		}
		public, err := audit.ParsePublicKey(k.Public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Key, err)
		}
		key := AuditKey{k.Key.Version, public}
		if !slices.ContainsFunc(keys, func(o AuditKey) bool { return o.Version == key.Version && bytes.Equal(o.DER(), key.DER()) }) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// PublicAuditKeys returns the public keys that checkpoints may be signed with.
func (s *Service) PublicAuditKeys(ctx context.Context) ([]audit.PublicKey, error) {
	versions, err := s.versionedAuditKeys(ctx)
	keys := make([]audit.PublicKey, len(versions))
	for i, v := range versions {
		keys[i] = v.PublicKey
	}
	return keys, err
}

// auditKey is one of them.
func (s *Service) auditKey(ctx context.Context, ref seed.KeyRef) (audit.PublicKey, error) {
	versions, err := s.versionedAuditKeys(ctx)
	if err != nil {
		return audit.PublicKey{}, err
	}
	for _, v := range versions {
		if v.Version == ref.Version {
			return v.PublicKey, nil
		}
	}
	return audit.PublicKey{}, fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
}

// origin is the identity under which a node signs.
func (s *Service) origin(node string) string { return audit.Origin(s.installation(), node) }

// signAudit signs with the active audit key. It is an audit.SignFunc.
func (s *Service) signAudit(ctx context.Context, message []byte) (audit.PublicKey, []byte, error) {
	sig, err := s.HSM.SignAudit(ctx, message)
	if err != nil {
		return audit.PublicKey{}, nil, err
	}
	key, err := s.auditKey(ctx, sig.Key)
	return key, sig.DER, err
}
