package hsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
)

// runLength is the length in bytes of the CKA_ID that tells the keys of one run from all others.
const runLength = 16

// make makes every key of the plan that is not to be adopted, and reads each back at once. Nothing in it is tried twice:
// a second key under a label would be worse than none.
func (c *ceremony) make(ctx context.Context, g *generation, s *session, values map[seed.KeyRef][]byte) error {
	if err := c.inspect(g, s); err != nil {
		return err
	}
	run, err := s.random(runLength)
	if err != nil {
		return err
	}
	c.run = run
	for _, k := range c.plan.Keys {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted before %s was made: %w", k.Key, context.Cause(ctx))
		}
		if k.Origin == VendorClone {
			continue
		}
		if err := c.makeKey(g, s, k, values[k.Key]); err != nil {
			return err
		}
	}
	found, err := listKeys(s)
	if err != nil {
		return err
	}
	return c.read(g, s, found)
}

func (c *ceremony) makeKey(g *generation, s *session, k PlannedKey, value []byte) (err error) {
	spec := keySpecs[k.Key.Label]
	template := c.ofThisRun(masterTemplate(k.Key, spec, g.cfg.Profile))
	if k.Origin == Components {
		_, err = s.p.CreateObject(s.handle, componentTemplate(template, value, k.KCV))
	} else {
		err = s.generate(spec, template, c.ofThisRun(publicHalfTemplate(k.Key, spec)))
	}
	switch classify(err, g.cfg.Profile) {
	case classOK:
		return nil
	case classBusy, classOther: // SoftHSM answers CKR_FUNCTION_FAILED
		return fmt.Errorf("create key %s: %w: the HSM may be full: make room in it", k.Key, err)
	}
	return fmt.Errorf("create key %s: %w", k.Key, err)
}

// ofThisRun marks what is made, so that exactly this can be destroyed again. CKA_MODIFIABLE must stay the last attribute.
func (c *ceremony) ofThisRun(template []*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, c.run)}, template...)
}

// componentTemplate makes of a master key's template that of C_CreateObject, which takes the value in place of its length.
// A module that computes key check values refuses a value that does not have this one (PKCS#11 2.40 section 4.8.2); one
// that does not keeps it.
func componentTemplate(template []*pkcs11.Attribute, value, kcv []byte) []*pkcs11.Attribute {
	given := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, value),
		pkcs11.NewAttribute(pkcs11.CKA_CHECK_VALUE, kcv),
	}
	rest := slices.DeleteFunc(slices.Clone(template), func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_VALUE_LEN })
	return append(given, rest...)
}

// prove reads everything anew from a module that has just been initialised, notes the known answers, runs the self-check
// over all keys and has the record published.
func (c *ceremony) prove(g *generation, s *session, publish Publish) (err error) {
	found, err := listKeys(s)
	if err != nil {
		return err
	}
	for _, k := range c.plan.Keys {
		if _, err := found.get(k.Key); err != nil {
			return fmt.Errorf("%w after it was made: the HSM does not keep what it is given; it may be full", err)
		}
	}
	if err := c.read(g, s, found); err != nil {
		return err
	}
	if c.record.KnownAnswers, err = c.answers(g, s); err != nil {
		return err
	}
	g.answers = c.record.KnownAnswers
	for _, check := range []func(*session) error{g.checkWrapping, g.checkRefusals, g.checkKnownAnswers} {
		if err := check(s); err != nil {
			return fmt.Errorf("HSM self-check: %w", err)
		}
	}
	err = publish(c.record, func(message []byte) (seed.Signature, error) { return s.signAudit(found, message) })
	c.published = err == nil
	return err
}

// answers are the known answers of the earlier ceremonies and this one.
func (c *ceremony) answers(g *generation, s *session) ([]KnownAnswer, error) {
	all := slices.Clone(c.plan.Known)
	for _, k := range c.plan.Keys {
		a, err := g.noteAnswer(s, k.Key)
		if err != nil {
			return nil, fmt.Errorf("known answer of %s: %w", k.Key, err)
		}
		a.Origin = k.Origin
		all = append(all, a)
	}
	return all, nil
}

// readKey reads back one key that is there.
func (c *ceremony) readKey(g *generation, s *session, found keyring, k CeremonyKey) (CeremonyKey, error) {
	if err := g.checkFound(s, found, k.Key, k.Origin); err != nil {
		return k, verdict(err)
	}
	k.Attributes = readAttributes(keySpecs[k.Key.Label], k.Origin, g.cfg.Profile)
	read, err := s.masterKey(found, k.Key)
	if err != nil {
		return k, fmt.Errorf("key %s: %w", k.Key, err)
	}
	k.KCV, k.Public = read.KCV, read.Public
	return k, nil
}

// signAudit signs under the newest audit key.
func (s *session) signAudit(ring keyring, message []byte) (seed.Signature, error) {
	ref, key := ring.current(labelAudit)
	digest := sha256.Sum256(message)
	der, err := s.signDigest(key, ring.signers[ref], digest[:])
	return seed.Signature{Key: ref, DER: der}, err
}

// readAttributes are the attributes that checkKey has just read and found to be these.
func readAttributes(spec keySpec, from Origin, p profile.Profile) []ReadAttribute {
	var read []ReadAttribute
	for _, a := range wantedAttributes(spec, from, p) {
		read = append(read, ReadAttribute{a.name, a.words})
	}
	return read
}

// undo destroys what this run made and adds to cause what is left. The module is opened anew for it: what made the
// ceremony fail may have been a lost session or login.
func (c *ceremony) undo(m *module, cause error) error {
	if c.run == nil {
		return cause
	}
	var destroyed, left []string
	err := m.administer(func(g *generation) error {
		return g.workers.once(context.Background(), false, func(s *session) (err error) {
			destroyed, left, err = c.destroyMade(s)
			return err
		})
	})
	switch {
	case err == nil && len(left) == 0 && len(destroyed) == 0:
		return fmt.Errorf("%w: nothing was made", cause)
	case err == nil && len(left) == 0:
		return fmt.Errorf("%w: nothing is left of it, %s destroyed again", cause, strings.Join(destroyed, ", "))
	case len(left) == 0: // not even known
		left = c.made()
	}
	return fmt.Errorf("%w: and NOT undone: destroy what there is of %s with the HSM's own tool, each with CKA_ID %X: %w",
		cause, strings.Join(left, ", "), c.run, err)
}

// made are the keys that this run may have made.
func (c *ceremony) made() []string {
	var names []string
	for _, k := range c.plan.Keys {
		if k.Origin != VendorClone {
			names = append(names, k.Key.String())
		}
	}
	return names
}

// destroyMade destroys every object that bears this run's CKA_ID, and says which are there afterwards.
func (c *ceremony) destroyMade(s *session) (destroyed, left []string, err error) {
	mine := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, c.run)}
	found, err := s.find(mine)
	if err != nil {
		return nil, nil, fmt.Errorf("find what was made: %w", err)
	}
	var failed error
	for _, h := range found {
		name, err := s.label(h)
		if err == nil {
			err = s.p.DestroyObject(s.handle, h)
		}
		if err != nil {
			left, failed = append(left, name), also(failed, err)
		} else {
			destroyed = append(destroyed, name)
		}
	}
	return distinct(destroyed), distinct(left), failed
}

// distinct: both halves of a key pair may carry the label.
func distinct(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// label reads an object's label.
func (s *session) label(h pkcs11.ObjectHandle) (string, error) {
	attrs, err := s.p.GetAttributeValue(s.handle, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	if err != nil {
		return "an object without a label", fmt.Errorf("read the label of an object: %w", err)
	}
	return string(bytes.TrimRight(attrs[0].Value, "\x00")), nil
}
