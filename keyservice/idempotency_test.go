package keyservice

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// keyed verifies a password under an idempotency key.
func (w *world) keyed(key string, p *phone, typed seed.Password) (Verdict, error) {
	return w.Verify(context.Background(), coreBanking, VerifyRequest{IdempotencyKey: key, Serial: p.serial, Use: "second-pin", OTP: typed})
}

// again returns the answer as a repeat gives it.
func again(v Verdict) Verdict {
	v.Repeated = true
	return v
}

// unchanged says that fn makes no MAC under a seed, and changes nothing in the store but the log.
func (w *world) unchanged(fn func()) {
	before, macs := w.stored(), w.hsm.made()
	fn()
	require.Equal(w.t, macs, w.hsm.made(), "a MAC was made under a seed")
	require.Equal(w.t, before, w.stored(), "a row was changed")
}

// stored is every row but those of the log.
func (w *world) stored() map[store.Key]string {
	rows := map[store.Key]string{}
	w.rows(func(it store.Item) {
		if !strings.HasPrefix(string(it.Key), string(audit.Prefix)) {
			rows[it.Key] = string(it.Value)
		}
	})
	return rows
}

// A retry gets the first answer, whatever it was, over a restart too, and nothing of the use case happens again.
func TestARepeatedVerificationGetsTheFirstAnswer(t *testing.T) {
	for name, typed := range map[string]func(*phone) seed.Password{"accepted": (*phone).password, "refused": (*phone).wrong, "throttled": (*phone).password} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), "offline-60")
			for range 3 {
				if name == "throttled" {
					w.try(p, p.wrong())
				}
			}
			otp := typed(p)
			first, err := w.keyed("k", p, otp)
			require.NoError(t, err)
			require.Equal(t, name == "accepted", first.Accepted)
			require.False(t, first.Repeated)
			log := w.entries()
			w.clock.add(time.Minute)
			for _, restart := range []func(){func() {}, w.restart, w.reopen} {
				restart()
				w.unchanged(func() {
					v, err := w.keyed("k", p, otp)
					require.NoError(t, err)
					require.Equal(t, again(first), v)
				})
			}
			after := w.entries()[len(log):]
			require.Len(t, after, 4, "three repeats, and the page that was read before")
			for _, e := range after[:3] {
				require.Equal(t, audit.Repeated, e.Outcome)
				require.Equal(t, string(first.Reason), e.Reason)
				require.Equal(t, p.serial, e.Serial)
				require.Equal(t, log[first.AuditIndex].Key, e.Key, "the log says which decision was repeated")
				require.NotEmpty(t, e.Key)
			}
			fresh := w.try(p, otp)
			require.False(t, fresh.Repeated, "without the key it is a new request")
			require.Equal(t, name == "throttled", fresh.Accepted, "and decided as things are now")
		})
	}
}

// reopen ends the service and its database, and starts both again.
func (w *world) reopen() {
	require.NoError(w.t, w.db.Close())
	w.open()
}

func TestARepeatedIssueGetsTheFirstTokenAndARefusalStays(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	r := w.issueRequest(card(1), "offline-60")
	r.IdempotencyKey = "k"
	first, err := w.Issue(ctx, branch, r)
	require.NoError(t, err)
	w.restart()
	w.unchanged(func() {
		repeated, err := w.Issue(ctx, branch, r)
		require.NoError(t, err)
		require.True(t, repeated.Repeated)
		repeated.Repeated = false
		require.Equal(t, first, repeated)
	})
	r.IdempotencyKey = "other"
	_, refused := w.Issue(ctx, branch, r)
	require.Equal(t, CodeLiveTokenExists, CodeOf(refused))
	_, err = w.Deactivate(ctx, branch, first.Serial)
	require.NoError(t, err)
	w.unchanged(func() {
		_, err = w.Issue(ctx, branch, r)
		var e, was *Error
		require.ErrorAs(t, err, &e)
		require.ErrorAs(t, refused, &was)
		require.True(t, e.Repeated)
		require.Equal(t, was.Detail, e.Detail)
		require.Equal(t, CodeLiveTokenExists, e.Code, "the first answer, though it would be another now")
	})
}

// The row keeps no seed: it comes from the record, as long as that has it.
func TestARepeatedActivationDeliversTheSameSeedUntilConfirmation(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	r := p.request(card(1), issued, w.code(issued))
	r.IdempotencyKey = "k"
	first, err := w.Activate(ctx, mobileBank, r)
	require.NoError(t, err)
	w.clock.add(25 * time.Hour)
	w.restart()
	w.unchanged(func() {
		repeated, err := w.Activate(ctx, mobileBank, r)
		require.NoError(t, err, "though its code has expired by now")
		require.True(t, repeated.Repeated)
		require.Equal(t, w.clock.Now(), repeated.ServerTime, "the phone sets its clock by it")
		repeated.Repeated, repeated.ServerTime = false, first.ServerTime
		require.Equal(t, first, repeated)
	})
	log := w.entries()
	require.Equal(t, audit.Repeated, log[len(log)-2].Outcome)
	for _, key := range w.idempotencyKeys() {
		require.NotContains(t, w.stored()[key], string(first.Seed[:16]))
	}
	p.receive(first)
	_, err = w.Confirm(ctx, mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
	require.NoError(t, err)
	w.unchanged(func() {
		_, err = w.Activate(ctx, mobileBank, r)
		require.Equal(t, CodeTransition, CodeOf(err))
		require.Contains(t, err.Error(), "delivered only until it is confirmed")
	})
}

// A wrong code uses up a try; its repeat does not.
func TestARepeatedWrongCodeUsesUpNoTry(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	r := p.request(card(1), issued, seed.NewCode("00000000"))
	r.IdempotencyKey = "k"
	for range codeTries + 1 {
		_, err := w.Activate(context.Background(), mobileBank, r)
		require.Equal(t, CodeActivationWrong, CodeOf(err))
	}
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	require.Equal(t, 1, tok.state.CodeTries)
}

func TestARepeatedChallengeIsTheFirstOne(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.optedIn(card(1), "second-pin")
	r := ChallengeRequest{IdempotencyKey: "k", Class: ClassCard, Subject: seed.NewSubject(card(1)), Use: "second-pin"}
	first, err := w.Challenge(ctx, coreBanking, r)
	require.NoError(t, err)
	code, err := w.CollectCode(ctx, smsGateway, first.ID)
	require.NoError(t, err)
	w.unchanged(func() {
		repeated, err := w.Challenge(ctx, coreBanking, r)
		require.NoError(t, err)
		require.Equal(t, Challenge{ID: first.ID, ExpiresAt: first.ExpiresAt, Repeated: true}, repeated)
	})
	same, err := w.CollectCode(ctx, smsGateway, first.ID)
	require.NoError(t, err)
	require.Equal(t, code.Code.Reveal(), same.Code.Reveal(), "the courier makes the same password again")
}

// A key that is used for another request is a mistake of the caller's, and says nothing about the first.
func TestAKeyBelongsToOneRequest(t *testing.T) {
	w := newWorld(t)
	p, other := w.enrol(card(1), "offline-60"), w.enrol(card(2), "offline-60")
	typed := p.password()
	first, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	w.unchanged(func() {
		for _, r := range []VerifyRequest{
			{Serial: p.serial, Use: "second-pin", OTP: p.wrong()},
			{Serial: p.serial, Use: "login", OTP: typed},
			{Serial: other.serial, Use: "second-pin", OTP: typed},
			{Class: ClassCard, Subject: seed.NewSubject(card(1)), Use: "second-pin", OTP: typed},
			{Serial: p.serial, Use: "second-pin", OTP: typed, Transaction: &otp.Transaction{Amount: "1", Currency: "IRR", Payee: seed.NewSubject("x")}},
		} {
			r.IdempotencyKey = "k"
			_, err := w.Verify(context.Background(), coreBanking, r)
			require.Equal(t, CodeKeyReused, CodeOf(err))
		}
	})
	log := w.entries()
	require.Equal(t, audit.Refused, log[len(log)-2].Outcome, "the mistake is in the log")
	require.Equal(t, string(CodeKeyReused), log[len(log)-2].Reason)
	v, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.Equal(t, again(first), v)
}

// Each field of a request that may be repeated tells it from another: none is forgotten in its digest.
func TestEveryFieldOfARequestIsPartOfItsDigest(t *testing.T) {
	for _, r := range []interface{ once() once }{IssueRequest{}, ActivateRequest{}, VerifyRequest{}, ChallengeRequest{}} {
		empty, err := store.Encode(r.once().says)
		require.NoError(t, err)
		for i := range reflect.TypeOf(r).NumField() {
			changed := reflect.New(reflect.TypeOf(r)).Elem()
			field := changed.Type().Field(i)
			changed.Field(i).Set(someValue(t, field))
			o := changed.Interface().(interface{ once() once }).once()
			says, err := store.Encode(o.says)
			require.NoError(t, err)
			if field.Name == "IdempotencyKey" {
				require.NotEmpty(t, o.key)
				continue
			}
			require.NotEqual(t, empty, says, "%s.%s", changed.Type(), field.Name)
		}
	}
}

func someValue(t *testing.T, f reflect.StructField) reflect.Value {
	for _, v := range []any{
		"x", []string{"x"}, []byte("x"), seed.NewSubject("x"), seed.NewMobile("x"), seed.NewCode("x"), seed.NewPassword("x"),
		&otp.Transaction{Amount: "1", Currency: "IRR", Payee: seed.NewSubject("x")},
	} {
		if reflect.TypeOf(v) == f.Type {
			return reflect.ValueOf(v)
		}
	}
	require.FailNow(t, "no value", "field %s of type %s: add one", f.Name, f.Type)
	return reflect.Value{}
}

func TestTwoCallersAndTwoActionsDoNotMeet(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	_, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	stranger := authz.Caller{Name: "other-bank", Roles: []authz.Role{authz.Verifier}}
	v, err := w.Verify(context.Background(), stranger, VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "second-pin", OTP: typed})
	require.NoError(t, err)
	require.False(t, v.Repeated)
	require.Equal(t, ReasonAlreadyUsed, v.Reason, "another caller's request is one of its own")
	_, err = w.Verify(context.Background(), branch, VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "second-pin", OTP: typed})
	require.Equal(t, CodeDenied, CodeOf(err), "who may not ask gets no answer, not even the first one")

	w.optedIn(card(2), "second-pin")
	asked, err := w.Challenge(context.Background(), coreBanking, ChallengeRequest{
		IdempotencyKey: "k", Class: ClassCard, Subject: seed.NewSubject(card(2)), Use: "second-pin"})
	require.NoError(t, err)
	require.False(t, asked.Repeated, "nor do two actions of one caller")
}

func TestTheFormOfIdempotencyKeys(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.unchanged(func() {
		for _, key := range []string{" ", "a b", "a\n", "کلید", "\x7f", "a\xff", strings.Repeat("k", 129)} {
			_, err := w.keyed(key, p, p.password())
			require.Equal(t, CodeInvalid, CodeOf(err), "%q", key)
			require.Contains(t, err.Error(), "1 to 128 printable ASCII")
		}
	})
	v, err := w.keyed("!"+strings.Repeat("~", 127), p, p.password())
	require.NoError(t, err)
	require.True(t, v.Accepted)
}

// The key may be anything, a card number too, and the request holds a password: neither can be found in the database.
func TestNeitherKeyNorRequestIsStored(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "sha-256")
	typed := p.password()
	_, err := w.keyed(card(77), p, typed)
	require.NoError(t, err)
	_, err = w.keyed(card(77), p, typed)
	require.NoError(t, err)
	kept := 0
	w.rows(func(it store.Item) {
		all := append([]byte(it.Key), it.Value...)
		for _, secret := range []string{card(77), card(1), typed.Reveal()} {
			require.False(t, bytes.Contains(all, []byte(secret)), "row %q", it.Key)
		}
		if strings.HasPrefix(string(it.Key), "i/") {
			kept++
		}
	})
	require.Equal(t, 1, kept)
}

// What was not decided leaves no row: the retry is decided.
func TestWhatWasNotDecidedIsDecidedByTheRetry(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	w.hsm.fail = seed.ErrUnavailable
	_, err := w.keyed("k", p, typed)
	require.Equal(t, CodeHSMUnavailable, CodeOf(err))
	w.hsm.fail = nil
	w.store.before = func(store.Change) error { return store.ErrFailed }
	_, err = w.keyed("k", p, typed)
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
	w.store.before = nil
	v, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.True(t, v.Accepted)
	require.False(t, v.Repeated)
}

// The case the key is for: the decision was written, but the answer did not arrive.
func TestALostAnswerIsGivenAgain(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	w.store.after = func(store.Change) error { return store.ErrUnknown }
	_, err := w.keyed("k", p, typed)
	require.Equal(t, CodeOutcomeUnknown, CodeOf(err))
	w.store.after = nil
	for _, restart := range []func(){func() {}, w.reopen} {
		restart()
		v, err := w.keyed("k", p, typed)
		require.NoError(t, err)
		require.True(t, v.Accepted)
		require.True(t, v.Repeated)
		require.Equal(t, audit.Accepted, w.entries()[v.AuditIndex].Outcome, "the index is that of the first decision")
	}
}

func TestFiftyRequestsWithOneKeyAreOneDecision(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	issue := w.issueRequest(card(2), "offline-60")
	issue.IdempotencyKey = "k"
	verdicts, issued := make([]Verdict, 50), make([]IssuedToken, 50)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			var err error
			verdicts[i], err = w.keyed("k", p, typed)
			assert.NoError(t, err)
		})
		all.Go(func() {
			var err error
			issued[i], err = w.Issue(context.Background(), branch, issue)
			assert.NoError(t, err)
		})
	}
	all.Wait()
	decided := map[string]int{}
	for i := range 50 {
		decided["accepted"] += count(verdicts[i].Accepted)
		decided["verification"] += count(!verdicts[i].Repeated)
		decided["issue"] += count(!issued[i].Repeated)
		require.Equal(t, verdicts[0].AuditIndex, verdicts[i].AuditIndex)
		require.Equal(t, issued[0].Serial, issued[i].Serial)
		require.Equal(t, issued[0].Activation, issued[i].Activation)
	}
	require.Equal(t, map[string]int{"accepted": 50, "verification": 1, "issue": 1}, decided)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Two nodes whose clocks stand on either side of midnight share no locks: the preconditions keep them to one decision.
func TestTwoNodesAcrossMidnightDecideOnce(t *testing.T) {
	w := newWorld(t)
	w.clock.add(14*time.Hour + 29*time.Minute + 30*time.Second) // 10 s before midnight
	ahead := &fakeClock{now: w.clock.Now().Add(20 * time.Second)}
	first := w.Service
	w.restart()
	w.Clock = ahead.Now
	p := w.enrol(card(1), "counter-6")
	for i := range 20 {
		typed, key := p.password(), fmt.Sprint("k", i)
		verdicts := make([]Verdict, 2)
		var both sync.WaitGroup
		for n, node := range []*Service{first, w.Service} {
			both.Go(func() {
				v, err := node.Verify(context.Background(), coreBanking, VerifyRequest{IdempotencyKey: key, Serial: p.serial, Use: "second-pin", OTP: typed})
				assert.NoError(t, err)
				verdicts[n] = v
			})
		}
		both.Wait()
		require.NotEqual(t, verdicts[0].Repeated, verdicts[1].Repeated)
		require.True(t, verdicts[0].Accepted && verdicts[1].Accepted)
		require.Equal(t, verdicts[0].AuditIndex, verdicts[1].AuditIndex)
	}
}

// A decision that depends on nothing else that another would change is taken once too: the row's absence is a
// precondition of its own, in every bucket.
func TestARequestThatIsDecidedMeanwhileIsARepeat(t *testing.T) {
	for _, apart := range []time.Duration{0, -23 * time.Hour, 23 * time.Hour} {
		w := newWorld(t)
		p := w.enrol(card(1), "offline-60")
		r := VerifyRequest{IdempotencyKey: "k", Serial: p.serial, Use: "login", OTP: p.password()}
		other := w.Service
		other.Clock = (&fakeClock{now: w.clock.Now().Add(apart)}).Now
		w.restart()
		var meanwhile Verdict
		w.store.before = func(store.Change) (err error) {
			w.store.before = nil
			meanwhile, err = other.Verify(context.Background(), coreBanking, r)
			return err
		}
		v, err := w.Verify(context.Background(), coreBanking, r)
		require.NoError(t, err)
		require.Equal(t, ReasonNotConnected, meanwhile.Reason)
		require.Equal(t, again(meanwhile), v, "%v apart", apart)
	}
}

// A row that was edited, or put in another's place, is an alarm: the request is not decided again, nor answered.
func TestAnEditedIdempotencyRowIsSeen(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	typed, other := p.password(), p.password()
	_, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	mine := w.idempotencyKeys()
	require.Len(t, mine, 1)
	_, err = w.keyed("other", p, other)
	require.NoError(t, err)
	edits := w.edits(mine[0])
	require.GreaterOrEqual(t, len(edits), 4)
	for _, key := range w.idempotencyKeys() {
		if key != mine[0] {
			edits["another's row"] = store.Put{Key: mine[0], Value: w.row(key).Value}
		}
	}
	for what, edited := range edits {
		w.attack([]store.Put{edited})
		w.unchanged(func() {
			_, err := w.keyed("k", p, typed)
			require.Equal(t, CodeTampered, CodeOf(err), what)
		})
		log := w.entries()
		require.Equal(t, audit.Tampered, log[len(log)-2].Outcome, what)
		require.Equal(t, idempotencyRow, log[len(log)-2].Reason)
	}
}

func (w *world) idempotencyKeys() []store.Key {
	var keys []store.Key
	for key := range w.stored() {
		if strings.HasPrefix(string(key), "i/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// The entry that the first answer named is looked for, not guessed: if it is gone, the answer cannot be given.
func TestARemovedEntryOfTheFirstDecisionIsNotGuessed(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	first, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	w.attack(nil, audit.EntryKey(first.AuditIndex))
	w.unchanged(func() {
		_, err = w.keyed("k", p, typed)
		require.Equal(t, CodeInternal, CodeOf(err))
	})
}

func TestTheEndOfTheLogIsFoundAtStart(t *testing.T) {
	w := newWorld(t)
	require.Zero(t, w.head.Load(), "an empty log")
	for range 5 {
		n := uint64(len(w.entries()))
		require.Equal(t, n, w.head.Load())
		w.restart()
		require.Equal(t, n, w.head.Load())
	}
	n := w.head.Load()
	w.attack([]store.Put{{Key: audit.EntryKey(1 << 40), Value: []byte("not an entry")}}, audit.EntryKey(1))
	w.restart()
	require.Equal(t, n+1, w.head.Load(), "the attack's own entry; neither a gap nor a row that is no entry misleads it")
}
