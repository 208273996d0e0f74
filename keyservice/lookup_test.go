package keyservice

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// standsUnderVersions says under which versions of the lookup key rows of this subject stand, and how many.
func (w *world) standsUnderVersions(subject string) map[uint32]int {
	w.t.Helper()
	counts := map[uint32]int{}
	for _, v := range w.ring.Load().Versions {
		if v.Key.Label != lookupLabel {
			continue
		}
		sum, err := theHSM.PseudonymWith(context.Background(), v.Key, ClassCard, seed.NewSubject(subject))
		require.NoError(w.t, err)
		of := seed.MACed{Key: v.Key, Sum: sum}
		w.rows(func(it store.Item) {
			budget := len(it.Key) > 2 && it.Key[:2] == "b/" && it.Key[:len(budgetsOf(of))] == budgetsOf(of)
			if budget || it.Key == liveKey(ClassCard, KindOffline, of) || it.Key == liveKey(ClassCard, KindSMS, of) {
				counts[v.Key.Version]++
			}
		})
	}
	return counts
}

// Whoever is seen moves as a whole, with every miss; and is found before, meanwhile and after.
func TestASubjectMovesAtItsNextSight(t *testing.T) {
	for name, see := range map[string]func(*world, *phone){
		"verification by subject": func(w *world, p *phone) { require.True(w.t, w.verify(bySubject(card(1), p.password())).Accepted) },
		"a wrong password":        func(w *world, p *phone) { require.False(w.t, w.verify(bySubject(card(1), p.wrong())).Accepted) },
		"SMS":                     func(w *world, _ *phone) { w.ask(card(1), nil) },
		"issue": func(w *world, _ *phone) {
			_, err := w.Issue(context.Background(), branch, w.issueRequest(card(1), "offline-60"))
			require.Equal(w.t, CodeLiveTokenExists, CodeOf(err))
		},
		"show": func(w *world, _ *phone) {
			views, err := w.SubjectTokens(context.Background(), branch, ClassCard, seed.NewSubject(card(1)))
			require.NoError(w.t, err)
			require.Len(w.t, views, 2)
		},
		"activation": func(w *world, p *phone) {
			_, err := w.Activate(context.Background(), mobileBank, ActivateRequest{Class: ClassCard, Subject: seed.NewSubject(card(1)),
				Code: seed.NewCode("00000000"), DeviceID: p.id, Channel: ChannelApp, KeyDER: p.der})
			require.Equal(w.t, CodeActivationWrong, CodeOf(err))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrol(card(1), "counter-6")
			w.optedIn(card(1), "second-pin")
			for range 2 {
				w.try(p, p.wrong())
			}
			w.reveal(key(lookupLabel, 2))
			id := w.begins(lookupLabel, 1, 2)
			require.True(t, w.try(p, p.password()).Accepted, "by serial nobody moves")
			w.try(p, p.wrong())
			require.Equal(t, map[uint32]int{1: 5}, w.standsUnderVersions(card(1)))
			require.Equal(t, RotationWaiting, w.renewsAll(id).State)
			see(w, p)
			require.Equal(t, map[uint32]int{2: 5}, w.standsUnderVersions(card(1)))
			misses := 3
			if name == "a wrong password" {
				misses++
			}
			require.Equal(t, misses, w.misses(card(1)), "no miss is lost or doubled")
			_, err := w.ResumeRotation(context.Background(), alice, id)
			require.NoError(t, err)
			require.Equal(t, RotationDone, w.renewsAll(id).State)
			w.requireNothingFound()
			require.True(t, w.try(p, p.password()).Accepted)
		})
	}
}

// Codes on their way when a subject moves still count.
func TestCodesOutliveAMove(t *testing.T) {
	w := newWorld(t)
	waits := w.issued(card(1), "offline-60")
	code := w.code(waits)
	w.optedIn(card(1), "second-pin")
	sms := w.ask(card(1), &payment)
	w.reveal(key(lookupLabel, 2))
	w.begins(lookupLabel, 1, 2)
	require.True(t, w.verify(paying(card(1), sms.typed(), payment)).Accepted)
	require.Equal(t, code.Reveal(), w.code(waits).Reveal())
	p := w.newPhone(0)
	_, err := w.Activate(context.Background(), mobileBank, p.request(card(1), waits, code))
	require.NoError(t, err)
}

// The rotation ends by a feed; tokens that have ended and old strangers need none.
func TestAFeedEndsARotationOfTheLookupKey(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.reveal(key(lookupLabel, 3), key(lookupLabel, 4))
	w.rotates(lookupLabel, 1, 3)
	var phones []*phone
	for i := range 3 {
		phones = append(phones, w.enrol(card(i), "counter-6"))
	}
	w.ended(w.enrol(card(8), "counter-6").serial)
	require.False(t, w.verify(bySubject(card(9), phones[0].wrong())).Accepted, "a stranger's guess about a stranger")
	hardware, gone := w.handed(card(10), makerSeed), w.handed(card(11), "09876543210987654321")
	require.NoError(t, w.confirmOTP(gone, pressed(t, "09876543210987654321", 4)))
	w.ended(gone)

	id := w.begins(lookupLabel, 3, 4)
	v := w.renewsAll(id)
	require.Equal(t, RotationWaiting, v.State)
	require.Equal(t, Dependents{"token record": 4, "live token": 4, "guess budget": 4*3 + 1}, v.Left, "the ended token is let go, and its device's seed holds nothing up")

	var list []FedSubject
	for i := range 12 {
		list = append(list, FedSubject{ClassCard, seed.NewSubject(card(i))})
	}
	list[7].Subject = seed.NewSubject("1234")
	_, err := w.FeedSubjects(ctx, alice, id, list)
	require.Equal(t, CodeProposalClosed, CodeOf(err), "two officers must agree first")
	fed := w.agreed(ActionFeed, SubjectFeed{Days: 1})
	result, err := w.FeedSubjects(ctx, alice, fed.ID, list)
	require.NoError(t, err)
	require.Equal(t, FedResult{Fed: 11, Malformed: []int{7}}, result)
	again, err := w.FeedSubjects(ctx, alice, fed.ID, list)
	require.NoError(t, err)
	require.Equal(t, result, again, "to be fed twice does no harm, and looks the same as once")
	_, err = w.FeedSubjects(ctx, branch, fed.ID, list)
	require.Equal(t, CodeDenied, CodeOf(err))

	_, err = w.ResumeRotation(ctx, alice, id)
	require.NoError(t, err)
	require.Equal(t, RotationDone, w.renewsAll(id).State)
	w.requireNothingFound()
	w.retires(lookupLabel, 3)
	w.destroys(lookupLabel, 3)
	w.restart()
	for i, p := range phones {
		require.True(t, w.verify(bySubject(card(i), p.password())).Accepted)
	}
	require.NoError(t, w.confirmOTP(hardware, appendixD[0]))
	second := w.handed(card(12), "09876543210987654321")
	require.EqualValues(t, 5, w.next(second), "a device that comes again under the new keys begins where it ended")
	require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(second, pressed(t, "09876543210987654321", 4))))
	w.clock.add(25 * time.Hour)
	_, err = w.FeedSubjects(ctx, alice, fed.ID, list)
	require.Equal(t, CodeProposalClosed, CodeOf(err), "the feed is over")
	w.requireNothingFound()
}

// A rotation that waits for a customer who is never seen is in no other one's way: a further one begins, and whoever is seen
// then moves to the version that is active by then.
func TestARotationBeginsWhileAnotherOneWaits(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	w.reveal(key(lookupLabel, 2), key(lookupLabel, 5))
	first := w.begins(lookupLabel, 1, 2)
	refusal := w.refusedToPropose(ActionRotate, KeyRotation{Label: lookupLabel, From: 2, To: 5})
	require.Equal(t, CodeRotationRunning, refusal.Code, "its first pass is not over")
	require.Equal(t, RotationWaiting, w.renewsAll(first).State)
	refusal = w.refusedToPropose(ActionRotate, KeyRotation{Label: lookupLabel, From: 2, To: 1})
	require.Equal(t, CodeRotationRunning, refusal.Code, "what the first one is to end cannot be active again")
	other := w.enrol(card(2), "counter-6")
	second := w.begins(lookupLabel, 2, 5)
	require.Equal(t, RotationWaiting, w.renewsAll(second).State)
	require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
	require.Equal(t, map[uint32]int{5: 4}, w.standsUnderVersions(card(1)), "from the oldest to the newest at once")
	w.clock.add(w.Renewal.withDefaults().Retry)
	require.Equal(t, RotationWaiting, w.renewsAll(second).State)
	require.Equal(t, RotationDone, w.rotation(first).State)
	require.True(t, w.verify(bySubject(card(2), other.password())).Accepted)
	w.clock.add(w.Renewal.withDefaults().Retry)
	require.Equal(t, RotationDone, w.renewsAll(second).State)
	w.requireNothingFound()
}

// A guess budget without a token stays as long as it has a miss that may count, and goes then.
func TestOldBudgetsOfNobodyGo(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "counter-6")
	require.False(t, w.verify(bySubject(card(9), p.wrong())).Accepted)
	require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
	w.reveal(key(lookupLabel, 2))
	id := w.begins(lookupLabel, 1, 2)
	require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
	require.Equal(t, Dependents{"guess budget": 1}, w.renewsAll(id).Left)
	w.clock.add((maxWindow + 1) * day)
	require.Equal(t, RotationDone, w.renewsAll(id).State)
}

// No card number stands in any stored byte or entry, whoever was fed.
func TestWhatIsFedIsKeptNowhere(t *testing.T) {
	w := newWorld(t)
	w.enrol(card(1), "counter-6")
	w.reveal(key(lookupLabel, 2))
	w.begins(lookupLabel, 1, 2)
	fed := w.agreed(ActionFeed, SubjectFeed{Days: 1})
	_, err := w.FeedSubjects(context.Background(), alice, fed.ID, []FedSubject{{ClassCard, seed.NewSubject(card(1))}, {ClassCard, seed.NewSubject(card(2))}})
	require.NoError(t, err)
	w.rows(func(it store.Item) {
		for _, number := range []string{card(1), card(2)} {
			require.NotContains(t, string(it.Value), number)
			require.NotContains(t, string(it.Key), number)
		}
	})
}

// Rows put back under the old pseudonym give nobody a second token or fresh guesses: it is alarmed.
func TestRowsPutBackUnderTheOldPseudonymAreSeen(t *testing.T) {
	for name, of := range map[string]func(seed.MACed) store.Key{
		"live token":   func(subject seed.MACed) store.Key { return liveKey(ClassCard, KindOffline, subject) },
		"guess budget": func(subject seed.MACed) store.Key { return budgetKey(subject, "second-pin") },
	} {
		w := newWorld(t)
		p := w.enrol(card(1), "counter-6")
		tok, err := w.load(context.Background(), p.serial)
		require.NoError(t, err)
		old := w.row(of(tok.Subject))
		w.reveal(key(lookupLabel, 2))
		w.begins(lookupLabel, 1, 2)
		require.True(t, w.verify(bySubject(card(1), p.password())).Accepted)
		w.attack([]store.Put{old})
		_, err = w.Verify(context.Background(), coreBanking, bySubject(card(1), p.password()))
		require.Equal(t, CodeTampered, CodeOf(err), name)
		log := w.entries()
		require.Equal(t, [...]string{string(audit.Tampered), name}, [...]string{string(log[len(log)-2].Outcome), log[len(log)-2].Reason})
	}
}

// While the lookup key is rotated, many requests about few subjects, by serial, by subject and to issue, lose no miss,
// count none twice, and never give a subject two live tokens of a kind.
func TestMovingLosesAndDoublesNothing(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t)
		phones := []*phone{w.enrol(card(0), "counter-6"), w.enrol(card(1), "counter-6")}
		misses := []int{0, 0}
		var mu sync.Mutex
		act := func(what, who int) {
			p := phones[who]
			var v Verdict
			var err error
			switch what {
			case 0:
				v, err = w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: p.wrong()})
			case 1:
				v, err = w.Verify(context.Background(), coreBanking, bySubject(card(who), p.wrong()))
			case 2:
				_, err := w.Issue(context.Background(), branch, w.issueRequest(card(who), "offline-60"))
				require.Equal(t, CodeLiveTokenExists, CodeOf(err))
				return
			case 3:
				_, err := w.SetUses(context.Background(), branch, p.serial, []string{"second-pin", "login"})
				require.NoError(t, err)
				return
			}
			require.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			if v.Reason == ReasonMismatch {
				misses[who]++
			}
		}
		actions := rapid.SliceOfN(rapid.IntRange(0, 7), 4, 12).Draw(r, "actions")
		rotateAt := rapid.IntRange(0, len(actions)-1).Draw(r, "rotation")
		w.reveal(key(lookupLabel, 2))
		for i := 0; i < len(actions); i += 2 {
			var together sync.WaitGroup
			for _, a := range actions[i:min(i+2, len(actions))] {
				together.Go(func() { act(a/2, a%2) })
			}
			if i/2 == rotateAt/2 {
				together.Go(func() { w.begins(lookupLabel, 1, 2) })
			}
			together.Wait()
		}
		for who := range phones {
			require.NoError(t, w.seen(card(who)))
			require.Len(t, w.standsUnderVersions(card(who)), 1, "under one version only")
			require.Contains(t, w.standsUnderVersions(card(who)), uint32(2))
			require.Equal(t, misses[who], w.misses(card(who)))
		}
		w.requireNothingFound()
	})
}

// misses are those that a subject's budget has.
func (w *world) misses(subject string) (n int) {
	for _, of := range w.guesses(subject).Days {
		n += of
	}
	return n
}

// seen shows a subject to an issuer, which moves it.
func (w *world) seen(subject string) error {
	_, err := w.SubjectTokens(context.Background(), branch, ClassCard, seed.NewSubject(subject))
	return err
}
