package keyservice

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

func TestAPasswordIsAcceptedOnce(t *testing.T) {
	for profile := range profiles() {
		t.Run(profile, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), profile)
			typed := p.password()
			require.True(t, w.try(p, typed).Accepted)
			again := w.try(p, typed)
			require.False(t, again.Accepted)
			require.Equal(t, ReasonAlreadyUsed, again.Reason)
			w.restart()
			require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason, "after a restart too")
			w.clock.add(2 * time.Minute)
			require.True(t, w.try(p, p.password()).Accepted, "the next one is good")
			require.Equal(t, ReasonMismatch, w.try(p, typed).Reason, "the watermark has passed the first")
		})
	}
}

func TestAValidPasswordCostsOneMACAndAWrongOneTheWindow(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	before := w.hsm.made()
	require.True(t, w.try(p, p.password()).Accepted)
	require.Equal(t, 1, w.hsm.made()-before)
	before = w.hsm.made()
	w.try(p, p.wrong())
	plan := p.policy.Plan(w.clock.Now(), 0, p.factor()+1)
	require.Equal(t, len(plan)+1, w.hsm.made()-before, "every step above the watermark, and the one accepted last")
}

func TestTheSamePasswordFrom200AtOnceIsAcceptedOnce(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	var accepted, used atomic.Int32
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
			if err == nil && v.Accepted {
				accepted.Add(1)
			}
			if err == nil && v.Reason == ReasonAlreadyUsed {
				used.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 1, accepted.Load())
	require.EqualValues(t, 199, used.Load())
}

// Two services on one store share no locks: the preconditions alone must keep a password from being accepted twice.
func TestPreconditionsAloneKeepAPasswordFromBeingAcceptedTwice(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	first := w.Service
	w.restart()
	nodes := []*Service{first, w.Service}
	for range 25 {
		typed := p.password()
		var accepted atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				v, err := nodes[i%2].Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
				if err == nil && v.Accepted {
					accepted.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 1, accepted.Load())
	}
}

// A clock that runs ahead is learnt, step by step and within the bound, and the issuer sees it.
func TestDriftIsLearntWithinItsBound(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	p.drift = 50 * time.Second
	for range 5 {
		w.clock.add(2 * time.Minute)
		require.True(t, w.try(p, p.password()).Accepted)
		p.drift += 25 * time.Second
	}
	learnt := w.shown(p.serial).Drift
	require.Greater(t, learnt, time.Minute)
	require.LessOrEqual(t, learnt, p.policy.DriftBound)

	w.clock.add(10 * time.Minute)
	p.drift = p.policy.DriftBound + 2*time.Minute
	require.Equal(t, ReasonMismatch, w.try(p, p.password()).Reason, "beyond the bound nothing is accepted, however slowly a clock got there")
	p.drift = 0
	require.True(t, w.try(p, p.password()).Accepted, "a clock that was put right is found at once")
}

// A customer who types slowly does not teach the server that the phone is slow.
func TestASlowCustomerIsNotASlowPhone(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	w.clock.add(40 * time.Second) // a time step begins
	for _, late := range []time.Duration{110 * time.Second, 115 * time.Second, 110 * time.Second} {
		typed := p.password()
		w.clock.add(late)
		require.True(t, w.try(p, typed).Accepted)
		require.Zero(t, w.shown(p.serial).Drift)
		w.clock.add(4*time.Minute - late)
	}
	w.clock.add(5 * time.Second)
	require.True(t, w.try(p, p.password()).Accepted)
}

func TestAPhoneThatIsFarOffIsNotSearchedFor(t *testing.T) {
	w := newWorld(t)
	for _, drift := range []time.Duration{-3 * time.Minute, 2*time.Minute + time.Second} {
		p := w.enrol(card(int(drift/time.Second)+1000), "offline-60")
		p.drift = drift
		require.Equal(t, ReasonMismatch, w.try(p, p.password()).Reason, "%v", drift)
	}
}

func TestHOTPLooksAheadButNotFurther(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	p.counter = p.policy.LookAhead
	require.True(t, w.try(p, p.password()).Accepted, "the last counter of the window")
	p.counter += p.policy.LookAhead + 1
	require.Equal(t, ReasonMismatch, w.try(p, p.at(p.counter)).Reason, "one beyond it")
}

func TestMissesDelayAndThePasswordIsThenNotLookedAt(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for range 3 {
		require.Equal(t, ReasonMismatch, w.try(p, p.wrong()).Reason)
	}
	right, before := p.password(), w.hsm.made()
	v := w.try(p, right)
	require.Equal(t, ReasonThrottled, v.Reason, "right or wrong, the answer is the same")
	require.Equal(t, 30*time.Second, v.RetryAfter)
	require.Equal(t, v.Reason, w.try(p, p.wrong()).Reason)
	require.Equal(t, before, w.hsm.made(), "no HMAC is made")
	w.restart()
	require.Equal(t, ReasonThrottled, w.try(p, right).Reason, "a restart forgives nothing")
	w.clock.add(30 * time.Second)
	require.True(t, w.try(p, p.password()).Accepted, "the delay is over, and throttled tries were not counted")
}

func TestTheBudgetOutlivesTheToken(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for range 3 {
		w.try(p, p.wrong())
	}
	_, err := w.Deactivate(context.Background(), branch, p.serial)
	require.NoError(t, err)
	next := w.enrol(card(1), "offline-60")
	require.Equal(t, ReasonThrottled, w.try(next, next.password()).Reason, "a new token of the same card brings no new guesses")
	other := w.enrol(card(2), "offline-60")
	require.True(t, w.try(other, other.password()).Accepted, "another customer is not touched")
}

func TestTheBudgetLocksAfterItsLimit(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	for guesses := 0; ; {
		v := w.try(p, p.wrong())
		if v.Reason == ReasonLocked {
			require.Equal(t, limits.MaxMisses, guesses)
			break
		}
		if v.Reason == ReasonMismatch {
			guesses++
		}
		w.clock.add(max(v.RetryAfter, time.Second))
	}
	require.Equal(t, ReasonLocked, w.try(p, p.password()).Reason)
	w.clock.add(31 * day)
	require.True(t, w.try(p, p.password()).Accepted, "the window has moved on")
}

func TestATokenServesOnlyItsUses(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "login", OTP: p.password()})
	require.NoError(t, err)
	require.Equal(t, ReasonNotConnected, v.Reason)
	_, err = w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "6037991234567893", OTP: p.password()})
	require.Equal(t, CodeInvalid, CodeOf(err), "what is no use is a mistake of the caller, not of the customer")
	require.Contains(t, err.Error(), "second-pin or login")
	require.True(t, w.try(p, p.password()).Accepted, "and the password is not used up")
}

func TestMalformedPasswordsAreNotLookedAt(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	good := p.password().Reveal()
	before := w.hsm.made()
	for _, typed := range []string{"", good[:5], good + "0", " " + good, good + " ", good[:3] + " " + good[3:], "１２３４５６", "12345٦", good + "\n", "-12345"} {
		_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: seed.NewPassword(typed)})
		require.Equal(t, CodeOTPMalformed, CodeOf(err), "%q", typed)
	}
	require.Equal(t, before, w.hsm.made())
	require.True(t, w.try(p, seed.NewPassword(good)).Accepted, "nothing was counted or used up")
}

// A fault of the HSM is an outage: never a verdict, never counted, and over when the HSM is back.
func TestAFaultOfTheHSMIsNeverAVerdict(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	for _, fault := range []error{seed.ErrUnavailable, seed.ErrBadBlob, seed.ErrKeyNotFound} {
		w.hsm.fail = fault
		for range 5 {
			_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
			require.Equal(t, CodeHSMUnavailable, CodeOf(err), "%v", fault)
		}
	}
	w.hsm.fail = nil
	require.True(t, w.try(p, typed).Accepted, "nothing was counted")
}

// What cannot be made durable is not decided; what may be durable is not said to be either.
func TestFaultsOfTheStoreAreNeverAVerdict(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	codes := map[error]Code{store.ErrFailed: CodeStorageUnavailable, store.ErrNoSpace: CodeStorageFull, store.ErrUnknown: CodeOutcomeUnknown}
	for fault, code := range codes {
		w.store.before = func(store.Change) error { return fault }
		_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
		require.Equal(t, code, CodeOf(err))
	}
	w.store.before = nil
	w.entries()                                                          // written: the store works again
	w.store.after = func(store.Change) error { return store.ErrUnknown } // written, but the answer is lost
	_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
	require.Equal(t, CodeOutcomeUnknown, CodeOf(err))
	w.store.after = nil
	require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason, "it was written, so it is not accepted again")
}

// A decision that lost its precondition is taken anew from the store, not repeated blindly.
func TestALostPreconditionIsDecidedAnew(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	other := w.Service
	w.restart()
	raced := false
	w.Service.Store.(*faultyStore).before = func(store.Change) error {
		if raced {
			return nil
		}
		raced = true // another node accepts the same password in between
		v, err := other.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
		require.NoError(t, err)
		require.True(t, v.Accepted)
		return nil
	}
	require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason)
	w.store.before = func(store.Change) error { return store.ErrConflict }
	_, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.wrong()})
	require.Equal(t, CodeBusy, CodeOf(err), "and not for ever")
}

// Whoever may not ask gets no answer, and the log names the attempt; if the log cannot, neither can the caller.
func TestDenialsAreLoggedAndFailClosed(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	typed := p.password()
	_, err := w.Verify(context.Background(), branch, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
	require.Equal(t, CodeDenied, CodeOf(err))
	_, err = w.Verify(context.Background(), authz.Caller{}, VerifyRequest{Serial: "6037991234567893", Use: "second-pin", OTP: typed})
	require.Equal(t, CodeDenied, CodeOf(err))
	log := w.entries()
	denied := log[len(log)-3:]
	require.Equal(t, "denied", string(denied[0].Outcome))
	require.Equal(t, "branch", denied[0].Actor)
	require.Equal(t, p.serial, denied[0].Serial)
	require.Empty(t, denied[1].Serial, "what is no serial is not logged: it may be a card number")
	w.store.before = func(store.Change) error { return store.ErrFailed }
	_, err = w.Verify(context.Background(), branch, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
}
