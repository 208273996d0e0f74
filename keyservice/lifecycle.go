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
		return s.changeOf(ctx, serial, fn)
	})
	return err
}

// changeOf decides one change, from the store as it is now.
func (s *Service) changeOf(ctx context.Context, serial string, fn func(token) (token, *Error, error)) (decision, error) {
	before, err := s.load(ctx, serial)
	if err != nil {
		return notFound(err)
	}
	after, refusal, err := fn(before)
	if err != nil {
		return decision{}, err
	}
	return s.changed(ctx, before, after, refusal)
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
		d.entry.Next, d.entry.State = after.state.Next, after.state.Sequence
		return d, err
	}
	d, err := s.save(ctx, after)
	if err != nil {
		return decision{}, err
	}
	return d, s.follow(ctx, before, after, &d)
}

// follow adds what a changed token means for other rows: a code's row lives while the code can be used, the subject's
// live row until the token is deactivated, a use that is new to the token has a guess budget, and a maker's seed names the
// token that got it.
func (s *Service) follow(ctx context.Context, before, after token, d *decision) error {
	was, is := before.codes(), after.codes()
	for _, id := range without(was, is) {
		d.change.Delete = append(d.change.Delete, codeKey(id))
	}
	for _, id := range without(is, was) {
		if err := s.addPointer(codeKey(id), after.Serial, d); err != nil {
			return err
		}
	}
	if before.Maker == nil && after.Maker != nil {
		if err := s.addHolder(after, d); err != nil {
			return err
		}
	}
	if after.Status == Deactivated {
		live, err := s.liveRow(ctx, after)
		if err != nil {
			return err
		}
		d.change.Require = append(d.change.Require, store.Require{Key: live.Key, Version: live.Version})
		d.change.Delete = append(d.change.Delete, live.Key)
	}
	return s.addBudgets(ctx, after, without(after.Uses, before.Uses), d)
}

// codes are the ids of the codes that may wait for the courier.
func (t token) codes() []string {
	var ids []string
	if t.Code != nil {
		ids = append(ids, t.Code.ID)
	}
	for _, ch := range t.state.Challenges {
		ids = append(ids, ch.ID)
	}
	return ids
}

func without(all, these []string) []string {
	var rest []string
	for _, one := range all {
		if !slices.Contains(these, one) {
			rest = append(rest, one)
		}
	}
	return rest
}

// liveRow reads the row that makes this token its subject's live one; a *tampered if it is missing or names another.
func (s *Service) liveRow(ctx context.Context, t token) (store.Item, error) {
	items, err := s.Store.Get(ctx, liveKey(t.Class, t.kind(), t.Subject))
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
		if t.Status = to; to == Deactivated {
			t.forget()
		}
		return t, nil, nil
	})
	if err != nil {
		return "", err
	}
	return to, nil
}

// forget drops what only a live token needs: its secrets, and the SMS passwords that were asked for.
func (t *token) forget() {
	t.Seed, t.Delivery, t.Code, t.PIN, t.Mobile = nil, nil, nil, nil, nil
	t.state.Challenges, t.state.Answered = nil, nil
}

func notWhile(st Status, why string) *Error {
	return &Error{Code: CodeTransition, Detail: fmt.Sprintf("the token is %s: %s", st, why)}
}
