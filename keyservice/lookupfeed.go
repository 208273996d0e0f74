package keyservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A rotation of the lookup key ends when every customer was seen once. Those who are not seen by themselves are fed: two
// officers agree that a list of card numbers is read in, and then an officer hands it over, in parts. The list itself is
// kept nowhere. Who is fed twice, or is nobody's customer, does no harm.
//
// The answer does not say whom it moved: a list of one would tell an officer whose card it is. How long the answer takes still
// can, and what `ramzban keys` counts before and after; both leave their entries in the log.

// ActionFeed opens a feed of subjects.
const ActionFeed = "subjects.feed"

// SubjectFeed are the parameters of ActionFeed.
type SubjectFeed struct {
	Days int `json:"days"` // how long subjects may be fed, 1 to 30
}

// MaxFed is how many subjects one call of FeedSubjects takes.
const MaxFed = 500

// FedSubject is a customer by its class and card number or account id.
type FedSubject struct {
	Class   string
	Subject seed.Subject
}

// FedResult says what became of one part of a feed.
type FedResult struct {
	Fed       int   // are moved, or nothing was stored of them under an older version: which of the two, nobody is told
	Malformed []int // indexes of what is no subject; the others were fed all the same
}

func feedKey(id string) store.Key { return store.Key("u/" + id) }

const feedRow = "subject feed" // as errors name it

// feed is the row of an open feed. On disk it is CBOR with these integer keys under the state MAC.
type feed struct {
	Schema uint8 `cbor:"0,keyasint"`
	Until  int64 `cbor:"1,keyasint"` // Unix milliseconds, the store's clock: one for all nodes
}

func (s *Service) checkFeed(_ context.Context, p approval.Proposal) (*Error, error) {
	var want SubjectFeed
	if err := p.Into(&want); err != nil || want.Days < 1 || want.Days > 30 {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameter is days: how long subjects may be fed, 1 to 30", Err: err}, nil
	}
	return nil, nil //nolint:nilnil // nothing is wrong
}

// openFeed lets officers feed subjects from now on.
func (s *Service) openFeed(ctx context.Context, x *execution) (decision, *Error, error) {
	var want SubjectFeed
	if err := x.Proposal.Into(&want); err != nil {
		return decision{}, nil, err
	}
	now, err := s.Store.Now(ctx)
	if err != nil {
		return decision{}, nil, storeError(err)
	}
	ring, until := s.ring.Load(), now.AddDate(0, 0, want.Days)
	row, err := s.mac(feedKey(x.ID), feed{Schema: schema, Until: until.UnixMilli()})
	return decision{
		ring:   ring,
		change: store.Change{Require: []store.Require{{Key: row.Key}}, Put: []store.Put{row}},
		entry:  audit.Entry{Detail: "until " + until.UTC().Format(time.RFC3339)},
	}, nil, err
}

// FeedSubjects moves customers to the active version of the lookup key, under the proposal that opened the feed.
func (s *Service) FeedSubjects(ctx context.Context, c authz.Caller, id string, subjects []FedSubject) (FedResult, error) {
	var result FedResult
	err := s.asOfficer(ctx, c, authz.FeedSubjects, func() (decision, error) {
		refusal, err := s.feedable(ctx, id, subjects)
		if refusal != nil {
			return refuse(refusal.Code, refusal.Detail), nil
		}
		if err == nil {
			result, err = s.feedAll(ctx, subjects)
		}
		detail := fmt.Sprintf("%d fed, %d malformed", result.Fed, len(result.Malformed))
		return decision{entry: audit.Entry{Outcome: audit.Done, Proposal: id, Detail: detail}}, err
	})
	if err != nil {
		return FedResult{}, err
	}
	return result, nil
}

// feedable says why nothing can be fed now; nil if it can.
func (s *Service) feedable(ctx context.Context, id string, subjects []FedSubject) (*Error, error) {
	closed := &Error{Code: CodeProposalClosed, Detail: "no feed is open under this id: propose subjects.feed, and let another officer approve it"}
	if !proposalID.MatchString(id) {
		return closed, nil
	}
	if len(subjects) == 0 || len(subjects) > MaxFed {
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("feed 1 to %d subjects at once", MaxFed)}, nil
	}
	items, err := s.Store.Get(ctx, feedKey(id))
	if err != nil {
		return nil, storeError(err)
	}
	if items[0].Version == 0 {
		return closed, nil
	}
	f, err := unmac[feed](s, items[0], feedRow)
	if err == nil && f.Schema != schema {
		err = &tampered{what: feedRow, err: errors.New("not a row of this version")}
	}
	if err != nil {
		return nil, err
	}
	now, err := s.Store.Now(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	if now.UnixMilli() >= f.Until {
		return closed, nil
	}
	return nil, nil //nolint:nilnil // nothing is wrong
}

func (s *Service) feedAll(ctx context.Context, subjects []FedSubject) (result FedResult, err error) {
	for i, f := range subjects {
		if checkSubject(f.Class, f.Subject) != nil {
			result.Malformed = append(result.Malformed, i)
			continue
		}
		if _, err := s.see(ctx, f.Class, f.Subject); err != nil {
			return result, err
		}
		result.Fed++
	}
	return result, nil
}
