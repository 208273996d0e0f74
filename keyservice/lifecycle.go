package keyservice

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// change is how every use case changes one token: authorise, lock, load, let fn decide, and save what it returns with
// the rows that follow from it. A refusal of fn is logged; nothing else is written.
func (s *Service) change(ctx context.Context, c authz.Caller, a authz.Action, serial string, fn func(token) (token, *Error, error)) error {
	if err := s.authorise(ctx, c, a, serial); err != nil {
		return err
	}
	if err := checkSerial(serial); err != nil {
		return err
	}
	unlock, err := s.locks.lock(ctx, serial)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = s.decide(ctx, c, a, serial, func() (decision, error) {
		before, err := s.load(ctx, serial)
		if err != nil {
			return notFound(err)
		}
		after, refusal, err := fn(before)
		if err != nil {
			return decision{}, err
		}
		return s.changed(ctx, before, after, refusal)
	})
	return err
}

// changed makes the decision of a change: refused, or saved. A refusal saves the state if it differs (a wrong code
// uses up a try).
func (s *Service) changed(ctx context.Context, before, after token, refusal *Error) (decision, error) {
	if refusal != nil {
		d := refuse(refusal.Code, refusal.Detail)
		if reflect.DeepEqual(after.state, before.state) {
			return d, nil
		}
		row, err := s.stateRow(&after)
		d.change = store.Change{Require: before.require, Put: []store.Put{row}}
		d.entry.State = after.state.Sequence
		return d, err
	}
	d, err := s.save(ctx, after)
	if err != nil {
		return decision{}, err
	}
	return d, s.follow(ctx, before, after, &d)
}

// follow adds what a changed token means for the rows that point to it: its code's row lives while the code can be
// used, its subject's live row until it is deactivated.
func (s *Service) follow(ctx context.Context, before, after token, d *decision) error {
	if before.Code != nil && (after.Code == nil || after.Code.ID != before.Code.ID) {
		d.change.Delete = append(d.change.Delete, codeKey(before.Code.ID))
	}
	if after.Status == Deactivated {
		live, err := s.liveRow(ctx, after)
		if err != nil {
			return err
		}
		d.change.Require = append(d.change.Require, store.Require{Key: live.Key, Version: live.Version})
		d.change.Delete = append(d.change.Delete, live.Key)
	}
	if after.Code != nil && after.Code.ID != before.Code.ID {
		row, err := s.mac(codeKey(after.Code.ID), pointer{Schema: schema, Serial: after.Serial})
		if err != nil {
			return err
		}
		d.change.Require = append(d.change.Require, store.Require{Key: row.Key})
		d.change.Put = append(d.change.Put, row)
	}
	return nil
}

// liveRow reads the row that makes this token its subject's live one; a *tampered if it is missing or names another.
func (s *Service) liveRow(ctx context.Context, t token) (store.Item, error) {
	items, err := s.Store.Get(ctx, liveKey(t.Class, t.kind(), t.Subject.Sum))
	if err != nil {
		return store.Item{}, storeError(err)
	}
	p, err := unmac[pointer](s, items[0], "live token")
	if err == nil && p.Serial != t.Serial {
		err = &tampered{what: "live token", err: errors.New("another token is the subject's live one"), serial: t.Serial}
	}
	return items[0], err
}

// Suspend refuses the token's passwords until it is resumed.
func (s *Service) Suspend(ctx context.Context, c authz.Caller, serial string) (Status, error) {
	return s.transition(ctx, c, authz.SuspendToken, serial, Suspended, Active)
}

// Resume accepts the token's passwords again.
func (s *Service) Resume(ctx context.Context, c authz.Caller, serial string) (Status, error) {
	return s.transition(ctx, c, authz.ResumeToken, serial, Active, Suspended)
}

// Deactivate ends a token for ever and forgets its seed; the subject may then be issued another.
func (s *Service) Deactivate(ctx context.Context, c authz.Caller, serial string) (Status, error) {
	return s.transition(ctx, c, authz.DeactivateToken, serial, Deactivated, Issued, Pending, Active, Suspended)
}

func (s *Service) transition(ctx context.Context, c authz.Caller, a authz.Action, serial string, to Status, from ...Status) (Status, error) {
	err := s.change(ctx, c, a, serial, func(t token) (token, *Error, error) {
		if !slices.Contains(from, t.Status) {
			return t, notWhile(t.Status, fmt.Sprintf("only from %s can a token become %s", oneOf(from), to)), nil
		}
		t.Status = to
		if to == Deactivated {
			t.Seed, t.Delivery, t.Code = nil, nil, nil
		}
		return t, nil, nil
	})
	if err != nil {
		return "", err
	}
	return to, nil
}

func notWhile(st Status, why string) *Error {
	return &Error{Code: CodeTransition, Detail: fmt.Sprintf("the token is %s: %s", st, why)}
}
