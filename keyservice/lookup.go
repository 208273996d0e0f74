package keyservice

import (
	"context"
	"errors"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A subject is found by its pseudonym, and only who has the card number in hand can make that. So a rotation of the lookup
// key cannot move anybody by itself: a subject moves to the active version at its next sight, as a whole and in one commit:
// its live tokens, the rows that name them and every guess budget. Until then its tokens are found by serial as before.
//
// A subject stands under one version only. Whoever makes something for a subject has seen it, and moved it before. What is
// done by serial may add to what there is, such as a budget for a new use, under the version that the token's record names:
// that commit and the move both require the record as it was, so one of them is decided anew. And each commit requires the
// key ring that it was decided under, so no node makes anything new under a version that is no longer active. So once it was
// seen that nothing of a subject stands under the older versions, nothing will.

const moveSubject authz.Action = "subject.move"

// errNothingToMove: all that is stored of the subject is under the active version.
var errNothingToMove = errors.New("nothing of this subject is under an older version of the lookup key")

// see makes a subject's pseudonym, after moving what is stored under an older one.
func (s *Service) see(ctx context.Context, class string, subject seed.Subject) (owner, error) {
	for range maxConflicts {
		ring := s.ring.Load()
		o, err := s.pseudonyms(ctx, ring, class, subject)
		if err == nil && len(o.older) > 0 {
			err = s.moveAll(ctx, class, o)
		}
		if err == nil {
			return o, nil
		}
		later, lerr := s.later(ctx, ring, err)
		if lerr != nil {
			return owner{}, hsmError(lerr)
		}
		if !later {
			return owner{}, hsmError(s.explainKey(err))
		}
	}
	return owner{}, &Error{Code: CodeBusy, Detail: "the keys are being changed; try again"}
}

// pseudonyms makes those under the active version of the lookup key and every other one that may still be written under.
func (s *Service) pseudonyms(ctx context.Context, ring *keyring, class string, subject seed.Subject) (owner, error) {
	o := owner{under: ring}
	var err error
	if o.subject, err = s.HSM.Pseudonym(ctx, class, subject); err != nil {
		return owner{}, err
	}
	for _, key := range ring.older(lookupLabel) {
		sum, err := s.HSM.PseudonymWith(ctx, key, class, subject)
		if err != nil {
			return owner{}, err
		}
		o.older = append(o.older, seed.MACed{Key: key, Sum: sum})
	}
	return o, nil
}

// still is the owner as of the key ring in use now, which may have changed since it was found.
func (s *Service) still(ctx context.Context, o owner, class string, subject seed.Subject) (owner, error) {
	if o.under == nil || o.under == s.ring.Load() {
		return o, nil
	}
	return s.ownerOf(ctx, class, subject)
}

// moveAll moves what is stored under each of the older pseudonyms.
func (s *Service) moveAll(ctx context.Context, class string, o owner) error {
	for _, from := range o.older {
		there, err := s.standsUnder(ctx, class, from)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		_, err = s.decide(ctx, itself, moveSubject, "", func() (decision, error) { return s.moved(ctx, class, from, o.subject) })
		if err != nil && !errors.Is(err, errNothingToMove) {
			return err
		}
	}
	return nil
}

// standsUnder says whether anything may be stored under this pseudonym. A subject that ever had a token has the budgets that
// come with every token.
func (s *Service) standsUnder(ctx context.Context, class string, from seed.MACed) (bool, error) {
	keys := liveKeys(class, from)
	for _, use := range append([]string{resyncUse, activationUse}, s.Uses...) {
		keys = append(keys, budgetKey(from, use))
	}
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return false, storeError(err)
	}
	for _, it := range items {
		if it.Version != 0 {
			return true, nil
		}
	}
	return false, nil
}

// moved makes the decision that moves everything of a subject from one pseudonym to another. Whatever of it stands under
// the other one already was put back by someone: then it is *tampered.
func (s *Service) moved(ctx context.Context, class string, from, to seed.MACed) (decision, error) {
	d := decision{entry: audit.Entry{Outcome: audit.Done}}
	if err := s.moveLive(ctx, liveKeys(class, from), liveKeys(class, to), to, &d); err != nil {
		return decision{}, err
	}
	if err := s.moveBudgets(ctx, from, to, &d); err != nil {
		return decision{}, err
	}
	if len(d.change.Put) == 0 {
		return decision{}, errNothingToMove
	}
	return d, nil
}

// moveLive moves the subject's live tokens, and the rows that name them.
func (s *Service) moveLive(ctx context.Context, from, to []store.Key, subject seed.MACed, d *decision) error {
	items, err := s.Store.Get(ctx, append(from, to...)...)
	if err != nil {
		return storeError(err)
	}
	for i, old := range items[:len(from)] {
		if old.Version == 0 {
			d.change.Require = append(d.change.Require, store.Require{Key: old.Key})
			continue
		}
		t, err := s.loadLive(ctx, old)
		if err == nil && items[len(from)+i].Version != 0 {
			err = &tampered{what: "live token", err: errors.New("the subject has one under two pseudonyms"), serial: t.Serial}
		}
		if err != nil {
			return err
		}
		t.Subject = subject
		saved, err := s.save(ctx, t)
		if err != nil {
			return err
		}
		saved.entry.Serial = t.Serial
		saved.change.Require = append(saved.change.Require, store.Require{Key: old.Key, Version: old.Version})
		saved.change.Delete = append(saved.change.Delete, old.Key)
		if err := s.addPointer(to[i], t.Serial, &saved); err != nil {
			return err
		}
		d.join(saved)
	}
	return nil
}

// moveBudgets moves the subject's guess budgets as they are, also of uses that are no longer configured.
func (s *Service) moveBudgets(ctx context.Context, from, to seed.MACed, d *decision) error {
	old, err := s.rowsOf(ctx, budgetsOf(from))
	if err != nil {
		return err
	}
	for _, it := range old {
		b, err := unmac[budget](s, it, "guess budget")
		if err != nil {
			return err
		}
		row, err := s.budgetRow(to, string(it.Key[len(budgetsOf(from)):]), b)
		if err != nil {
			return err
		}
		d.change.Require = append(d.change.Require, store.Require{Key: it.Key, Version: it.Version}, store.Require{Key: row.Key})
		d.change.Put = append(d.change.Put, row)
		d.change.Delete = append(d.change.Delete, it.Key)
	}
	return s.noneYet(ctx, d.change)
}

// rowsOf reads the few rows that begin like this.
func (s *Service) rowsOf(ctx context.Context, prefix store.Key) (all []store.Item, err error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	defer snap.Close()
	err = snap.Scan(ctx, prefix, prefix, func(it store.Item) error {
		all = append(all, it)
		return nil
	})
	if err != nil {
		return nil, storeError(err)
	}
	return all, nil
}

// noneYet finds out whether a budget that is to be written is there already: it would be a conflict for ever.
func (s *Service) noneYet(ctx context.Context, change store.Change) error {
	var keys []store.Key
	for _, r := range change.Require {
		if r.Version == 0 {
			keys = append(keys, r.Key)
		}
	}
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return storeError(err)
	}
	for _, it := range items {
		if it.Version != 0 {
			return &tampered{what: "guess budget", err: errors.New("what is stored of the subject stands under two pseudonyms")}
		}
	}
	return nil
}
