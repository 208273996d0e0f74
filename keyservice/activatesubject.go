package keyservice

import (
	"context"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Who activates by class and subject needs no serial, which a stranger would have to find; a card number many know. So
// wrong codes use up no try of the customer's code here but guesses of a budget, whether there is a token or not; and
// until the code is right, every answer is the same, made with the same work.

// activationUse is the use under which a subject's wrong activation codes are counted. No configured use has a slash.
const activationUse = "/activation"

// subjectActivation is everything one decision about an activation without a serial is made from.
type subjectActivation struct {
	token              // that the subject has to make passwords offline; none if its serial is empty
	guesses budget     // of the subject's activation codes
	subject seed.MACed // pseudonym
	code    seed.Code
	rows    []store.Require // besides the token's
}

// activationBySubject decides one activation without a serial, from the store as it is now.
func (s *Service) activationBySubject(ctx context.Context, r ActivateRequest, who owner) (activated token, d decision, err error) {
	dev, bad := parseHolder(r)
	if bad != nil {
		return token{}, refuse(bad.Code, bad.Detail), nil
	}
	who, err = s.still(ctx, who, r.Class, r.Subject)
	if err != nil {
		return token{}, decision{}, err
	}
	a, err := s.subjectActivation(ctx, r, who)
	if err != nil {
		return token{}, decision{}, err
	}
	if why, wait := a.guesses.gate(s.Guess, s.Clock()); why != "" {
		d = a.refused(CodeActivationThrottled, "too many wrong activation codes for this subject: wait, or activate by serial")
		d.refusal.RetryAfter, d.unsettled = wait, true
		return token{}, d, nil
	}
	right, err := s.rightLiveCode(ctx, a)
	if err != nil {
		return token{}, decision{}, err
	}
	if !right {
		d, err = s.wrongCode(a)
		return token{}, d, err
	}
	return s.activateOwn(ctx, a, dev)
}

// subjectActivation loads the token that the subject has to make passwords offline, if there is one, and the budget of its
// codes, which must be there if there is a token.
func (s *Service) subjectActivation(ctx context.Context, r ActivateRequest, who owner) (subjectActivation, error) {
	a := subjectActivation{subject: who.subject, code: r.Code}
	items, err := s.Store.Get(ctx, liveKey(r.Class, KindOffline, who.subject))
	if err != nil {
		return a, storeError(err)
	}
	if items[0].Version != 0 {
		if a.token, err = s.loadLive(ctx, items[0]); err != nil {
			return a, err
		}
	}
	b, it, err := s.loadBudget(ctx, who.subject, activationUse, a.Serial != "")
	a.guesses, a.rows = b, requireItems(append(items, it))
	return a, err
}

// rightLiveCode says whether the token has a code that can still be used, and this is it. Where there is none it works for
// nothing, so that a stranger does not see it from the time.
func (s *Service) rightLiveCode(ctx context.Context, a subjectActivation) (bool, error) {
	if a.Code == nil || s.codeDead(a.token) != nil {
		_, err := s.HSM.Digest(ctx, "decoy", nil)
		return false, err
	}
	code, err := s.makeCode(ctx, a.record)
	return err == nil && sameCode(code, a.code), err
}

// refused makes a decision that changes nothing but the log.
func (a subjectActivation) refused(code Code, why string) decision {
	d := refuse(code, why)
	d.change.Require = append(a.require, a.rows...)
	d.entry.Serial, d.entry.Use = a.Serial, activationUse
	return d
}

// wrongCode makes the decision about a code that is wrong, or dead, or none: one guess is counted.
func (s *Service) wrongCode(a subjectActivation) (decision, error) {
	d := a.refused(CodeActivationWrong, wrongActivation)
	guesses := a.guesses.miss(s.Clock())
	row, err := s.budgetRow(a.subject, activationUse, guesses)
	d.change.Put, d.entry.Budget = []store.Put{row}, guesses.Sequence
	return d, err
}

// activateOwn decides about a right code: it gives the token to the device, or says why not.
func (s *Service) activateOwn(ctx context.Context, a subjectActivation, dev device) (token, decision, error) {
	after, refused, err := a.token, s.activatable(a.token, dev), error(nil)
	if refused == nil {
		after, refused, err = s.enrol(ctx, a.token, dev)
	}
	if err != nil {
		return token{}, decision{}, err
	}
	if refused != nil {
		return token{}, a.refused(refused.Code, refused.Detail), nil
	}
	d, err := s.changed(ctx, a.token, after, nil)
	if err != nil {
		return token{}, decision{}, err
	}
	d.change.Require = append(d.change.Require, a.rows...)
	d.entry.Serial, d.entry.Use = a.Serial, activationUse
	if a.guesses.Run == 0 {
		return after, d, nil
	}
	guesses := a.guesses.success()
	row, err := s.budgetRow(a.subject, activationUse, guesses)
	d.change.Put, d.entry.Budget = append(d.change.Put, row), guesses.Sequence
	return after, d, err
}
