package keyservice

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// used is a hardware token with this seed whose device has made passwords from one number to before another one.
func (w *world) used(serial, maker string, from, to uint64) string {
	w.t.Helper()
	require.NoError(w.t, w.confirmOTP(serial, pressed(w.t, maker, from)))
	for n := from + 1; n < to; n++ {
		require.True(w.t, w.typed(serial, pressed(w.t, maker, n)).Accepted)
	}
	return serial
}

// A device that was handed over after the backup is known from the log: whoever gets it next goes on where it ended, and its
// seed is in use while its token lives.
func TestADeviceThatWasHandedOverAfterTheBackup(t *testing.T) {
	const issued, later, moved = "12345678901234567890", "abcdefghijklmnopqrst", "ABCDEFGHIJKLMNOPQRST"
	w := newWorld(t)
	waiting := w.issuedHardware(card(1))
	first := w.used(w.handed(card(3), moved), moved, 0, 2)
	file := w.takeBackup()
	_, err := w.handOver(card(1), waiting, w.wrapped(issued))
	require.NoError(t, err)
	w.used(waiting.Serial, issued, 0, 4)
	w.used(w.handed(card(2), later), later, 0, 4)
	w.ended(first)
	w.used(w.handed(card(4), moved), moved, 2, 4)

	after, result := w.lostNow(file, true).restored()
	require.True(t, result.Complete)
	after.requireNothingFound()
	for i, maker := range []string{issued, later, moved} {
		serial := after.handed(card(11+i), maker)
		require.EqualValues(t, 4, after.next(serial))
		for n := range uint64(4) {
			require.Error(t, after.confirmOTP(serial, pressed(t, maker, n)))
		}
		require.NoError(t, after.confirmOTP(serial, pressed(t, maker, 4)))
		other := after.issuedHardware(card(21 + i))
		_, err := after.handOver(card(21+i), other, after.wrapped(maker))
		require.Equal(t, CodeSeedInUse, CodeOf(err))
	}
	after.requireNothingFound()

	again, result := after.lostNow(after.takeBackup(), true).restored()
	require.True(t, result.Complete)
	again.requireNothingFound()
}

// Without the archive nobody knows how far a device was used: whoever gets it next must have its counter found twice, too.
func TestADeviceOfALostLogIsFoundTwice(t *testing.T) {
	w := newWorld(t)
	serial := w.used(w.handed(card(1), makerSeed), makerSeed, 0, 2)
	file := w.takeBackup()
	require.True(t, w.typed(serial, pressed(t, makerSeed, 2)).Accepted)
	require.True(t, w.typed(serial, pressed(t, makerSeed, 3)).Accepted)

	after, result := w.lostNow(file, false).restored()
	require.False(t, result.Complete)
	after.ended(serial)
	next := after.handed(card(2), makerSeed)
	require.NoError(t, after.confirmOTP(next, pressed(t, makerSeed, 2)), "it was used, and nobody knows")
	require.Equal(t, ReasonAstray, after.typed(next, pressed(t, makerSeed, 3)).Reason)
	after.requireNothingFound()
}
