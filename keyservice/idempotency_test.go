package keyservice

import (
	"context"
	"fmt"
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
	for name, typed := range map[string]func(*phone) seed.Password{"accepted": (*phone).password, "refused": (*phone).wrong} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), "offline-60")
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
				require.Equal(t, log[first.Audit.Index].Key, e.Key, "the log says which decision was repeated")
				require.NotEmpty(t, e.Key)
			}
			fresh := w.try(p, otp)
			require.False(t, fresh.Repeated, "without the key it is a new request")
			require.Equal(t, name == "throttled", fresh.Accepted, "and decided as things are now")
		})
	}
}

// What a repeat has read may be lost before its own commit: with a database server that had not passed it on, and to whose
// standby the nodes have gone. Nobody was told of the first decision then, and the password is still good: once.
func TestARepeatOfWhatWasLostIsDecidedAnew(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	typed, older := p.password(), w.row(stateRowKey(p.serial))
	first, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.True(t, first.Accepted)
	var row store.Key
	w.rows(func(it store.Item) {
		if strings.HasPrefix(string(it.Key), string(idempotencyRows)) {
			row = it.Key
		}
	})
	w.store.before = func(store.Change) error {
		w.store.before = nil
		w.attack([]store.Put{older}, row)
		return nil
	}
	v, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.True(t, v.Accepted)
	require.False(t, v.Repeated, "the first decision is no more")
	require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason, "what was answered is there now")
}

// reopen ends the service and its database, and starts both again.
func (w *world) reopen() {
	require.NoError(w.t, w.db.Close())
	w.start()
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

// A password that was not looked at is looked at under the same key once the delay is over: a client does as it is told
// and asks again. Nor does the key tell, meanwhile, whether another password would be the same.
func TestAThrottledRequestIsNotSettled(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for range 3 {
		w.try(p, p.wrong())
	}
	typed := p.password()
	for _, otp := range []seed.Password{typed, p.wrong(), typed} {
		v, err := w.keyed("k", p, otp)
		require.NoError(t, err)
		require.Equal(t, ReasonThrottled, v.Reason)
	}
	w.clock.add(30 * time.Second)
	v, err := w.keyed("k", p, typed)
	require.NoError(t, err)
	require.True(t, v.Accepted)
	first := v
	v, err = w.keyed("k", p, typed)
	require.NoError(t, err)
	require.Equal(t, again(first), v)
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
		require.Equal(t, audit.Accepted, w.entries()[v.Audit.Index].Outcome, "the index is that of the first decision")
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
		require.Equal(t, verdicts[0].Audit.Index, verdicts[i].Audit.Index)
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
		require.Equal(t, verdicts[0].Audit.Index, verdicts[1].Audit.Index)
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

// Limits are for what is decided: a caller that may ask about no further subject still gets its answers again, and a
// repeat counts for none.
func TestARepeatTouchesNoLimitOfTheCaller(t *testing.T) {
	w := newWorld(t)
	p, other := w.enrol(card(1), "counter-6"), w.enrol(card(2), "counter-6")
	accepted, refused := p.password(), p.wrong()
	_, err := w.keyed("k", p, accepted)
	require.NoError(t, err)
	_, err = w.keyed("wrong", p, refused)
	require.NoError(t, err)
	w.restart()
	w.failing.limit = 1
	v, err := w.keyed("wrong", p, refused)
	require.NoError(t, err)
	require.True(t, v.Repeated)
	require.Equal(t, ReasonMismatch, w.try(other, other.wrong()).Reason, "the repeat did not count as the one")
	v, err = w.keyed("k", p, accepted)
	require.NoError(t, err)
	require.True(t, v.Repeated)
	next := p.password()
	_, err = w.keyed("new", p, next)
	require.Equal(t, CodeTooManySubjects, CodeOf(err))
	w.failing.limit = 2
	v, err = w.keyed("new", p, next)
	require.NoError(t, err)
	require.True(t, v.Accepted, "it was not decided, so the retry is")
	require.False(t, v.Repeated)
}
