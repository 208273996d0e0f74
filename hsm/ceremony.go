package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ramzban/keyservice/seed"
)

// ErrRefused is in the error of a key ceremony that was not held: the plan, the HSM or what was typed is not as it must
// be, and nothing was made. The same ceremony again does not help before that is mended.
var ErrRefused = errors.New("the key ceremony is refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// CeremonyPlan is what a key ceremony is to leave in the HSM.
type CeremonyPlan struct {
	Keys  []PlannedKey
	Known []KnownAnswer // noted at earlier ceremonies of this HSM: their keys must be there and give them
}

// PlannedKey is one version of a master key that the ceremony makes or adopts.
type PlannedKey struct {
	Key    seed.KeyRef
	Origin Origin
	KCV    []byte // key check value, as Keys has it; of a key to be generated nobody knows it before: nil
}

// FirstKeys plans the first version of every master key, generated in the HSM.
func FirstKeys() []PlannedKey {
	var keys []PlannedKey
	for _, label := range labels {
		keys = append(keys, PlannedKey{Key: seed.KeyRef{Label: label, Version: 1}, Origin: Generated})
	}
	return keys
}

// CeremonyRecord is what the HSM holds: before the ceremony as Inspect finds it, and after it.
type CeremonyRecord struct {
	Module ModuleInfo
	Token  TokenInfo
	Before []CeremonyKey // there before, and known
	Keys   []CeremonyKey // the plan's, in its order; what is still to be made has neither KCV nor attributes

	KnownAnswers []KnownAnswer // of all keys, the earlier ones first
}

// CeremonyKey is one key as it was read back.
type CeremonyKey struct {
	Key        seed.KeyRef
	Origin     Origin
	KCV        []byte
	Attributes []ReadAttribute
	Public     []byte // DER SubjectPublicKeyInfo of a private key; else nil
}

// ReadAttribute is one attribute of a key as the HSM reports it, in words.
type ReadAttribute struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Check refuses a plan that no HSM could satisfy, in one line.
func (p CeremonyPlan) Check() error {
	if len(p.Keys) == 0 {
		return refuse("the plan names no keys")
	}
	if err := validateAnswers(p.Known); err != nil {
		return refuse("%w", err)
	}
	seen := map[seed.KeyRef]bool{}
	for _, k := range p.Keys {
		if err := k.check(); err != nil {
			return err
		}
		if seen[k.Key] {
			return refuse("the plan names %s twice", k.Key)
		}
		seen[k.Key] = true
		if _, known := p.known(k.Key); known {
			return refuse("%s has a known answer from an earlier ceremony: plan another version", k.Key)
		}
	}
	return p.checkComplete()
}

func (k PlannedKey) check() error {
	spec, known := keySpecs[k.Key.Label]
	switch {
	case !known:
		return refuse("no master key is labelled %q: use one of %s", k.Key.Label, strings.Join(labels, ", "))
	case k.Key.Version == 0:
		return refuse("the versions of %s begin with 1", k.Key.Label)
	case !slices.Contains(origins, k.Origin):
		return refuse("%s: no key comes from %q: use generate, vendor-clone or components", k.Key, k.Origin)
	case k.Origin == Components && spec.private():
		return refuse("%s is a key pair, which has no components: generate it", k.Key)
	case k.Origin == Generated && k.KCV != nil:
		return refuse("%s is to be generated: nobody can know its key check value before", k.Key)
	case k.Origin != Generated && len(k.KCV) != spec.checkValueLength():
		return refuse("%s needs a key check value of %d bytes, so that no other key is taken for it", k.Key, spec.checkValueLength())
	}
	return nil
}

// checkComplete: the service needs a version of each label, and this ceremony the audit key.
func (p CeremonyPlan) checkComplete() error {
	for _, label := range labels {
		has := func(ref seed.KeyRef) bool { return ref.Label == label }
		if !slices.ContainsFunc(p.Keys, func(k PlannedKey) bool { return has(k.Key) }) &&
			!slices.ContainsFunc(p.Known, func(a KnownAnswer) bool { return has(a.Key) }) {
			return refuse("%s%s is neither in the plan nor among the known answers: the service needs a version of it", labelPrefix, label)
		}
	}
	return nil
}

func (p CeremonyPlan) known(ref seed.KeyRef) (KnownAnswer, bool) {
	i := slices.IndexFunc(p.Known, func(a KnownAnswer) bool { return a.Key == ref })
	if i < 0 {
		return KnownAnswer{}, false
	}
	return p.Known[i], true
}

func (p CeremonyPlan) planned(ref seed.KeyRef) (PlannedKey, bool) {
	i := slices.IndexFunc(p.Keys, func(k PlannedKey) bool { return k.Key == ref })
	if i < 0 {
		return PlannedKey{}, false
	}
	return p.Keys[i], true
}

// Inspect reads the HSM, changes nothing, and refuses what Hold would refuse. It must not run while the module is open in
// this process. config.KnownAnswers is not used.
func Inspect(ctx context.Context, config Config, plan CeremonyPlan) (CeremonyRecord, error) {
	c := ceremony{plan: plan}
	if err := plan.Check(); err != nil {
		return c.record, err
	}
	config.KnownAnswers = plan.Known
	err := administer(config, func(g *generation) error {
		return g.workers.withSession(ctx, func(s *session) error { return c.inspect(g, s) })
	})
	return c.record, err
}

// Publish keeps the record of a ceremony. sign makes signatures under the newest audit key: ECDSA over the SHA-256 of the
// message.
type Publish func(record CeremonyRecord, sign func(message []byte) (seed.Signature, error)) error

// Hold makes the planned keys, proves them on a module that was finalised in between, so that what did not reach the
// HSM's memory is missed, and has their record published. values are the keys to be put together from components, which
// Combine made; they are wiped.
//
// When any of it fails, publish included, all keys that were made are destroyed again; if that fails too, the error names
// those that are left. After publish has succeeded the ceremony stands, whatever the error says.
//
// It must not run while the module is open in this process. config.KnownAnswers is not used.
func Hold(ctx context.Context, config Config, plan CeremonyPlan, values map[seed.KeyRef][]byte, publish Publish) error {
	defer wipe(values)
	c := ceremony{plan: plan}
	if err := plan.Check(); err != nil {
		return err
	}
	if err := c.checkValues(values); err != nil {
		return err
	}
	config.KnownAnswers = plan.Known
	return withModule(config, func(m *module) error { return c.hold(ctx, m, values, publish) })
}

// ceremony is a plan and how far it has come.
type ceremony struct {
	plan      CeremonyPlan
	record    CeremonyRecord
	run       []byte // CKA_ID of every key that this run makes; nil before the first
	published bool
}

func (c *ceremony) hold(ctx context.Context, m *module, values map[seed.KeyRef][]byte, publish Publish) error {
	err := m.administer(func(g *generation) error {
		return g.workers.once(ctx, false, func(s *session) error { return c.make(ctx, g, s, values) })
	})
	if err == nil {
		err = m.administer(func(g *generation) error {
			return g.workers.once(ctx, false, func(s *session) error { return c.prove(g, s, publish) })
		})
	}
	switch {
	case err == nil:
		return nil
	case c.published:
		return fmt.Errorf("the key ceremony was held and its record is kept; afterwards: %w", err)
	}
	return c.undo(m, err)
}

// inspect refuses whatever stands in the way of the plan, and reads what is there.
func (c *ceremony) inspect(g *generation, s *session) error {
	var err error
	if c.record, err = describeToken(g); err != nil {
		return err
	}
	found, err := readKeys(s)
	if err != nil {
		return err
	}
	if err := refuseStrangers(s, found); err != nil {
		return err
	}
	if err := c.passOverDestroyed(found); err != nil {
		return err
	}
	if err := c.matchPlan(found); err != nil {
		return err
	}
	if err := c.read(g, s, found); err != nil {
		return err
	}
	g.answers = c.plan.Known
	return verdict(g.checkKnownAnswers(s))
}

// verdict makes a refusal of what was found out about a key, and leaves a failure to find out as it is.
func verdict(err error) error {
	if _, failed := ckr(err); err == nil || failed {
		return err
	}
	return refuse("%w", err)
}

// passOverDestroyed refuses to make a version that was destroyed, since what is stored under it must never seem to be under
// another key, and drops the known answers of such keys.
func (c *ceremony) passOverDestroyed(found keyring) error {
	for _, k := range c.plan.Keys {
		if found.destroyed[k.Key] {
			return refuse("%s was destroyed, and its version is never used again: plan another one", k.Key)
		}
	}
	c.plan.Known = slices.DeleteFunc(slices.Clone(c.plan.Known), func(a KnownAnswer) bool {
		return found.destroyed[a.Key] && !found.has(a.Key)
	})
	return nil
}

// matchPlan compares what is in the HSM with what the plan and the earlier ceremonies say.
func (c *ceremony) matchPlan(found keyring) error {
	for _, ref := range found.sorted() {
		_, known := c.plan.known(ref)
		planned, inPlan := c.plan.planned(ref)
		switch {
		case known:
		case !inPlan:
			return refuse("%s is in the HSM, but neither in the plan nor among the known answers: name the file that knows it, "+
				"plan it as a vendor-clone, or destroy it with the HSM's own tool if nothing was ever made under it", ref)
		case planned.Origin != VendorClone:
			return refuse("%s is in the HSM already: plan another version", ref)
		}
	}
	for _, a := range c.plan.Known {
		if _, err := found.get(a.Key); err != nil {
			return refuse("%w, but there is a known answer for it: connect the HSM that the known answers are of, or name a "+
				"file that is not there yet", err)
		}
	}
	for _, k := range c.plan.Keys {
		if _, err := found.get(k.Key); err != nil && k.Origin == VendorClone {
			return refuse("%w: clone it into the HSM by its vendor's means first", err)
		}
	}
	return nil
}

// read reads back every key that is there: its attributes, its key check value and its public half. They are the keys of
// the generation from then on.
func (c *ceremony) read(g *generation, s *session, found keyring) error {
	c.record.Before, c.record.Keys = nil, nil
	defer g.keys.Store(&found)
	for _, a := range c.plan.Known {
		k, err := c.readKey(g, s, found, CeremonyKey{Key: a.Key, Origin: a.origin()})
		if err != nil {
			return err
		}
		c.record.Before = append(c.record.Before, k)
	}
	for _, p := range c.plan.Keys {
		k := CeremonyKey{Key: p.Key, Origin: p.Origin}
		if _, there := found.handles[p.Key]; there {
			var err error
			if k, err = c.readKey(g, s, found, k); err != nil {
				return err
			}
			if p.KCV != nil && !slices.Equal(p.KCV, k.KCV) {
				return refuse("%s has key check value %X, not %X as planned: it is another key", p.Key, k.KCV, p.KCV)
			}
		}
		c.record.Keys = append(c.record.Keys, k)
	}
	return nil
}
