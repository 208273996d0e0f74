package hsm

import (
	"cmp"
	"crypto/ecdsa"
	"fmt"
	"maps"
	"slices"

	"github.com/miekg/pkcs11"

	"ramzban/keyservice/seed"
)

// keyring is the master keys of one generation: handles by label and version. One that a generation uses does not change:
// another takes its place.
type keyring struct {
	handles map[seed.KeyRef]pkcs11.ObjectHandle
	publics map[seed.KeyRef]pkcs11.ObjectHandle // the public halves that are kept in the HSM
	signers map[seed.KeyRef]*ecdsa.PublicKey    // what those are
	active  map[string]seed.KeyRef              // of each label; the highest version unless another was chosen

	// Of keys that were read, not of those in use.
	doubled   map[seed.KeyRef]bool // labels that two objects carry
	destroyed map[seed.KeyRef]bool // marked as destroyed
}

func newKeyring() keyring {
	return keyring{handles: map[seed.KeyRef]pkcs11.ObjectHandle{}, publics: map[seed.KeyRef]pkcs11.ObjectHandle{},
		signers: map[seed.KeyRef]*ecdsa.PublicKey{}, active: map[string]seed.KeyRef{},
		doubled: map[seed.KeyRef]bool{}, destroyed: map[seed.KeyRef]bool{}}
}

func (k keyring) clone() keyring {
	return keyring{handles: maps.Clone(k.handles), publics: maps.Clone(k.publics), signers: maps.Clone(k.signers),
		active: maps.Clone(k.active), doubled: maps.Clone(k.doubled), destroyed: maps.Clone(k.destroyed)}
}

func (k keyring) add(ref seed.KeyRef, h pkcs11.ObjectHandle) {
	k.handles[ref] = h
	if ref.Version > k.active[ref.Label].Version {
		k.active[ref.Label] = ref
	}
}

// take adds a version as another ring has it.
func (k keyring) take(from keyring, ref seed.KeyRef) {
	k.add(ref, from.handles[ref])
	if public, ok := from.publics[ref]; ok {
		k.publics[ref] = public
	}
	if signer, ok := from.signers[ref]; ok {
		k.signers[ref] = signer
	}
}

// without is the ring with one version less, which must not be active.
func (k keyring) without(ref seed.KeyRef) keyring {
	c := k.clone()
	delete(c.handles, ref)
	delete(c.publics, ref)
	delete(c.signers, ref)
	return c
}

// activated is the ring with these versions active, and the highest version of any other label; seed.ErrKeyNotFound if it
// lacks one of them.
func (k keyring) activated(versions map[string]seed.KeyRef) (keyring, error) {
	c := k.clone()
	clear(c.active)
	for ref, h := range k.handles {
		c.add(ref, h)
	}
	for label, ref := range versions {
		if _, err := k.get(ref); err != nil {
			return keyring{}, err
		}
		c.active[label] = ref
	}
	return c, nil
}

// sorted returns the versions of all keys, by the order of their labels, then the number.
func (k keyring) sorted() []seed.KeyRef {
	return slices.SortedFunc(maps.Keys(k.handles), func(a, b seed.KeyRef) int {
		return cmp.Or(cmp.Compare(slices.Index(labels, a.Label), slices.Index(labels, b.Label)), cmp.Compare(a.Version, b.Version))
	})
}

func (k keyring) has(ref seed.KeyRef) bool {
	_, ok := k.handles[ref]
	return ok
}

// get returns the handle of one version; seed.ErrKeyNotFound if the HSM does not have it.
func (k keyring) get(ref seed.KeyRef) (pkcs11.ObjectHandle, error) {
	h, ok := k.handles[ref]
	if !ok {
		return 0, fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
	}
	return h, nil
}

// current returns the active version of a label. Every label has one: complete refuses otherwise.
func (k keyring) current(label string) (seed.KeyRef, pkcs11.ObjectHandle) {
	ref := k.active[label]
	return ref, k.handles[ref]
}

// newestFirst returns the versions of a label, the highest first.
func (k keyring) newestFirst(label string) []seed.KeyRef {
	all := slices.DeleteFunc(k.sorted(), func(ref seed.KeyRef) bool { return ref.Label != label })
	slices.Reverse(all)
	return all
}

// complete refuses a label without a key.
func (k keyring) complete() error {
	for _, label := range labels {
		if _, ok := k.active[label]; !ok {
			return fmt.Errorf("%w: %s%s/1 is missing: hold a key ceremony, or check hsm.token_label",
				seed.ErrKeyNotFound, labelPrefix, label)
		}
	}
	return nil
}

// single refuses two objects under one label.
func (k keyring) single(refs ...seed.KeyRef) error {
	for _, ref := range refs {
		if k.doubled[ref] {
			return fmt.Errorf("%w: two objects are labelled %s: destroy or rename the one that is not the master key",
				seed.ErrKeyNotFound, ref)
		}
	}
	return nil
}
