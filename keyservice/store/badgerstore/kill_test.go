package badgerstore

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/storetest"
)

// TestKilledProcess kills writers at random moments: while they open and recover, and under load. Everything
// acknowledged is there afterwards, and indexes are dense.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var acks []byte
	for round := range storetest.Scaled(3, 30) {
		writer := startChild(t, dir)
		if round%3 == 1 {
			<-time.After(rand.N(150 * time.Millisecond)) // the moment is the point: perhaps it is still recovering
		} else {
			waitForAcks(t, writer, 200+rand.IntN(4000))
		}
		writer.kill()
		fresh := writer.acknowledged(t)
		acks = append(acks, wholeLines(fresh)...)
		if round%4 == 3 {
			continue // the next writer recovers by itself
		}
		requireAcknowledged(t, dir, fresh)
	}
	n := requireAcknowledged(t, dir, acks)
	t.Logf("%d acknowledged commits survived", n)
	require.Greater(t, n, 400)
}

func requireAcknowledged(t testing.TB, dir string, acks []byte) int {
	t.Helper()
	s := openTest(t, crashOptions(dir))
	n, lost := storetest.Lost(t, s, acks)
	require.Zero(t, lost, "of %d acknowledged commits", n)
	storetest.RequireWhole(t, s)
	require.NoError(t, s.Close())
	return n
}

// waitForAcks waits until a writer has acknowledged so many commits.
func waitForAcks(t testing.TB, c *child, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return bytes.Count(c.acknowledged(t), []byte("\n")) >= n }, time.Minute, 2*time.Millisecond)
}

func wholeLines(b []byte) []byte { return b[:bytes.LastIndexByte(b, '\n')+1] }
