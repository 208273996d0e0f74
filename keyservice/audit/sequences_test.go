package audit

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// In whatever order the logs are read: one run is left, and nothing is found, if and only if every write is there once
// and no watermark is lower than that of the write before it.
func TestSequencesFindEveryContradiction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(1, 40).Draw(t, "writes")
		type write struct{ number, watermark uint64 }
		writes := make([]write, n)
		for i := range writes {
			writes[i] = write{uint64(i) + 1, 0}
			if i > 0 {
				writes[i].watermark = writes[i-1].watermark + rapid.Uint64Range(0, 3).Draw(t, "step")
			}
		}
		wrong := rapid.SampledFrom([]string{"", LoggedTwice, NotLogged, WatermarkBack}).Draw(t, "wrong")
		at := rapid.IntRange(0, int(n)-1).Draw(t, "at")
		want := wrong
		switch {
		case wrong == LoggedTwice:
			writes = append(writes, writes[at])
		case wrong == NotLogged:
			writes = append(writes[:at], writes[at+1:]...)
		case wrong == WatermarkBack && at > 0:
			writes[at-1].watermark = writes[at].watermark + 1
		default:
			want = ""
		}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		random.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
		found := ""
		var s Sequences
		for _, w := range writes {
			if what := s.Add(OneWrite(w.number, w.watermark, int64(w.number))); what != "" {
				found = what
			}
		}
		missing, until := uint64(at)+1, int64(at)+2
		if missing == n {
			until = 0
		}
		for _, g := range s.Gaps(n) {
			require.Equal(t, Gap{missing, missing, int64(at), until}, g)
			found = NotLogged
		}
		require.Equal(t, want, found)
		if want == "" {
			require.Len(t, s, 1, "memory does not grow with the writes")
		}
	})
}
