package hsm_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// resident is the process's memory, in bytes.
func resident(t *testing.T) int {
	t.Helper()
	in, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size, pages int
	_, err = fmt.Sscan(string(in), &size, &pages)
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// growth is how much memory the process takes more after n seeds have been unwrapped and destroyed, and how many
// generations were scheduled by count meanwhile.
func growth(t *testing.T, n int, recycleAfter uint64) (grown int, recycled uint64) {
	t.Helper()
	h := open(t, func(c *hsm.Config) { c.SeedCache, c.Profile.RecycleAfter = 1, recycleAfter })
	defer func() { require.NoError(t, h.Close()) }()
	seeds := [2]known{wrapKnown(t, h, seed.SHA1, rfcSecret(20)), wrapKnown(t, h, seed.SHA1, rfcSecret(21))}
	use := func(n int) {
		for i := range n {
			_, err := seeds[i%2].mac(t.Context(), h, otp.Message(uint64(i)))
			require.NoError(t, err)
		}
	}
	use(1000)
	before := resident(t)
	use(n)
	return resident(t) - before, h.Stats().Recycled
}

// SoftHSM keeps some 300 bytes of every destroyed seed until C_Finalize. Generations that change by count give them
// back. The long form measures it; the same run without changes must grow, or the measurement would not see.
func TestMemoryStaysFlatOverGenerations(t *testing.T) {
	if os.Getenv("RAMZBAN_TEST_LONG") != "1" {
		_, recycled := growth(t, 2000, 500)
		require.GreaterOrEqual(t, recycled, uint64(5))
		return
	}
	leaking, _ := growth(t, 100_000, 0)
	flat, _ := growth(t, 100_000, 2000)
	t.Logf("memory grew by %d KB without generation changes, %d KB with", leaking>>10, flat>>10)
	require.Greater(t, leaking, 12<<20)
	require.Less(t, flat, leaking/2)
}
