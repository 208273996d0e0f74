package hsm

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// A destroyed key leaves a mark in the HSM: a data object labelled "ramzban/<label>/<version>/destroyed". It tells every
// node and every later start that the key is missing on purpose, so that its known answer, which may still stand in any
// number of files, is passed over, and that its version is never made again.
const markSuffix = "/destroyed"

func parseMark(label string) (seed.KeyRef, bool) {
	name, ok := strings.CutSuffix(label, markSuffix)
	ref, ours := parseLabel(name)
	return ref, ok && ours
}

func markTemplate(ref seed.KeyRef) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, ref.String()+markSuffix),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, "ramzban"),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, "destroyed"),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
	}
}

// DestroyKey destroys one version of a master key, both halves of a key pair, for ever: nothing that was made under it can
// be used again, seeds still unwrapped included. To destroy it again is no error, so that what an outage interrupted can
// be finished. Other nodes on the same HSM notice by Refresh, or when they next use it.
//
// seed.ErrKeyActive: new things are made under it; seed.ErrKeyNotFound: the HSM does not have it, and has no mark of it. A
// key that is there but was left out, since it is not the one of the ceremony or twice there, is refused by other words.
func (h *HSM) DestroyKey(ctx context.Context, ref seed.KeyRef) error {
	if err := h.alone(ctx); err != nil {
		return err
	}
	defer func() { <-h.changing }()
	var refused error
	err := h.run(ctx, func(g *generation) error {
		return g.writers.withSession(ctx, func(s *session) error {
			found, err := seeKeys(s)
			if err != nil {
				return err
			}
			if refused = destructible(*g.ring(), found, ref); refused != nil {
				return nil
			}
			return h.destroyKey(g, s, found, ref)
		})
	})
	if err != nil {
		return err
	}
	return refused
}

// destructible says why a key cannot be destroyed. That it is not there is no reason if there is a mark.
func destructible(ring, found keyring, ref seed.KeyRef) error {
	switch {
	case found.destroyed[ref] && !found.doubled[ref]:
		return nil
	case found.doubled[ref]:
		return fmt.Errorf("destroy %s: two objects carry the label: destroy the one that is not the master key first", ref)
	case !found.has(ref):
		return fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
	case !ring.has(ref):
		return fmt.Errorf("destroy %s: it is in the HSM, but not proven: add its known answer to hsm.known_answer_file", ref)
	}
	return nil
}

func (h *HSM) destroyKey(g *generation, s *session, found keyring, ref seed.KeyRef) error {
	before := g.ring()
	if err := h.dropKey(g, ref); err != nil { // first: nobody begins to use it any more
		return err
	}
	gone, err := s.erase(found, ref)
	if err != nil && !gone {
		err = also(err, h.bringBack(g, *before, ref))
	}
	if err == nil {
		err = s.checkErased(ref)
	}
	return err
}

// checkErased looks again: "destroyed" must never be said of a key that is still there.
func (s *session) checkErased(ref seed.KeyRef) error {
	found, err := seeKeys(s)
	if err != nil {
		return err
	}
	if _, half := found.publics[ref]; half || found.has(ref) || !found.destroyed[ref] {
		return fmt.Errorf("destroy %s: the HSM said that it did, but did not", ref)
	}
	return nil
}

// dropKey takes a key out of those in use, unless it is active.
func (h *HSM) dropKey(g *generation, ref seed.KeyRef) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g.ring().active[ref.Label] == ref {
		return fmt.Errorf("%w: %s: make another version active before", seed.ErrKeyActive, ref)
	}
	g.keys.Store(new(g.ring().without(ref)))
	return nil
}

// bringBack undoes dropKey when the key could not be destroyed.
func (h *HSM) bringBack(g *generation, before keyring, ref seed.KeyRef) error {
	if !before.has(ref) {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	with := g.ring().clone()
	with.take(before, ref)
	with, err := with.activated(h.using)
	if err == nil {
		g.keys.Store(&with)
	}
	return err
}

// erase marks a key as destroyed and destroys it. gone says that its secret is.
func (s *session) erase(found keyring, ref seed.KeyRef) (gone bool, err error) {
	if !found.destroyed[ref] {
		if _, err := s.p.CreateObject(s.handle, markTemplate(ref)); err != nil {
			return false, fmt.Errorf("mark %s as destroyed: %w", ref, err)
		}
	}
	if h, ok := found.handles[ref]; ok {
		if err := s.destroy(h, ref.String()); err != nil {
			return false, err
		}
	}
	if h, ok := found.publics[ref]; ok {
		return true, s.destroy(h, "the public half of "+ref.String())
	}
	return true, nil
}
