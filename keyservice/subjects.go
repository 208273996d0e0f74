package keyservice

import (
	"context"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// SubjectTokens shows a subject's live tokens to an issuer: at most one of each kind, the one for SMS first. None if it
// has none.
func (s *Service) SubjectTokens(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]TokenView, error) {
	if err := s.authorise(ctx, c, authz.ReadToken, ""); err != nil {
		return nil, err
	}
	if err := checkSubject(class, subject); err != nil {
		return nil, err
	}
	who, err := s.ownerOf(ctx, class, subject)
	if err != nil {
		return nil, err
	}
	var views []TokenView
	_, err = s.decide(ctx, c, authz.ReadToken, "", func() (d decision, err error) {
		if who, err = s.still(ctx, who, class, subject); err == nil {
			views, d, err = s.viewAll(ctx, liveKeys(class, who.subject))
		}
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return views, nil
}

// viewAll reads the tokens that these rows name, as of one moment.
func (s *Service) viewAll(ctx context.Context, live []store.Key) ([]TokenView, decision, error) {
	items, err := s.Store.Get(ctx, live...)
	if err != nil {
		return nil, decision{}, storeError(err)
	}
	views, d := []TokenView{}, decision{change: store.Change{Require: requireItems(items)}, entry: audit.Entry{Outcome: audit.Done}}
	for _, it := range items {
		if it.Version == 0 {
			continue
		}
		t, err := s.loadLive(ctx, it)
		if err != nil {
			return nil, decision{}, err
		}
		v, err := s.view(ctx, t)
		if err != nil {
			return nil, decision{}, err
		}
		views = append(views, v)
		d.join(decision{change: store.Change{Require: t.require}, entry: audit.Entry{Outcome: audit.Done, Serial: t.Serial}})
	}
	return views, d, nil
}

// DeactivateSubject ends every live token of a subject in one commit, and returns their serials; none if it has none.
func (s *Service) DeactivateSubject(ctx context.Context, c authz.Caller, class string, subject seed.Subject) ([]string, error) {
	if err := s.authorise(ctx, c, authz.EndSubject, ""); err != nil {
		return nil, err
	}
	if err := checkSubject(class, subject); err != nil {
		return nil, err
	}
	who, err := s.ownerOf(ctx, class, subject)
	if err != nil {
		return nil, err
	}
	unlock, err := s.locks.lock(ctx, who.serials...)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var ended []string
	_, err = s.decide(ctx, c, authz.EndSubject, "", func() (d decision, err error) {
		if who, err = s.still(ctx, who, class, subject); err == nil {
			ended, d, err = s.endAll(ctx, liveKeys(class, who.subject))
		}
		return d, err
	})
	if err != nil {
		return nil, err
	}
	return ended, nil
}

// endAll decides once: every token that one of these rows names ends, and no other takes its place meanwhile.
func (s *Service) endAll(ctx context.Context, live []store.Key) ([]string, decision, error) {
	items, err := s.Store.Get(ctx, live...)
	if err != nil {
		return nil, decision{}, storeError(err)
	}
	ended, all := []string{}, decision{entry: audit.Entry{Outcome: audit.Done}}
	for _, it := range items {
		if it.Version == 0 {
			all.change.Require = append(all.change.Require, store.Require{Key: it.Key})
			continue
		}
		t, err := s.loadLive(ctx, it)
		if err != nil {
			return nil, decision{}, err
		}
		d, err := s.end(ctx, t)
		if err != nil {
			return nil, decision{}, err
		}
		all.join(d)
		ended = append(ended, t.Serial)
	}
	return ended, all, nil
}

// end makes the decision that deactivates one token.
func (s *Service) end(ctx context.Context, t token) (decision, error) {
	after := t
	after.Status = Deactivated
	after.forget()
	d, err := s.changed(ctx, t, after, nil)
	d.entry.Serial = t.Serial
	return d, err
}

// join makes the decision about a further token part of this one: one commit, one entry.
func (d *decision) join(further decision) {
	d.change.Require = append(d.change.Require, further.change.Require...)
	d.change.Put = append(d.change.Put, further.change.Put...)
	d.change.Delete = append(d.change.Delete, further.change.Delete...)
	e := further.entry
	if d.entry.Serial == "" {
		d.entry = e
		return
	}
	d.entry.Also = append(d.entry.Also, audit.Part{Serial: e.Serial, Commitment: e.Commitment, Revision: e.Revision, Next: e.Next, State: e.State})
}

// ImportKey shows the public key (DER SubjectPublicKeyInfo) to which makers of hardware tokens wrap seeds.
func (s *Service) ImportKey(ctx context.Context, c authz.Caller) ([]byte, error) {
	if err := s.authorise(ctx, c, authz.ReadImportKey, ""); err != nil {
		return nil, err
	}
	var key []byte
	_, err := s.decide(ctx, c, authz.ReadImportKey, "", func() (d decision, err error) {
		key, err = s.HSM.ImportKey(ctx)
		return decision{entry: audit.Entry{Outcome: audit.Done}}, err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// checkSubject returns an *Error unless the subject has the form of its class.
func checkSubject(class string, subject seed.Subject) error {
	v := subject.Reveal()
	switch class {
	case ClassCard:
		if len(v) < 16 || len(v) > 19 || !luhnValid(v) {
			return &Error{Code: CodeSubjectInvalid, Detail: "a card number is 16 to 19 digits with a check digit: one of them is mistyped"}
		}
	case ClassAccount:
		if v == "" || len(v) > 64 || strings.ContainsFunc(v, notAccountRune) {
			return &Error{Code: CodeSubjectInvalid, Detail: "an account id is 1 to 64 of the characters A-Z a-z 0-9 . _ -"}
		}
	default:
		return &Error{Code: CodeInvalid, Detail: `class must be "card" or "account"`}
	}
	return nil
}

func notAccountRune(r rune) bool {
	return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
}
