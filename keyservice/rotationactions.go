package keyservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

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

	// AcceptDamaged is how many rows may go on depending on the old version when the rotation is done, if each of them is
	// damaged: at most MaxAccepted.
	AcceptDamaged int `json:"accept_damaged,omitempty"`
}

// keyExecutors are the actions on master keys.
func (s *Service) keyExecutors() map[string]executor {
	return map[string]executor{
		ActionRotate:  {check: s.checkRotation, run: s.rotate},
		ActionRetire:  {check: s.checkRetirement, look: s.lookForDependents, run: s.retire},
		ActionDestroy: {check: s.checkDestruction, look: s.lookForDependents, run: s.destroy, overdue: s.endDestruction},
	}
}

// ringNow returns the key ring as it is stored.
func (s *Service) ringNow(ctx context.Context) (*keyring, error) {
	err := s.followRing(ctx)
	return s.ring.Load(), err
}

func (s *Service) checkRotation(ctx context.Context, p approval.Proposal) (*Error, error) {
	var want KeyRotation
	if err := p.Into(&want); err != nil || !acceptable(want.AcceptDamaged) {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameters are the label of a master key, two versions, from and to, and how many damaged rows are accepted: " + acceptedRange, Err: err}, nil
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
	row := rotation{Label: want.Label, From: want.From, To: want.To, State: RotationRunning, Stage: stageTokens, BegunAt: now, Accepted: want.AcceptDamaged}
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
