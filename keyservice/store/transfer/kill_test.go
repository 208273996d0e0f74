package transfer_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/storetest"
	"ramzban/keyservice/store/transfer"
)

// The child is this binary again; it copies from one place to another, and dies.
const (
	childFrom = "RAMZBAN_TEST_COPY_FROM"
	childTo   = "RAMZBAN_TEST_COPY_TO"
)

// copyUntilKilled writes a line when both databases are open and for everything that is reported, and ends the process when
// it is done.
func copyUntilKilled(from, to place) error {
	_, err := both(from, to, func(from, to transfer.Database) (transfer.Result, error) {
		fmt.Println("open")
		return transfer.Copy(context.Background(), from, to, func(step string, done, all uint64) { fmt.Println(step, done, all) })
	})
	if err == nil {
		fmt.Println("done")
		os.Exit(0)
	}
	return err
}

// killCopy starts a copy and kills it after so many lines and a moment more. It returns the last one.
func killCopy(t testing.TB, from, to place, lines int) (last string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.Command(self)
	child.Env = append(os.Environ(), childFrom+"="+string(from), childTo+"="+string(to))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	text := bufio.NewScanner(out)
	for n := 0; n < lines && text.Scan(); n++ {
		last = text.Text()
	}
	<-time.After(rand.N(8 * time.Millisecond)) // the moment is the point
	_ = child.Process.Kill()                   // it may have ended by itself
	_ = child.Wait()
	return last
}

// TestKilledCopies at random moments: what is fenced stays fenced, and the next one finishes.
func TestKilledCopies(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		from, to := p.from(t), p.to(t)
		all := from.fill(t, storetest.Scaled(6000, 60_000))
		kills, last := 0, ""
		for n := 1; ; n += 1 + rand.IntN(4) {
			if last = killCopy(t, from, to, n); last == "done" {
				break
			}
			kills++
			requireOneServes(t, from, to, false)
		}
		t.Logf("%d killed", kills)
		require.NotZero(t, kills)
		_, err := from.copyTo(to)
		require.NoError(t, err)
		from.requireMoved(t, "it was moved to", "serve from there")
		to.serve(t, "a", func(s storetest.Store) { require.Equal(t, all, content(t, s)) })
	})
}

// requireOneServes fails the test if nodes can open both databases and find rows there; also if they can open neither, if
// one must serve.
func requireOneServes(t testing.TB, from, to place, must bool) {
	t.Helper()
	serving := 0
	for _, p := range []place{from, to} {
		var opens bool
		p.with(t, func(d database) {
			fence, err := d.Fence(context.Background())
			require.NoError(t, err)
			rows, err := d.Count(context.Background())
			require.NoError(t, err)
			opens = fence.Check() == nil && rows > 0
		})
		if opens {
			serving++
		}
	}
	require.LessOrEqual(t, serving, 1)
	if must {
		require.Equal(t, 1, serving)
	}
}
