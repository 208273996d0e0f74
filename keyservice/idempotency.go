package keyservice

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A request with an idempotency key is decided once: the decision's commit also writes a row with its answer, under a
// key made from the caller, the action and the idempotency key, and on condition that no such row exists. A repeat finds
// the row before anything else of the use case happens, and gets the first answer.
//
// The rows lie in buckets, one for each day (UTC) of the deciding node's clock, so that old ones can be deleted without
// reading the others. A repeat looks into four buckets: today's, the two before and the one after. So what was decided
// is not decided again within 24 hours, though clocks are set, or differ between nodes, by up to a day either way; see
// Expire for when rows go. A clock that is further off than that makes a repeat a new request, which is no worse than a
// request without a key: no password is accepted twice.

// settled is how a decision came about.
type settled struct {
	at       audit.Position // of the decision's entry
	repeated bool           // it was taken for an earlier request
}

// once is what a request says of its repetition.
type once struct {
	key  string // the caller's; "": the request is no repeat of any other
	says []any  // every field of the request, secrets too: only a request that says the same is a repeat

	// again makes the first answer again, where a row must not keep it, from the entry of its decision. It may refuse.
	// nil: the row has the answer.
	again func(LoggedEntry) (decision, error)
}

// decideOnce is decide for use cases whose requests may carry an idempotency key. fn decides and returns the answer,
// which must be the same when it is read back from CBOR and hold no secret. A repeat does not run fn.
func decideOnce[A any](ctx context.Context, s *Service, c authz.Caller, a authz.Action, serial string, o once, fn func() (A, decision, error)) (A, settled, error) {
	var answer, none A
	run := func() (d decision, err error) {
		answer, d, err = fn()
		return d, err
	}
	if o.key == "" {
		index, err := s.decide(ctx, c, a, serial, run)
		return answer, settled{at: s.position(index)}, err
	}
	r, err := s.idempotent(c, a, o)
	if err != nil {
		return none, settled{}, err
	}
	defer clear(r.says)
	index, err := s.decide(ctx, c, a, serial, func() (decision, error) {
		return r.attempt(ctx, run, func() any { return answer })
	})
	if r.first == nil {
		return answer, settled{at: s.position(index)}, err
	}
	if err == nil && o.again == nil {
		answer, err = store.Decode[A](r.first.Answer)
	}
	return answer, settled{at: r.at, repeated: true}, err
}

// outcome is the row of a decided request. On disk it is CBOR with these integer keys under the state MAC.
type outcome struct {
	Schema  uint8      `cbor:"0,keyasint"`
	Request seed.MACed `cbor:"1,keyasint"` // digest of the request, made in the HSM: nobody can search passwords with it
	Node    string     `cbor:"7,keyasint"` // it was decided by, in whose log the decision's entry …
	After   uint64     `cbor:"2,keyasint"` // … has this index or a higher one

	Answer     []byte        `cbor:"3,keyasint,omitempty"` // CBOR, of a request that was carried out
	Code       Code          `cbor:"4,keyasint,omitempty"` // of a refusal …
	Detail     string        `cbor:"5,keyasint,omitempty"`
	RetryAfter time.Duration `cbor:"6,keyasint,omitempty"`
}

const idempotencyRow = "idempotency row" // as errors and the log name it

const idempotencyRows store.Key = "i/" // begins the keys of all of them

// bucketOf begins the rows of one day, counted from 1970. The order of the rows is that of their days.
func bucketOf(day uint32) store.Key { return idempotencyRows + store.Key(fmt.Sprintf("%010d/", day)) }

// bucketsOf are those in which a request may stand that was decided within 24 hours: tomorrow's, today's, and so on back.
// If it was decided again later, the newest decision comes first.
func bucketsOf(now time.Time) []store.Key {
	var buckets []store.Key
	for day := dayOf(now) + 1; day > oldestDay(now); day-- {
		buckets = append(buckets, bucketOf(day))
	}
	return append(buckets, bucketOf(oldestDay(now)))
}

// oldestDay is the first of which a bucket is looked into.
func oldestDay(now time.Time) uint32 { return max(dayOf(now), 2) - 2 }

// idempotent is one request with a key, over all attempts to decide it.
type idempotent struct {
	*Service
	once
	says  []byte         // CBOR of the request
	id    []byte         // keyed digest of caller, action and key
	asked seed.MACed     // digest of the request; made when it is first needed
	first *outcome       // what was decided before; nil if nothing was
	at    audit.Position // of that decision
}

func (s *Service) idempotent(c authz.Caller, a authz.Action, o once) (*idempotent, error) {
	if len(o.key) > 128 || strings.ContainsFunc(o.key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, &Error{Code: CodeInvalid, Detail: "an idempotency key is 1 to 128 printable ASCII characters without spaces: draw a random one for each request"}
	}
	id, err := store.Encode([]string{"ramzban/idempotency-key/1", c.Name, string(a), o.key})
	if err != nil {
		return nil, err
	}
	says, err := store.Encode(append([]any{a}, o.says...))
	if err != nil {
		return nil, err
	}
	return &idempotent{Service: s, once: o, says: says, id: s.ring.Load().digest(id)}, nil
}

// attempt answers from the row if there is one, and decides and adds the row otherwise.
func (r *idempotent) attempt(ctx context.Context, decide func() (decision, error), answer func() any) (decision, error) {
	r.first = nil
	rows, err := r.rows(ctx)
	if err != nil {
		return decision{}, err
	}
	i := slices.IndexFunc(rows, func(it store.Item) bool { return it.Version != 0 })
	if i >= 0 {
		d, err := r.repeat(ctx, rows[i])
		// What was read may have been lost since, with a server that had not yet passed it on: then it was never answered.
		d.change.Require = append(d.change.Require, requireItems(rows[i:i+1])...)
		return d, err
	}
	d, err := decide()
	if err != nil {
		return decision{}, err
	}
	if d.unsettled {
		return d, nil // nothing was looked at: the same request may be asked again later
	}
	return r.keep(ctx, rows, d, answer())
}

const todays = 1 // its place among the buckets

// rows reads where the request may have been decided.
func (r *idempotent) rows(ctx context.Context) ([]store.Item, error) {
	var keys []store.Key
	for _, bucket := range bucketsOf(r.Clock()) {
		keys = append(keys, bucket+store.Key(r.id))
	}
	items, err := r.Store.Get(ctx, keys...)
	if err != nil {
		return nil, storeError(err)
	}
	return items, nil
}

// keep adds the row of a decision to it.
func (r *idempotent) keep(ctx context.Context, rows []store.Item, d decision, answer any) (_ decision, err error) {
	o := outcome{Schema: schema, Node: r.Node, After: r.head.Load()}
	if r.asked.Key != r.ring.Load().activeOf(digestLabel) { // also when that was rotated between two tries
		if r.asked, err = r.HSM.Digest(ctx, idempotencyPurpose, r.says); err != nil {
			return decision{}, err
		}
	}
	o.Request = r.asked
	if d.refusal != nil {
		o.Code, o.Detail, o.RetryAfter = d.refusal.Code, d.refusal.Detail, d.refusal.RetryAfter
	} else if o.Answer, err = store.Encode(answer); err != nil {
		return decision{}, err
	}
	row, err := r.mac(rows[todays].Key, o)
	d.change.Require = append(d.change.Require, requireItems(rows)...)
	d.change.Put = append(d.change.Put, row)
	d.entry.Key = []byte(row.Key)
	return d, err
}

const idempotencyPurpose = "idempotency"

// repeat gives the answer of the row, if it belongs to this request.
func (r *idempotent) repeat(ctx context.Context, row store.Item) (decision, error) {
	o, err := unmac[outcome](r.Service, row, idempotencyRow)
	if err != nil {
		return decision{}, err
	}
	if o.Schema != schema {
		return decision{}, &tampered{what: idempotencyRow, err: errors.New("not a row of this version")}
	}
	sum, err := r.HSM.DigestWith(ctx, o.Request.Key, idempotencyPurpose, r.says)
	if err != nil {
		return decision{}, err
	}
	if !hmac.Equal(sum, o.Request.Sum) {
		return refuse(CodeKeyReused, "this idempotency key belongs to a request that said something else: use a new key for a new request"), nil
	}
	first, err := r.decisionEntry(ctx, audit.Position{Node: o.Node, Index: o.After}, []byte(row.Key))
	if err != nil {
		return decision{}, err
	}
	return r.answerAgain(o, first)
}

// answerAgain decides to give the first answer, and to log that.
func (r *idempotent) answerAgain(o outcome, first LoggedEntry) (d decision, err error) {
	if o.Code != "" {
		d.refusal = &Error{Code: o.Code, Detail: o.Detail, RetryAfter: o.RetryAfter, Repeated: true}
	} else if r.again != nil {
		if d, err = r.again(first); err != nil || d.refusal != nil {
			return d, err
		}
	}
	r.first, r.at = &o, audit.Position{Node: first.Node, Index: first.Index}
	d.entry = audit.Entry{Outcome: audit.Repeated, Reason: first.Reason, Serial: first.Serial, Use: first.Use, Key: first.Key}
	return d, nil
}

// maxLogSearch bounds how far behind its lower bound an entry is looked for. Between the two stand only entries that were
// committed while the decision's commit was under way.
const maxLogSearch = 1 << 16

var errFound = errors.New("found")

// decisionEntry finds the entry of the decision that wrote an idempotency row. One that cannot be found is an error: the
// answer that names it cannot be given again.
func (s *Service) decisionEntry(ctx context.Context, after audit.Position, row []byte) (found LoggedEntry, err error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return LoggedEntry{}, storeError(err)
	}
	defer snap.Close()
	err = s.scanGenuine(ctx, snap, after, func(e LoggedEntry) error {
		switch {
		case e.Index-after.Index >= maxLogSearch:
			return fmt.Errorf("the entry of the first decision is not among the %d from %d on in the log of %s", maxLogSearch, after.Index, after.Node)
		case e.Outcome == audit.Repeated || !bytes.Equal(e.Key, row):
			return nil
		}
		found = e
		return errFound
	})
	if errors.Is(err, errFound) {
		return found, nil
	}
	if err == nil {
		err = fmt.Errorf("the entry of the first decision is not in the log of %s", after.Node)
	}
	return LoggedEntry{}, err
}

// raise notes that an entry was committed under this index.
func (s *Service) raise(index uint64) {
	for {
		head := s.head.Load()
		if head > index || s.head.CompareAndSwap(head, index+1) {
			return
		}
	}
}
