package keyservice

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Requests that need the same two tokens, named in either order and twice, all come to their turn, one at a time.
func TestLocksOfSeveralSerialsNeverWaitForEachOther(t *testing.T) {
	var l serialLocks
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	counted := 0
	for i := range 200 {
		wg.Go(func() {
			serials := []string{"a", "b", "a"}
			if i%2 == 0 {
				serials = []string{"b", "a"}
			}
			unlock, err := l.lock(ctx, serials...)
			if err == nil {
				counted++ // the race detector sees it if two hold the locks
				unlock()
			}
		})
	}
	wg.Wait()
	require.Equal(t, 200, counted)
	require.Empty(t, l.held, "a lock exists only while somebody holds or awaits it")
}

func TestALockThatIsNotGotLeavesNothingHeld(t *testing.T) {
	var l serialLocks
	unlock, err := l.lock(t.Context(), "b")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.lock(ctx, "a", "b")
	require.Equal(t, CodeBusy, CodeOf(err))
	unlock()
	require.Empty(t, l.held)
}
