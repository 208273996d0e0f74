package hsm

import (
	"context"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// This file lets the tests do what the product cannot: bring in a known seed, spoil master keys, end a generation.

// WrapKnown imports a seed in clear, zero-padded to the module's minimum, and wraps it under the active wrapping key.
func WrapKnown(ctx context.Context, h *HSM, hash seed.Hash, value []byte) (seed.Wrapped, error) {
	padded := append([]byte(nil), value...)
	for len(padded) < h.cfg.Profile.MinKey(hash) {
		padded = append(padded, 0)
	}
	var w seed.Wrapped
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error {
			key, err := s.importObject(vectorKeyTemplate(padded))
			if err != nil {
				return err
			}
			if w, err = g.wrapForStore(s, key); err != nil {
				return err
			}
			return s.destroy(key, "a known seed")
		})
	})
	return w, err
}

// Change replaces the current generation, with or without initialising the module anew. It does not wait.
func (h *HSM) Change(module bool) {
	how := changeHandles
	if module {
		how = changeModule
	}
	h.mu.Lock()
	g := h.current
	h.mu.Unlock()
	if g != nil {
		h.withdraw(g, how)
	}
}

// WithAllSessions holds every session of the pool while fn runs.
func (h *HSM) WithAllSessions(fn func()) error {
	ctx := context.Background()
	g, err := h.lease(ctx)
	if err != nil {
		return err
	}
	defer g.release()
	var held []*session
	for range cap(g.workers.slots) {
		s, err := g.workers.borrow(ctx, false)
		if err != nil {
			return err
		}
		held = append(held, s)
	}
	fn()
	for _, s := range held {
		g.workers.giveBack(s, nil)
	}
	return nil
}

// LiveObjects counts the session objects the module holds.
func (h *HSM) LiveObjects(ctx context.Context) (int, error) {
	n := 0
	err := h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error {
			found, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false)})
			n = len(found)
			return err
		})
	})
	return n, err
}

// Attribute is one attribute of a key to be made wrongly.
type Attribute struct {
	Type  uint
	Value any
}

// CreateKey makes a master key by its template with the given attributes instead of the template's; nil leaves one out.
func CreateKey(config Config, ref seed.KeyRef, instead ...Attribute) error {
	return administer(config, func(g *generation) error {
		return g.workers.withSession(context.Background(), func(s *session) error { return g.createWith(s, ref, instead) })
	})
}

func (g *generation) createWith(s *session, ref seed.KeyRef, instead []Attribute) error {
	spec := keySpecs[ref.Label]
	template, public := masterTemplate(ref, spec, g.cfg.Profile), publicHalfTemplate(ref, spec)
	for _, a := range instead {
		if a.Type == pkcs11.CKA_MODULUS_BITS || a.Type == pkcs11.CKA_EC_PARAMS {
			exchange(&public, a)
		} else {
			exchange(&template, a)
		}
	}
	return s.generate(spec, template, public)
}

func exchange(template *[]*pkcs11.Attribute, a Attribute) {
	i := slices.IndexFunc(*template, func(t *pkcs11.Attribute) bool { return t.Type == a.Type })
	if a.Value == nil {
		*template = slices.Delete(*template, i, i+1)
	} else {
		(*template)[i] = pkcs11.NewAttribute(a.Type, a.Value)
	}
}

// CreateKeys makes version 1 of every master key the token does not have, and takes whatever keys there are then for those
// of the ceremony: it returns their known answers.
func CreateKeys(ctx context.Context, config Config) ([]KnownAnswer, error) {
	var answers []KnownAnswer
	err := administer(config, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) (err error) {
			if err := g.createMissing(s); err != nil {
				return err
			}
			found, err := listKeys(s)
			if err != nil {
				return err
			}
			if err := g.adopt(s, found); err != nil {
				return err
			}
			answers, err = g.noteAnswers(s)
			return err
		})
	})
	return answers, err
}

func (g *generation) createMissing(s *session) error {
	present, err := listKeys(s)
	if err != nil {
		return err
	}
	for _, label := range labels {
		if _, ok := present.active[label]; ok {
			continue
		}
		if err := g.createWith(s, seed.KeyRef{Label: label, Version: 1}, nil); err != nil {
			return err
		}
	}
	return nil
}

// noteAnswers makes the known answers of all keys there are, in the order of their labels and versions.
func (g *generation) noteAnswers(s *session) ([]KnownAnswer, error) {
	var all []KnownAnswer
	for _, ref := range g.ring().sorted() {
		a, err := g.noteAnswer(s, ref)
		if err != nil {
			return nil, fmt.Errorf("known answer of %s: %w", ref, err)
		}
		all = append(all, a)
	}
	return all, nil
}

// DestroyKeys destroys all objects of a master key's label and version.
func DestroyKeys(config Config, ref seed.KeyRef) error {
	return administer(config, func(g *generation) error {
		return g.workers.withSession(context.Background(), func(s *session) error { return s.destroyMaster(ref) })
	})
}

func (s *session) destroyMaster(ref seed.KeyRef) error {
	found, err := s.find([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.String())})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("no %s to destroy", ref)
	}
	for _, h := range found {
		if err := s.p.DestroyObject(s.handle, h); err != nil {
			return err
		}
	}
	return nil
}

// CreateKeyMeanwhile makes a master key while the HSM is at work.
func (h *HSM) CreateKeyMeanwhile(ref seed.KeyRef) error {
	return h.meanwhile(func(g *generation, s *session) error { return g.createWith(s, ref, nil) })
}

// ExchangeKeyMeanwhile puts another key under a master key's label while the HSM is at work.
func (h *HSM) ExchangeKeyMeanwhile(ref seed.KeyRef) error {
	return h.meanwhile(func(g *generation, s *session) error {
		if err := s.destroyMaster(ref); err != nil {
			return err
		}
		return g.createWith(s, ref, nil)
	})
}

func (h *HSM) meanwhile(fn func(*generation, *session) error) error {
	ctx := context.Background()
	return h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error { return fn(g, s) })
	})
}

// Raw runs the three mixes of C calls that the benchmarks compare the product with, on one session each.
type Raw struct {
	g *generation
	s *session
}

// WithRaw lends a raw session of the current generation.
func WithRaw(h *HSM, fn func(Raw) error) error {
	ctx := context.Background()
	return h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error { return fn(Raw{g, s}) })
	})
}

// Unwrap makes a live handle.
func (r Raw) Unwrap(w seed.Wrapped, hash seed.Hash) (pkcs11.ObjectHandle, error) {
	key, err := r.g.ring().get(w.Key)
	if err != nil {
		return 0, err
	}
	return r.s.p.UnwrapKey(r.s.handle, mechanism(uint(w.Mech), nil), key, w.Blob, verifyTemplate(hash, len(w.Blob)-8, r.g.cfg.Profile))
}

// HMAC makes one MAC on a live handle.
func (r Raw) HMAC(key pkcs11.ObjectHandle, hash seed.Hash, message []byte) error {
	_, err := r.s.hmac(key, hash, message)
	return err
}

// Destroy destroys a session object.
func (r Raw) Destroy(key pkcs11.ObjectHandle) error { return r.s.p.DestroyObject(r.s.handle, key) }

// DeriveWrapDestroy makes a seed, wraps it for the store and destroys it.
func (r Raw) DeriveWrapDestroy(context []byte, hash seed.Hash) error {
	_, key := r.g.ring().current(labelDerive)
	return r.s.withBorn(key, context, hash.SeedLength(), func(born pkcs11.ObjectHandle) error {
		_, err := r.g.wrapForStore(r.s, born)
		return err
	})
}

// ParseLabel reads an object's label.
func ParseLabel(s string) (seed.KeyRef, bool) { return parseLabel(s) }

// ProbeWith runs the negative probes with one key, or the seed, exchanged for one that allows what must be refused.
func (h *HSM) ProbeWith(ctx context.Context, label string) error {
	return h.run(ctx, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error {
			if label == "seed" {
				return g.probeSeed(s)
			}
			weak := &generation{cfg: g.cfg, stats: g.stats, handles: g.handles}
			weak.keys.Store(new(g.ring().clone()))
			if label != "" {
				key, err := s.weakKey(label)
				if err != nil {
					return err
				}
				defer s.destroy(key, "a weak key")
				weak.ring().handles[seed.KeyRef{Label: label, Version: 1}] = key
			}
			return weak.checkRefusals(s)
		})
	})
}

// probeSeed shows the probe of seeds one that is extractable.
func (g *generation) probeSeed(s *session) error {
	_, key := g.ring().current(labelDerive)
	return s.withBorn(key, []byte("probe"), 32, func(born pkcs11.ObjectHandle) error { return g.checkSeedProbes(s, born) })
}

func (s *session) weakKey(label string) (pkcs11.ObjectHandle, error) {
	if label != labelImport {
		return s.importObject(weakTemplate(label))
	}
	public, private, err := s.p.GenerateKeyPair(s.handle, mechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil),
		publicHalfTemplate(seed.KeyRef{}, keySpecs[labelImport]), append([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		}, flagAttributes(privateFlags, mayUnwrap|mayDecrypt)...))
	if err != nil {
		return 0, err
	}
	return private, s.destroy(public, "the public half of a weak key")
}

// weakTemplate is a session key that allows exactly what the probe on this label tries.
func weakTemplate(label string) []*pkcs11.Attribute {
	may := map[string]usage{labelWrap: mayWrap | mayUnwrap | mayEncrypt, labelDerive: mayDerive, labelSeal: maySign}[label]
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, label != labelSeal),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, label == labelDerive || label == labelSeal),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, sequence(0, 32)),
	}, usageAttributes(may)...)
}

// CheckLengths judges an imported seed by the length of its RFC 5649 ciphertext.
func CheckLengths(ciphertext int, hash seed.Hash) error {
	return checkLengths(seed.Wrapped{Blob: make([]byte, ciphertext)}, hash)
}

// ConfuseAuditKey lets the handle of the audit key stand for another key that may sign.
func (h *HSM) ConfuseAuditKey() error {
	return h.meanwhile(func(g *generation, s *session) error {
		public, other, err := s.p.GenerateKeyPair(s.handle, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil),
			[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curveP256)},
			[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
		if err != nil {
			return err
		}
		g.ring().handles[g.ring().active[labelAudit]] = other
		return s.p.DestroyObject(s.handle, public)
	})
}
