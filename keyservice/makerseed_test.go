package keyservice

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // HOTP's hash
	"encoding/binary"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// pressed is the password that a device with this seed shows when its button was pressed n times before (RFC 4226).
func pressed(t testing.TB, maker string, n uint64) string {
	m := hmac.New(sha1.New, []byte(maker))
	m.Write(binary.BigEndian.AppendUint64(nil, n))
	made, err := otp.Truncate(m.Sum(nil), 6)
	require.NoError(t, err)
	return made.Reveal()
}

// handed walks a new hardware token with this seed to pending.
func (w *world) handed(subject, maker string) string {
	issued := w.issuedHardware(subject)
	_, err := w.handOver(subject, issued, w.wrapped(maker))
	require.NoError(w.t, err)
	return issued.Serial
}

func (w *world) ended(serial string) {
	_, err := w.Deactivate(context.Background(), branch, serial)
	require.NoError(w.t, err)
}

func (w *world) next(serial string) uint64 {
	t, err := w.load(context.Background(), serial)
	require.NoError(w.t, err)
	return t.state.Next
}

// A device goes on counting, whichever token stands for it: a seed that comes again, however it is wrapped, begins where
// it ended, on another card too.
func TestASeedThatComesAgainAcceptsNoUsedPassword(t *testing.T) {
	for name, again := range map[string]struct{ subject, maker string }{
		"on the same card": {card(1), makerSeed}, "on another card": {card(2), makerSeed}, "with zeroes behind it": {card(1), makerSeed + "\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.handed(card(1), makerSeed)
			require.NoError(t, w.confirmOTP(first, appendixD[0]))
			for _, typed := range appendixD[1:6] {
				require.True(t, w.typed(first, typed).Accepted)
			}
			w.ended(first)
			w.restart()

			second := w.handed(again.subject, again.maker)
			require.EqualValues(t, 6, w.next(second))
			for _, used := range appendixD[2:5] {
				require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(second, used)))
			}
			require.NoError(t, w.confirmOTP(second, appendixD[6]))
			for _, used := range appendixD[:6] {
				require.False(t, w.typed(second, used).Accepted, used)
				require.NoError(t, w.unlocked(again.subject))
			}
			require.True(t, w.typed(second, appendixD[7]).Accepted)
			w.ended(second)
			require.EqualValues(t, 8, w.next(w.handed(card(3), makerSeed)), "and so on")
			w.requireNothingFound()
		})
	}
}

func (w *world) requireNothingFound() {
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(w.t, err)
	require.Empty(w.t, found)
}

// The same blob again is the same seed again.
func TestTheSameBlobComesAgain(t *testing.T) {
	w := newWorld(t)
	first, maker := w.issuedHardware(card(1)), w.wrapped(makerSeed)
	_, err := w.handOver(card(1), first, maker)
	require.NoError(t, err)
	require.NoError(t, w.confirmOTP(first.Serial, appendixD[3]))
	w.ended(first.Serial)
	second := w.issuedHardware(card(1))
	_, err = w.handOver(card(1), second, maker)
	require.NoError(t, err)
	require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(second.Serial, appendixD[3])))
	require.NoError(t, w.confirmOTP(second.Serial, appendixD[4]))
}

// One device is one token: until that is deactivated, no other gets its seed, and none of it changes anything.
func TestASeedIsInUseUntilItsTokenIsDeactivated(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first, other := w.handed(card(1), makerSeed), w.issuedHardware(card(2))
	refused := func(why string) {
		before := w.stored()
		_, err := w.handOver(card(2), other, w.wrapped(makerSeed))
		require.Equal(t, CodeSeedInUse, CodeOf(err), why)
		require.Equal(t, before, w.stored())
	}
	refused("pending")
	require.NoError(t, w.confirmOTP(first, appendixD[0]))
	refused("active")
	_, err := w.Suspend(ctx, branch, first)
	require.NoError(t, err)
	refused("suspended")
	w.ended(first)
	_, err = w.handOver(card(2), other, w.wrapped(makerSeed))
	require.NoError(t, err)
	require.NoError(t, w.confirmOTP(other.Serial, appendixD[1]))
}

// Of requests at the same time with one seed for several cards, one is carried out.
func TestOneOfSeveralGetsTheSeed(t *testing.T) {
	w := newWorld(t)
	var done sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		issued, maker := w.issuedHardware(card(i)), w.wrapped(makerSeed)
		request := ActivateRequest{Serial: issued.Serial, Subject: seed.NewSubject(card(i)), Code: w.code(issued), MakerSeed: maker}
		done.Add(1)
		go func() {
			defer done.Done()
			_, errs[i] = w.Activate(context.Background(), mobileBank, request)
		}()
	}
	done.Wait()
	count := map[string]int{}
	for _, err := range errs {
		count[answered(err)]++
	}
	require.Equal(t, map[string]int{"ok": 1, string(CodeSeedInUse): len(errs) - 1}, count)
	w.requireNothingFound()
}

// Whether a commit was made or not, and whatever its answer, the seed belongs to the token that has it.
func TestTheSeedsRowOverCrashes(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first := w.handed(card(1), makerSeed)
	require.NoError(t, w.confirmOTP(first, appendixD[5]))
	later := w.issuedHardware(card(2))
	crash := func(made bool, fn func() error) {
		if made {
			w.store.after = func(store.Change) error { w.store.after = nil; return store.ErrUnknown }
		} else {
			w.store.before = func(store.Change) error { w.store.before = nil; return store.ErrFailed }
		}
		require.Error(t, fn())
		w.restart()
	}
	deactivate := func() error { return second(w.Deactivate(ctx, branch, first)) }
	request := ActivateRequest{Serial: later.Serial, Subject: seed.NewSubject(card(2)), Code: w.code(later), MakerSeed: w.wrapped(makerSeed)}
	take := func() error { return second(w.Activate(ctx, mobileBank, request)) }

	crash(false, deactivate)
	require.Equal(t, CodeSeedInUse, CodeOf(take()), "it was not deactivated")
	crash(true, deactivate)
	require.Equal(t, Deactivated, w.shown(first).Status)
	crash(false, take)
	require.Equal(t, Issued, w.shown(later.Serial).Status)
	crash(true, take)
	require.Equal(t, Pending, w.shown(later.Serial).Status)
	third := w.issuedHardware(card(3))
	_, err := w.handOver(card(3), third, w.wrapped(makerSeed))
	require.Equal(t, CodeSeedInUse, CodeOf(err))
	require.EqualValues(t, 6, w.next(later.Serial))
	require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(later.Serial, appendixD[5])))
	require.NoError(t, w.confirmOTP(later.Serial, appendixD[6]))
	w.requireNothingFound()
}

// Rows of seeds that were exchanged are seen when a seed comes again; one that was removed, or an older one, by comparing
// the log.
func TestExchangedAndOlderSeedRowsAreSeen(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	const other = "09876543210987654321"
	first, second := w.handed(card(1), makerSeed), w.handed(card(2), other)
	require.NoError(t, w.confirmOTP(first, appendixD[0]))
	require.NoError(t, w.confirmOTP(second, pressed(t, other, 4)))
	w.ended(first)
	w.ended(second)
	keys := make([]store.Key, 2)
	for i, serial := range []string{first, second} {
		tok, err := w.load(ctx, serial)
		require.NoError(t, err)
		keys[i] = makerSeedKey(tok.Maker.Fingerprint)
	}
	one, two := w.row(keys[0]), w.row(keys[1])
	third := w.issuedHardware(card(3))
	w.attack([]store.Put{{Key: keys[0], Value: two.Value}, {Key: keys[1], Value: one.Value}})
	for _, maker := range []string{makerSeed, other} {
		_, err := w.handOver(card(3), third, w.wrapped(maker))
		require.Equal(t, CodeTampered, CodeOf(err))
	}
	found, err := w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.ElementsMatch(t, []Discrepancy{{Serial: first, What: "maker seed", Logged: 1, Stored: 0}, {Serial: second, What: "maker seed", Logged: 1, Stored: 0}}, found)
	w.attack([]store.Put{one, two})
	w.requireNothingFound()

	_, err = w.handOver(card(3), third, w.wrapped(makerSeed))
	require.NoError(t, err)
	w.attack([]store.Put{one})
	found, err = w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Equal(t, []Discrepancy{{Serial: third.Serial, What: "maker seed", Logged: 2, Stored: 1}}, found, "an older row")
	w.attack(nil, keys[0])
	found, err = w.CompareAudit(ctx, auditor)
	require.NoError(t, err)
	require.Len(t, found, 2, "none")
}
