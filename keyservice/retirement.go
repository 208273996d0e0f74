package keyservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
)

// A version is retired, and destroyed, only when a count of the whole database finds nothing that depends on it. It is counted
// when two officers have agreed, by the node that carries it out, however long that takes. Whoever proposes it is told the
// number as well, if there is one at a glance: a proposal must not be a way to keep a node busy.
//
// A damaged row depends on what it says, or may depend on anything, and nobody can bring it to another version. So officers
// may accept some: then as many may be left, if each of them is damaged. What is under a destroyed version is reported as that
// whenever it is met, damaged or not.

// KeyVersion are the parameters of ActionRetire and ActionDestroy.
type KeyVersion struct {
	Label         string `json:"label"`
	Version       uint32 `json:"version"`
	AcceptDamaged int    `json:"accept_damaged,omitempty"` // rows that depend on it and are damaged, at most MaxAccepted
}

// MaxAccepted is how many damaged rows officers can accept in one proposal.
const MaxAccepted = 1000

var acceptedRange = fmt.Sprintf("0 to %d", MaxAccepted)

func acceptable(n int) bool { return n >= 0 && n <= MaxAccepted }

func (v KeyVersion) ref() seed.KeyRef { return seed.KeyRef{Label: v.Label, Version: v.Version} }

// versionIn reads the parameters; a refusal if they are none.
func versionIn(p approval.Proposal) (v KeyVersion, refusal *Error) {
	if err := p.Into(&v); err != nil || !acceptable(v.AcceptDamaged) {
		return v, &Error{Code: CodeDocumentInvalid, Detail: "the parameters are the label and version of a master key, and how many damaged rows are accepted: " + acceptedRange, Err: err}
	}
	return v, nil
}

func (s *Service) checkRetirement(ctx context.Context, p approval.Proposal) (*Error, error) {
	v, refusal := versionIn(p)
	if refusal != nil {
		return refusal, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return nil, err
	}
	_, refusal, err = s.retirable(ctx, ring, v)
	return refusal, err
}

// retirable says why a version cannot be retired, whatever depends on it; nil if it can. A rotation from it must be done; or
// it waits, and officers accept that it will never be: then it is over with the retirement.
func (s *Service) retirable(ctx context.Context, ring *keyring, v KeyVersion) (over []storedRotation, refusal *Error, err error) {
	key := v.ref()
	switch known := ring.find(key); {
	case known == nil:
		return nil, &Error{Code: CodeKeyUnknown, Detail: fmt.Sprintf("%s was never in use, so nothing depends on it: the HSM's own tools remove it", key)}, nil
	case known.Status == KeyActive:
		return nil, &Error{Code: CodeKeyNeeded, Detail: fmt.Sprintf("%s is active: rotate to another version first", key)}, nil
	case known.Status != KeyReadable:
		return nil, &Error{Code: CodeKeyRetired, Detail: fmt.Sprintf("%s is %s already", key, known.Status)}, nil
	}
	all, err := s.rotations(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		if r.from() != key || r.State == RotationDone {
			continue
		}
		if v.AcceptDamaged == 0 || r.Passes == 0 {
			return nil, &Error{Code: CodeRotationRunning, Detail: "the rotation " + r.id + " from it is not done yet"}, nil
		}
		over = append(over, r)
	}
	return over, nil, nil
}

// retire lets no commit carry anything under a version any more.
func (s *Service) retire(ctx context.Context, x *execution) (decision, *Error, error) {
	v, refusal := versionIn(x.Proposal)
	if refusal != nil {
		return decision{}, refusal, nil
	}
	from, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	over, refusal, err := s.retirable(ctx, from, v)
	if err != nil || refusal != nil {
		return decision{}, refusal, err
	}
	found, _, err := s.countedAsOf(ctx, v.counting(x.keep))
	if err != nil {
		return decision{}, nil, err
	}
	if refusal, err = s.needed(ctx, v, found); err != nil || refusal != nil {
		return decision{}, refusal, err
	}
	if err := x.keep(ctx); err != nil {
		return decision{}, nil, err
	}
	d, err := s.changedStatus(ctx, from, v.ref(), KeyRetired)
	d.entry.Detail = fmt.Sprintf("%s is retired%s", v.ref(), accepted(found.of(v.ref())))
	for _, r := range over {
		r.State, r.EndedAt, r.Left = RotationDone, s.Clock().UnixMilli(), found.of(v.ref())
		if err == nil {
			err = s.writeRotation(r, &d)
		}
	}
	return d, nil, err
}

// accepted says for the log that something is left.
func accepted(left Dependents) string {
	if left.Total() == 0 {
		return ""
	}
	return fmt.Sprintf("; accepted as damaged: %s", left)
}

func (s *Service) changedStatus(ctx context.Context, from *keyring, key seed.KeyRef, status KeyStatus) (decision, error) {
	return s.changedRing(ctx, from, func(r *ring) error {
		r.set(key, status, s.Clock().UnixMilli())
		return nil
	})
}

func (s *Service) checkDestruction(ctx context.Context, p approval.Proposal) (*Error, error) {
	v, refusal := versionIn(p)
	if refusal != nil {
		return refusal, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return nil, err
	}
	return destructible(ring, v.ref()), nil
}

// destructible says why a version cannot be destroyed, whatever depends on it; nil if it can.
func destructible(ring *keyring, key seed.KeyRef) *Error {
	v := ring.find(key)
	switch {
	case v == nil:
		return &Error{Code: CodeKeyUnknown, Detail: fmt.Sprintf("%s was never in use, so nothing depends on it: the HSM's own tools remove it", key)}
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
	v, refusal := versionIn(x.Proposal)
	if refusal != nil {
		return decision{}, refusal, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	backups := ""
	if known := ring.find(v.ref()); known == nil || known.Status != KeyDestroyed {
		backups = ring.backupsUnder(v.ref())
		if refusal, err := s.condemn(ctx, x, v); err != nil || refusal != nil {
			return decision{}, refusal, err
		}
		if ring, err = s.ringNow(ctx); err != nil {
			return decision{}, nil, err
		}
	}
	if _, err := s.erase(ctx, v.ref()); err != nil {
		return decision{}, nil, err
	}
	return decision{ring: ring, entry: audit.Entry{Detail: fmt.Sprintf("%s is destroyed in the HSM of %s%s", v.ref(), s.Node, backups)}}, nil, nil
}

// endDestruction ends what the HSM has not carried out in time. What the key ring says is destroyed is: nothing uses it any
// more, it cannot be proposed anew, and its erasure is tried again without the proposal.
func (s *Service) endDestruction(ctx context.Context, x *execution) (decision, *Error, error) {
	v, refusal := versionIn(x.Proposal)
	if refusal != nil {
		return decision{}, refusal, nil
	}
	ring, err := s.ringNow(ctx)
	if err != nil {
		return decision{}, nil, err
	}
	if known := ring.find(v.ref()); known == nil || known.Status != KeyDestroyed {
		return decision{}, overdue(), nil
	}
	detail := fmt.Sprintf("%s is destroyed in the HSM of %s", v.ref(), s.Node)
	if _, err = s.erase(ctx, v.ref()); errors.Is(err, errNotErased) {
		detail, err = fmt.Sprintf("%s is destroyed, and its erasure pending: the HSM of %s still has it, and is asked again", v.ref(), s.Node), nil
	}
	return decision{ring: ring, entry: audit.Entry{Detail: detail}}, nil, err
}

// backupsUnder says which backups may need a retired version, for the log: no count finds them, since they are not in the
// database, but what was backed up after the retirement holds nothing under it.
func (r *ring) backupsUnder(key seed.KeyRef) string {
	v := r.find(key)
	if v == nil || !slices.Contains([]string{wrapLabel, sealLabel, dataLabel, lookupLabel, digestLabel, backupLabel}, key.Label) {
		return ""
	}
	return "; backups from before " + time.UnixMilli(v.Since).UTC().Format(time.RFC3339) + " may need it"
}

// condemn makes it durable that a version will be destroyed, if nothing depends on it. The snapshot is taken after the
// retirement is durable, so nothing that it does not show can come to depend on the version.
func (s *Service) condemn(ctx context.Context, x *execution, v KeyVersion) (refusal *Error, err error) {
	key := v.ref()
	err = x.commit(ctx, func() (decision, error) {
		ring, err := s.ringNow(ctx)
		if err != nil {
			return decision{}, err
		}
		if refusal = destructible(ring, key); refusal != nil {
			return decision{}, refusal
		}
		found, asOf, err := s.countedAsOf(ctx, v.counting(x.keep))
		if err != nil {
			return decision{}, err
		}
		if refusal, err = s.needed(ctx, v, found); err != nil {
			return decision{}, err
		}
		if refusal != nil {
			return decision{}, refusal
		}
		if err := x.keep(ctx); err != nil {
			return decision{}, err
		}
		d, err := s.changedStatus(ctx, ring, key, KeyDestroyed)
		d.entry.Outcome = audit.Begun
		none := "none"
		if found.of(key).Total() > 0 {
			none = "none but damaged ones"
		}
		d.entry.Detail = fmt.Sprintf("%s will be destroyed: %s of %d rows depends on it, %s%s%s", key, none, found.rows, asOf, ring.backupsUnder(key), accepted(found.of(key)))
		return d, err
	})
	if refusal != nil {
		return refusal, nil
	}
	return nil, err
}
