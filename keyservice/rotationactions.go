package keyservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// What is done to master keys under dual control.
const (
	ActionRotate  = "keys.rotate"
	ActionRetire  = "keys.retire"
	ActionDestroy = "keys.destroy"
)

// KeyRotation are the parameters of ActionRotate: new things of a label are made under another version.
type KeyRotation struct {
	Label string `json:"label"`
	From  uint32 `json:"from"` // the version that is active when it is proposed: it must still be, when it is carried out
	To    uint32 `json:"to"`
}

// KeyVersion are the parameters of ActionRetire and ActionDestroy.
type KeyVersion struct {
	Label   string `json:"label"`
	Version uint32 `json:"version"`
}

func (v KeyVersion) ref() seed.KeyRef { return seed.KeyRef{Label: v.Label, Version: v.Version} }

var noKeyVersion = &Error{Code: CodeDocumentInvalid, Detail: "the parameters are the label and version of a master key"}

// keyExecutors are the actions on master keys.
func (s *Service) keyExecutors() map[string]executor {
	return map[string]executor{
		ActionRotate:  {check: s.checkRotation, run: s.rotate},
		ActionRetire:  {check: s.checkRetirement, run: s.retire},
		ActionDestroy: {check: s.checkDestruction, run: s.destroy},
	}
}

// ringNow returns the key ring as it is stored.
func (s *Service) ringNow(ctx context.Context) (*keyring, error) {
	err := s.followRing(ctx)
	return s.ring.Load(), err
}

func (s *Service) checkRotation(ctx context.Context, p approval.Proposal) (*Error, error) {
	var want KeyRotation
	if err := p.Into(&want); err != nil {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameters are the label of a master key, and two versions: from and to", Err: err}, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return nil, err
	}
	_, refusal, err := s.rotatable(ctx, ring, want)
	return refusal, err
}

// rotatable finds the key that a label is to be rotated to, or says why it cannot be.
func (s *Service) rotatable(ctx context.Context, ring *keyring, want KeyRotation) (seed.MasterKey, *Error, error) {
	to := seed.KeyRef{Label: want.Label, Version: want.To}
	active, known := ring.activeOf(want.Label), ring.find(to)
	switch {
	case active.Version == 0:
		return seed.MasterKey{}, &Error{Code: CodeKeyUnknown, Detail: "no master key has this label"}, nil
	case active.Version != want.From:
		return seed.MasterKey{}, &Error{Code: CodeProposalClosed, Detail: fmt.Sprintf("the active version is %d now, not %d", active.Version, want.From)}, nil
	case want.From == want.To:
		return seed.MasterKey{}, &Error{Code: CodeInvalid, Detail: "from and to are the same version"}, nil
	case known != nil && known.Status != KeyReadable:
		return seed.MasterKey{}, &Error{Code: CodeKeyRetired, Detail: fmt.Sprintf("%s is %s and is never used again: make another version", to, known.Status)}, nil
	}
	if refusal, err := s.inItsWay(ctx, want); refusal != nil || err != nil {
		return seed.MasterKey{}, refusal, err
	}
	key, err := s.masterKey(ctx, to)
	if errors.Is(err, seed.ErrKeyNotFound) {
		return key, &Error{Code: CodeKeyUnknown, Detail: fmt.Sprintf("the HSM has no key %s that gives its known answer: make it at a key ceremony first", to), Err: err}, nil
	}
	return key, nil, err
}

// inItsWay says which other rotation of the label a rotation must wait for; nil if for none. One that has renewed all that
// it can, and waits for the rest, is in nobody's way: what it waits for, such as customers who are seen once in years, then
// moves to the version that is active by then. But what such a rotation is to end cannot become active again meanwhile.
func (s *Service) inItsWay(ctx context.Context, want KeyRotation) (*Error, error) {
	all, err := s.rotations(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		switch {
		case r.Label != want.Label || r.State == RotationDone:
		case r.From == want.To:
			return &Error{Code: CodeRotationRunning, Detail: fmt.Sprintf("the rotation %s from %s is not done: rotate to another version", r.id, r.from())}, nil
		case r.Passes == 0 && r.State != RotationWaiting:
			return &Error{Code: CodeRotationRunning, Detail: fmt.Sprintf("the rotation %s of this label is %s in its first pass: wait until it is through", r.id, r.State)}, nil
		}
	}
	return nil, nil //nolint:nilnil // none
}

// masterKey finds a version in the HSM, also one that was made since the HSM was opened.
func (s *Service) masterKey(ctx context.Context, ref seed.KeyRef) (seed.MasterKey, error) {
	var left error
	for try := range 2 {
		all, err := s.HSM.Keys(ctx)
		if err != nil {
			return seed.MasterKey{}, err
		}
		if i := slices.IndexFunc(all, func(m seed.MasterKey) bool { return m.Key == ref }); i >= 0 {
			return all[i], nil
		}
		if try == 0 {
			if left = s.HSM.Refresh(ctx); errors.Is(left, seed.ErrUnavailable) {
				return seed.MasterKey{}, left
			}
		}
	}
	return seed.MasterKey{}, fmt.Errorf("%w: %s: %w", seed.ErrKeyNotFound, ref, cmp.Or(left, errors.New("there is none")))
}

// rotate changes the key ring, and leaves what is stored to the job of rotations.
func (s *Service) rotate(ctx context.Context, x *execution) (decision, *Error, error) {
	var want KeyRotation
	if err := x.Proposal.Into(&want); err != nil {
		return decision{}, nil, err
	}
	from, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	key, refusal, err := s.rotatable(ctx, from, want)
	if err != nil || refusal != nil {
		return decision{}, refusal, err
	}
	now := s.Clock().UnixMilli()
	d, err := s.changedRing(ctx, from, func(r *ring) error {
		r.set(from.activeOf(want.Label), KeyReadable, now)
		r.add(key)
		r.set(key.Key, KeyActive, now)
		return nil
	})
	if err != nil {
		return decision{}, nil, err
	}
	d.entry.Detail = fmt.Sprintf("%s/%d is active in place of %d", want.Label, want.To, want.From)
	row := rotation{Label: want.Label, From: want.From, To: want.To, State: RotationRunning, Stage: stageTokens, BegunAt: now}
	return d, nil, s.writeRotation(storedRotation{row, x.ID, store.Require{Key: rotationKey(x.ID)}}, &d)
}

// set gives a version of the ring a status.
func (r *ring) set(key seed.KeyRef, status KeyStatus, now int64) {
	v := r.find(key)
	v.Status, v.Since = status, now
}

// add adds a version that the ring does not know yet, behind those of its label.
func (r *ring) add(key seed.MasterKey) {
	if r.find(key.Key) != nil {
		return
	}
	at := 0
	for i, v := range r.Versions {
		if v.Key.Label == key.Key.Label {
			at = i + 1
		}
	}
	r.Versions = slices.Insert(r.Versions, at, keyVersion{Key: key.Key, KCV: key.KCV, Public: key.Public})
}

func (s *Service) checkRetirement(ctx context.Context, p approval.Proposal) (*Error, error) {
	var v KeyVersion
	if p.Into(&v) != nil {
		return noKeyVersion, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return nil, err
	}
	return s.retirable(ctx, ring, v.ref())
}

// retirable says why a version cannot be retired; nil if it can.
func (s *Service) retirable(ctx context.Context, ring *keyring, key seed.KeyRef) (*Error, error) {
	v := ring.find(key)
	switch {
	case v == nil:
		return &Error{Code: CodeKeyUnknown, Detail: fmt.Sprintf("%s was never in use", key)}, nil
	case v.Status == KeyActive:
		return &Error{Code: CodeKeyNeeded, Detail: fmt.Sprintf("%s is active: rotate to another version first", key)}, nil
	case v.Status != KeyReadable:
		return &Error{Code: CodeKeyRetired, Detail: fmt.Sprintf("%s is %s already", key, v.Status)}, nil
	}
	all, err := s.rotations(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.from() == key && r.State != RotationDone {
			return &Error{Code: CodeRotationRunning, Detail: "the rotation " + r.id + " from it is not done yet"}, nil
		}
	}
	found, err := s.census(ctx)
	return needed(key, found), err
}

// needed says that something depends on a version; nil if nothing does.
func needed(key seed.KeyRef, found census) *Error {
	of := found.of(key)
	if of.Total() == 0 {
		return nil
	}
	return &Error{Code: CodeKeyNeeded, Detail: fmt.Sprintf("%d rows depend on %s: %s", of.Total(), key, of)}
}

// retire lets no commit carry anything under a version any more.
func (s *Service) retire(ctx context.Context, x *execution) (decision, *Error, error) {
	var v KeyVersion
	if err := x.Proposal.Into(&v); err != nil {
		return decision{}, nil, err
	}
	from, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	if refusal, err := s.retirable(ctx, from, v.ref()); err != nil || refusal != nil {
		return decision{}, refusal, err
	}
	if err := x.keep(ctx); err != nil {
		return decision{}, nil, err
	}
	d, err := s.changedStatus(ctx, from, v.ref(), KeyRetired)
	d.entry.Detail = fmt.Sprintf("%s is retired", v.ref())
	return d, nil, err
}

func (s *Service) changedStatus(ctx context.Context, from *keyring, key seed.KeyRef, status KeyStatus) (decision, error) {
	return s.changedRing(ctx, from, func(r *ring) error {
		r.set(key, status, s.Clock().UnixMilli())
		return nil
	})
}

func (s *Service) checkDestruction(ctx context.Context, p approval.Proposal) (*Error, error) {
	var v KeyVersion
	if p.Into(&v) != nil {
		return noKeyVersion, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return nil, err
	}
	if refusal := destructible(ring, v.ref()); refusal != nil {
		return refusal, nil
	}
	found, err := s.census(ctx)
	return needed(v.ref(), found), err
}

// destructible says why a version cannot be destroyed, whatever depends on it; nil if it can.
func destructible(ring *keyring, key seed.KeyRef) *Error {
	v := ring.find(key)
	switch {
	case v == nil:
		return &Error{Code: CodeKeyUnknown, Detail: fmt.Sprintf("%s was never in use", key)}
	case v.Status == KeyDestroyed:
		return &Error{Code: CodeKeyDestroyed, Detail: fmt.Sprintf("%s is destroyed already", key)}
	case v.Status != KeyRetired:
		return &Error{Code: CodeKeyNeeded, Detail: fmt.Sprintf("%s is %s: retire it first", key, v.Status)}
	}
	return nil
}

// destroy destroys a version of a master key for ever. It writes down first that it will, with the count that found nothing
// to depend on it; from then on no node uses it. Whatever happens in between, the next run destroys what is left of it.
func (s *Service) destroy(ctx context.Context, x *execution) (decision, *Error, error) {
	var v KeyVersion
	if err := x.Proposal.Into(&v); err != nil {
		return decision{}, nil, err
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	if known := ring.find(v.ref()); known == nil || known.Status != KeyDestroyed {
		if refusal, err := s.condemn(ctx, x, v.ref()); err != nil || refusal != nil {
			return decision{}, refusal, err
		}
		if ring, err = s.ringNow(ctx); err != nil {
			return decision{}, nil, err
		}
	}
	if err := s.HSM.DestroyKey(ctx, v.ref()); err != nil && !errors.Is(err, seed.ErrKeyNotFound) {
		return decision{}, nil, err
	}
	return decision{ring: ring, entry: audit.Entry{Detail: fmt.Sprintf("%s is destroyed in the HSM of %s", v.ref(), s.Node)}}, nil, nil
}

// condemn makes it durable that a version will be destroyed, if nothing depends on it. The snapshot is taken after the
// retirement is durable, so nothing that it does not show can come to depend on the version.
func (s *Service) condemn(ctx context.Context, x *execution, key seed.KeyRef) (refusal *Error, err error) {
	err = x.commit(ctx, func() (decision, error) {
		ring, err := s.ringNow(ctx)
		if err != nil {
			return decision{}, err
		}
		if refusal = destructible(ring, key); refusal != nil {
			return decision{}, refusal
		}
		found, asOf, err := s.countedAsOf(ctx)
		if err != nil {
			return decision{}, err
		}
		if refusal = needed(key, found); refusal != nil {
			return decision{}, refusal
		}
		if err := x.hold(ctx); err != nil { // the count may take longer than the lease
			return decision{}, err
		}
		d, err := s.changedStatus(ctx, ring, key, KeyDestroyed)
		d.entry.Outcome = audit.Begun
		d.entry.Detail = fmt.Sprintf("%s will be destroyed: none of %d rows depends on it, %s", key, found.rows, asOf)
		return d, err
	})
	if refusal != nil {
		return refusal, nil
	}
	return nil, err
}

// countedAsOf counts what depends on the keys, and says as of which signed checkpoint of this node's log: the newest one
// of the same moment.
func (s *Service) countedAsOf(ctx context.Context) (found census, asOf string, err error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return census{}, "", storeError(err)
	}
	defer snap.Close()
	signed, err := s.storedCheckpoint(ctx, snap, s.Node, nil)
	if err != nil {
		return census{}, "", err
	}
	asOf = "no checkpoint of " + s.Node + " was signed before"
	if signed.row.Version != 0 {
		asOf = fmt.Sprintf("as of checkpoint %d of %s, %s", signed.Tree.N, s.Node, signed.Tree.Hash)
	}
	found, err = s.countIn(ctx, snap)
	return found, asOf, err
}

// dropDestroyed destroys, in this node's HSM, what was destroyed by another node in its own.
func (s *Service) dropDestroyed(ctx context.Context) error {
	ring := s.ring.Load()
	if s.swept.Load() == ring {
		return nil
	}
	all, err := s.HSM.Keys(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if v := ring.find(m.Key); v == nil || v.Status != KeyDestroyed {
			continue
		}
		if err := s.HSM.DestroyKey(ctx, m.Key); err != nil && !errors.Is(err, seed.ErrKeyNotFound) {
			return err
		}
		e := audit.Entry{Outcome: audit.Done, Detail: fmt.Sprintf("%s is destroyed in the HSM of %s", m.Key, s.Node)}
		if _, err := s.commit(ctx, itself, ActionDestroy, decision{entry: e}); err != nil {
			return err
		}
	}
	s.swept.Store(ring)
	return nil
}
