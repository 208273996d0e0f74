package keyservice

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"slices"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Limits of SMS passwords. A challenge is never voided by another one, so those that wait are few; and one caller can
// neither fill all places nor have messages sent without end, so that asking cannot be used to block real payments
// that other callers ask for.
const (
	challengeTries   = 5               // wrong passwords that end a challenge
	maxPending       = 3               // challenges that wait, of one subject
	maxPendingCaller = 2               // … that one caller asked for
	askInterval      = 6 * time.Minute // one caller may ask for one subject once in this time, on average …
	askBurst         = 10              // … and this often at once
)

// ChallengeRequest asks for an SMS password.
type ChallengeRequest struct {
	IdempotencyKey string // optional: a repeat with the same key gets the first answer
	Class          string
	Subject        seed.Subject
	Use            string
	Transaction    *otp.Transaction // what it is to be bound to; nil if nothing
}

// Challenge is an SMS password that waits for the courier under its id.
type Challenge struct {
	ID        string
	ExpiresAt time.Time
	Repeated  bool // this is the answer to an earlier request with the same idempotency key
}

// Challenge makes an SMS password for a subject that has opted in: that has an active SMS token of the use. A subject
// that is unknown and one that has not opted in look alike.
func (s *Service) Challenge(ctx context.Context, c authz.Caller, r ChallengeRequest) (Challenge, error) {
	if err := s.authorise(ctx, c, authz.AskChallenge, ""); err != nil {
		return Challenge{}, err
	}
	if err := checkSubject(r.Class, r.Subject); err != nil {
		return Challenge{}, err
	}
	if err := s.checkPurpose(r.Use, r.Transaction); err != nil {
		return Challenge{}, err
	}
	who, err := s.ownerOf(ctx, r.Class, r.Subject)
	if err != nil {
		return Challenge{}, err
	}
	unlock, err := s.locks.lock(ctx, who.serials...)
	if err != nil {
		return Challenge{}, err
	}
	defer unlock()
	leave, full := s.failing.enter(c.Name, who.limited(), s.Clock())
	made, done, err := decideOnce(ctx, s, c, authz.AskChallenge, "", r.once(), func() (activationRow, decision, error) {
		if full != nil {
			return activationRow{}, decision{}, s.tooManySubjects(ctx, c, authz.AskChallenge, "", full)
		}
		who, err := s.still(ctx, who, r.Class, r.Subject)
		if err != nil {
			return activationRow{}, decision{}, err
		}
		made, d, err := s.challenge(ctx, c, r, who)
		return activationRow{made.ID, made.ExpiresAt.UnixMilli()}, d, err
	})
	if full == nil && (done.repeated || CodeOf(err) != CodeNotOptedIn) {
		leave()
	}
	if err != nil {
		return Challenge{}, err
	}
	return Challenge{ID: made.ID, ExpiresAt: time.UnixMilli(made.ExpiresAt).UTC(), Repeated: done.repeated}, nil
}

// challenge decides once, from the store as it is now.
func (s *Service) challenge(ctx context.Context, c authz.Caller, r ChallengeRequest, who owner) (Challenge, decision, error) {
	t, found, err := s.optedIn(ctx, r, who)
	if err != nil {
		return Challenge{}, decision{}, err
	}
	if !found {
		return Challenge{}, refuse(CodeNotOptedIn, "this subject gets no SMS passwords for this use"), nil
	}
	now := s.Clock()
	t.expire(now)
	if wait := t.askAgain(c.Name, now); wait > 0 {
		d := refuse(CodeChallengesPending, "too many SMS passwords were asked for; use the one that was sent, or wait")
		d.entry.Serial, d.refusal.RetryAfter, d.unsettled = t.Serial, wait, true
		return Challenge{}, d, nil
	}
	made, err := s.newChallenge(ctx, c, r, t, now)
	if err != nil {
		return Challenge{}, decision{}, err
	}
	d, err := s.saveChallenge(t, made, now)
	return Challenge{ID: made.ID, ExpiresAt: time.UnixMilli(made.ExpiresAt).UTC()}, d, err
}

// optedIn loads the subject's SMS token, if it has one that is good for the use.
func (s *Service) optedIn(ctx context.Context, r ChallengeRequest, who owner) (token, bool, error) {
	items, err := s.Store.Get(ctx, liveKey(r.Class, KindSMS, who.subject))
	if err != nil {
		return token{}, false, storeError(err)
	}
	if items[0].Version == 0 {
		return token{}, false, nil
	}
	t, err := s.loadLive(ctx, items[0])
	if err != nil {
		return token{}, false, err
	}
	t.require = append(t.require, requireItems(items)...)
	return t, unusable(t, r.Use, r.Transaction) == "", nil
}

// newChallenge draws everything random about a challenge; its password is not made, only what it will be made from.
func (s *Service) newChallenge(ctx context.Context, c authz.Caller, r ChallengeRequest, t token, now time.Time) (challenge, error) {
	random, err := s.HSM.Random(ctx, 32)
	if err != nil {
		return challenge{}, err
	}
	made := challenge{
		ID: hex.EncodeToString(random[:16]), Nonce: random[16:], Use: r.Use, Caller: c.Name, Subject: t.Subject.Sum,
		ExpiresAt: now.Add(t.Policy.Validity).UnixMilli(),
	}
	if r.Transaction == nil {
		return made, nil
	}
	plain, err := store.Encode(transactionFields(*r.Transaction))
	if err != nil {
		return challenge{}, err
	}
	sealed, err := s.HSM.Encrypt(ctx, transactionAAD(made.ID), plain)
	made.Transaction, made.For = &sealed, s.transactionDigest(made.ID, *r.Transaction)
	return made, err
}

// saveChallenge makes the decision that lets a challenge wait: the token's state, and the row the courier finds it by.
func (s *Service) saveChallenge(t token, made challenge, now time.Time) (decision, error) {
	t.state.Challenges = append(slices.Clone(t.state.Challenges), made)
	t.state.Asked = asked(t.state.Asked, made.Caller, now)
	d := decision{change: store.Change{Require: t.require}, entry: audit.Entry{Outcome: audit.Done, Use: made.Use}}
	if err := s.putState(&d, &t); err != nil {
		return decision{}, err
	}
	row, err := s.mac(codeKey(made.ID), pointer{Schema: schema, Serial: t.Serial})
	d.change.Require = append(d.change.Require, store.Require{Key: row.Key})
	d.change.Put = append(d.change.Put, row)
	return d, err
}

// transactionDigest tells a challenge's transaction from others. It is keyed by the host: nobody can search payees with it.
func (s *Service) transactionDigest(id string, t otp.Transaction) []byte {
	digest := t.Digest()
	return s.ring.Load().digest(slices.Concat([]byte("ramzban/challenge-transaction/1\x00"+id+"\x00"), digest[:]))
}

// expire forgets the challenges that can no longer be answered.
func (t *token) expire(now time.Time) {
	t.keep(func(ch challenge) bool { return t.waits(ch, now) })
}

// keep forgets all other challenges, and notes their code rows as over. The state's own slice is left as it is: the
// decision may be taken again.
func (t *token) keep(which func(challenge) bool) {
	var kept []challenge
	for _, ch := range t.state.Challenges {
		if which(ch) {
			kept = append(kept, ch)
		} else {
			t.over = append(t.over, codeKey(ch.ID))
		}
	}
	t.state.Challenges = kept
}

// waits says whether a challenge can still be answered. One that would live longer than its life was asked for while the
// clock was ahead, and is over.
func (t token) waits(ch challenge, now time.Time) bool {
	left := time.UnixMilli(ch.ExpiresAt).Sub(now)
	return left > 0 && left <= t.Policy.Validity && ch.Tries < challengeTries
}

// countTry counts a wrong password against every challenge it might have answered; false if there is none.
func (s *Service) countTry(t *token, a attempt) bool {
	tried := false
	after := slices.Clone(t.state.Challenges)
	for i, ch := range after {
		if t.waits(ch, a.now) && s.isFor(ch, a) {
			after[i].Tries++
			tried = true
		}
	}
	t.state.Challenges = after
	if tried {
		t.expire(a.now)
	}
	return tried
}

// answer uses up a challenge.
func (t *token) answer(i int) {
	answered := t.state.Challenges[i]
	t.state.Answered = &answered
	t.keep(func(ch challenge) bool { return ch.ID != answered.ID })
}

// ask is how often one caller asked for SMS passwords of one subject.
type ask struct {
	Caller string `cbor:"1,keyasint"`
	Until  int64  `cbor:"2,keyasint"` // Unix milliseconds: what was asked is used up, at the average rate, by then
}

// askAgain is how long the caller must wait before it may ask for this subject; 0 if it may now.
func (t token) askAgain(caller string, now time.Time) time.Duration {
	wait := askUntil(t.state.Asked, caller, now).Sub(now) - (askBurst-1)*askInterval
	mine := 0
	for _, ch := range t.state.Challenges {
		if ch.Caller == caller {
			mine++
		}
	}
	if len(t.state.Challenges) >= maxPending || mine >= maxPendingCaller {
		wait = max(wait, time.UnixMilli(t.state.Challenges[0].ExpiresAt).Sub(now))
	}
	return max(wait, 0)
}

func askUntil(all []ask, caller string, now time.Time) time.Time {
	for _, a := range all {
		until := time.UnixMilli(a.Until)
		if a.Caller == caller && until.After(now) && until.Sub(now) <= askBurst*askInterval { // else the clock was ahead
			return until
		}
	}
	return now
}

// asked notes that a caller asked once more, and forgets who could ask a full burst again anyway.
func asked(all []ask, caller string, now time.Time) []ask {
	kept := []ask{{Caller: caller, Until: askUntil(all, caller, now).Add(askInterval).UnixMilli()}}
	for _, a := range all {
		if a.Caller != caller && a.Until > now.UnixMilli() {
			kept = append(kept, a)
		}
	}
	return kept
}

// isFor says whether the challenge is for the attempt's use and, if it is bound to a transaction, for that one.
func (s *Service) isFor(ch challenge, a attempt) bool {
	if ch.Use != a.Use || ch.Transaction == nil {
		return ch.Use == a.Use
	}
	return a.Transaction != nil && hmac.Equal(ch.For, s.transactionDigest(ch.ID, *a.Transaction))
}

// matchChallenge tries the challenges that wait and are for the attempt's use and transaction, and then the one answered
// last.
func (s *Service) matchChallenge(ctx context.Context, a attempt, t *token) (match, error) {
	var m match
	err := s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) error {
		m = match{} // the HSM may run this again from its start
		for i, ch := range t.state.Challenges {
			if !t.waits(ch, a.now) || !s.isFor(ch, a) {
				continue
			}
			if right, err := ch.is(mac, *t, a); err != nil || right {
				m = match{token: t, challenge: i, bound: ch.Transaction != nil}
				return err
			}
		}
		if t.state.Answered == nil || !s.isFor(*t.state.Answered, a) {
			return nil
		}
		right, err := t.state.Answered.is(mac, *t, a)
		if right {
			m = match{token: t, again: true}
		}
		return err
	})
	if err != nil {
		return match{}, err
	}
	return m, nil
}

// is says whether the challenge's password is the typed one.
func (ch challenge) is(mac seed.MAC, t token, a attempt) (bool, error) {
	transaction := a.Transaction
	if ch.Transaction == nil {
		transaction = nil
	}
	message, err := smsMessage(t, ch, transaction)
	if err != nil {
		return false, err
	}
	return macIs(mac, message, t.Policy.Digits, a.OTP)
}

// smsMessage is what is MACed under the SMS token's seed to make the password of a challenge: CBOR of tag, challenge id,
// subject pseudonym, use, transaction and nonce.
func smsMessage(t token, ch challenge, transaction *otp.Transaction) ([]byte, error) {
	var fields []string
	if transaction != nil {
		fields = transactionFields(*transaction)
	}
	return store.Encode([]any{"ramzban/sms-code/1", ch.ID, ch.Subject, ch.Use, fields, ch.Nonce})
}

func transactionFields(t otp.Transaction) []string {
	return []string{t.Amount, t.Currency, t.Payee.Reveal()}
}

// transactionAAD binds an encrypted transaction to its challenge.
func transactionAAD(id string) []byte { return []byte("challenge/" + id + "/transaction") }

// collectSMS makes the password of the challenge with this id again, for the courier.
func (s *Service) collectSMS(ctx context.Context, t token, id string) (CollectedCode, *Error, error) {
	i := slices.IndexFunc(t.state.Challenges, func(ch challenge) bool { return ch.ID == id && t.waits(ch, s.Clock()) })
	if i < 0 || t.Status != Active {
		return CollectedCode{}, &Error{Code: CodeCodeNotFound, Detail: "no code with this id waits to be collected"}, nil
	}
	ch := t.state.Challenges[i]
	transaction, err := s.transactionOf(ctx, ch)
	if err != nil {
		return CollectedCode{}, nil, err
	}
	message, err := smsMessage(t, ch, transaction)
	if err != nil {
		return CollectedCode{}, nil, err
	}
	var code seed.Code
	err = s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) error {
		sum, err := mac(message)
		if err != nil {
			return err
		}
		made, err := otp.Truncate(sum, t.Policy.Digits)
		clear(sum)
		code = seed.NewCode(made.Reveal())
		return err
	})
	return CollectedCode{
		Kind: KindSMS, Serial: t.Serial, Code: code, ExpiresAt: time.UnixMilli(ch.ExpiresAt).UTC(), Transaction: transaction,
	}, nil, err
}

func (s *Service) transactionOf(ctx context.Context, ch challenge) (*otp.Transaction, error) {
	if ch.Transaction == nil {
		return nil, nil // bound to nothing
	}
	plain, err := s.HSM.Decrypt(ctx, transactionAAD(ch.ID), *ch.Transaction)
	if err != nil {
		return nil, err
	}
	f, err := store.Decode[[]string](plain)
	if err != nil || len(f) != 3 {
		return nil, &tampered{what: "challenge", err: err}
	}
	return &otp.Transaction{Amount: f[0], Currency: f[1], Payee: seed.NewSubject(f[2])}, nil
}
