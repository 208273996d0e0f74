package keyservice

import (
	"context"
	"errors"
	"slices"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// token is a token as loaded: both rows, checked, with the versions a decision about it depends on.
type token struct {
	record
	state   state
	require []store.Require
	over    []store.Key // code rows of challenges that are over
}

// load reads and checks a token. An unknown serial gives an *Error, a row that fails its check a *tampered that names it.
func (s *Service) load(ctx context.Context, serial string) (token, error) {
	t, err := s.loadRows(ctx, serial)
	var tam *tampered
	if errors.As(err, &tam) {
		tam.serial = serial
	}
	return t, err
}

func (s *Service) loadRows(ctx context.Context, serial string) (token, error) {
	items, err := s.get(ctx, recordKey(serial), stateRowKey(serial))
	if err != nil {
		return token{}, storeError(err)
	}
	if items[0].Version == 0 {
		return token{}, &Error{Code: CodeTokenNotFound, Detail: "no token has this serial"}
	}
	r, err := s.unseal(ctx, items[0], true)
	if err != nil {
		return token{}, err
	}
	if err := s.ring.Load().readable(r.keys()); err != nil {
		return token{}, &tampered{what: "token record", err: err}
	}
	return s.tokenOf(r, items[1])
}

// tokenOf joins a record with its state.
func (s *Service) tokenOf(r record, it store.Item) (token, error) {
	st, err := unmac[state](s, it, "token state")
	if err != nil {
		return token{}, err
	}
	if st.Revision != r.Revision || st.Schema != schema {
		return token{}, &tampered{what: "token state", err: errors.New("record and state are not of the same revision")}
	}
	// Whoever writes the record writes the state with it: save does. So the state's version stands for both.
	return token{record: r, state: st, require: requireItems([]store.Item{it})}, nil
}

func requireItems(items []store.Item) []store.Require {
	require := make([]store.Require, len(items))
	for i, it := range items {
		require[i] = store.Require{Key: it.Key, Version: it.Version}
	}
	return require
}

// save makes the rows of a changed token: a new revision of the record, and the state that goes with it.
func (s *Service) save(ctx context.Context, t token) (decision, error) {
	t.Revision++
	t.state.Revision = t.Revision
	r, err := s.seal(ctx, t.record)
	if err != nil {
		return decision{}, err
	}
	st, err := s.stateRow(&t)
	return decision{
		change: store.Change{Require: t.require, Put: []store.Put{r, st}},
		entry: audit.Entry{
			Outcome: audit.Done, Revision: t.Revision, Next: t.state.Next, State: t.state.Sequence, Commitment: t.commitment(),
		},
	}, err
}

// stateRow makes the row of a changed state, under its next sequence number.
func (s *Service) stateRow(t *token) (store.Put, error) {
	if err := s.ring.Load().allWritable(t.state.keys()); err != nil {
		return store.Put{}, err
	}
	t.state.Schema = schema
	t.state.Sequence++
	return s.mac(stateRowKey(t.Serial), t.state)
}

// TokenView is what an issuer may see of a token; no secret is in it.
type TokenView struct {
	Serial    string
	Class     string
	Channel   string
	Profile   string
	Uses      []string
	Status    Status
	LastFour  string // of the subject
	Mobile    string // masked: the first and last four digits; empty if none was given
	Drift     time.Duration
	CreatedAt time.Time
	DeviceID  string // empty before activation
	PINSet    bool   // the customer's PIN, if the passwords take one, is set
	Guesses   []UseGuesses
}

// UseGuesses says how one use of a token stands: whether the customer is held up there, and for how long.
type UseGuesses struct {
	Use        string
	Misses     int           // guesses in the window that were looked at
	Held       Reason        // ReasonThrottled or ReasonLocked; empty while passwords are looked at
	RetryAfter time.Duration // until they are again
}

// Token shows a token to an issuer.
func (s *Service) Token(ctx context.Context, c authz.Caller, serial string) (TokenView, error) {
	if err := s.authorise(ctx, c, authz.ReadToken, serial); err != nil {
		return TokenView{}, err
	}
	if err := checkSerial(serial); err != nil {
		return TokenView{}, err
	}
	var v TokenView
	_, err := s.decide(ctx, c, authz.ReadToken, serial, func() (decision, error) {
		t, err := s.load(ctx, serial)
		if err != nil {
			return notFound(err)
		}
		v, err = s.view(ctx, t)
		return decision{change: store.Change{Require: t.require}, entry: audit.Entry{Outcome: audit.Done}}, err
	})
	if err != nil {
		return TokenView{}, err
	}
	return v, nil
}

func (s *Service) view(ctx context.Context, t token) (TokenView, error) {
	lastFour, err := s.HSM.Decrypt(ctx, lastFourAAD(t.Serial), t.LastFour)
	if err != nil {
		return TokenView{}, err
	}
	mobile, err := s.mobile(ctx, t.record)
	if err != nil {
		return TokenView{}, err
	}
	v := TokenView{
		Serial: t.Serial, Class: t.Class, Channel: t.Channel, Profile: t.Profile, Uses: slices.Clone(t.Uses), Status: t.Status,
		LastFour: string(lastFour), Mobile: masked(mobile), Drift: t.state.Drift, CreatedAt: time.UnixMilli(t.CreatedAt).UTC(),
		PINSet: t.PIN != nil,
	}
	if v.Guesses, err = s.useGuesses(ctx, t); err != nil {
		return TokenView{}, err
	}
	if t.Device != nil {
		v.DeviceID = t.Device.ID
	}
	return v, nil
}

// useGuesses reads how each use of the token stands.
func (s *Service) useGuesses(ctx context.Context, t token) ([]UseGuesses, error) {
	all, now := make([]UseGuesses, len(t.Uses)), s.Clock()
	for i, use := range t.Uses {
		b, _, err := s.loadBudget(ctx, t.Subject, use, t.Status != Deactivated)
		if err != nil {
			return nil, err
		}
		held, wait := b.gate(t.Guess, now)
		all[i] = UseGuesses{Use: use, Misses: b.misses(t.Guess, now), Held: held, RetryAfter: wait}
	}
	return all, nil
}

// notFound turns an unknown serial into a decision, so that it is logged; other errors pass.
func notFound(err error) (decision, error) {
	var e *Error
	if errors.As(err, &e) && e.Code == CodeTokenNotFound {
		return refuse(e.Code, e.Detail), nil
	}
	return decision{}, err
}

// lastFourAAD binds an encrypted field to its token.
func lastFourAAD(serial string) []byte { return []byte(serial + "/last-four") }
