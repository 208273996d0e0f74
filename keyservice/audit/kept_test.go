package audit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
)

// What removed entries said stands for them: what comes after is held against it, what may have come before is not.
func TestKeptNumbersStandForRemovedEntries(t *testing.T) {
	at := func(minutes int) int64 {
		return time.Date(2026, 11, 22, 10, minutes, 0, 0, time.UTC).UnixMilli()
	}
	write := func(state, next uint64, minute int) audit.Entry {
		return audit.Entry{Serial: "1", State: state, Next: next, Time: at(minute)}
	}
	guess := func(number uint64, minute int) audit.Entry {
		return audit.Entry{Serial: "1", Use: "login", Budget: number, Time: at(minute)}
	}
	said := audit.Kept{}
	for _, e := range []audit.Entry{write(2, 20, 2), guess(4, 3), write(4, 40, 4), {Serial: "2", Time: at(9), State: 7, Also: []audit.Part{{Serial: "1", Revision: 3, Next: 99}}}} {
		said = said.And(audit.Said(e)["1"])
	}
	require.Equal(t, audit.Kept{Revision: 3, State: 4, Next: 40, Budgets: map[string]uint64{"login": 4}, Until: at(9)}, said)
	for name, c := range map[string]struct {
		e    audit.Entry
		want string
	}{
		"goes on":                    {write(5, 50, 20), ""},
		"another log's, between":     {write(3, 30, 3), ""},
		"an older one, used again":   {write(3, 30, 20), audit.LoggedTwice},
		"the last one once more":     {write(4, 41, 20), audit.LoggedTwice},
		"a lower watermark":          {write(5, 39, 20), audit.WatermarkBack},
		"a guess":                    {guess(5, 20), ""},
		"a guess, between":           {guess(3, 3), ""},
		"a budget put back and used": {guess(3, 20), audit.LoggedTwice},
	} {
		tokens := audit.Tokens{}
		tokens.Keep("1", said)
		found := tokens.Remember(c.e)
		if c.want == "" {
			require.Empty(t, found, name)
			continue
		}
		require.Equal(t, []audit.Contradiction{{Serial: "1", What: c.want}}, found, name)
	}
	tokens := audit.Tokens{}
	tokens.Keep("1", said)
	require.Empty(t, tokens["1"].Silent(3, 4))
	require.NotEmpty(t, tokens["1"].Silent(3, 5))

	gone := audit.Said(audit.Entry{Action: audit.RestoredGone, Time: at(5), Also: []audit.Part{{Serial: "1"}}})["1"]
	require.Equal(t, audit.Kept{Until: at(5), Gone: true}, gone)
	require.Equal(t, said, said.And(gone), "it was written to afterwards")
	before := audit.Said(write(4, 40, 4))["1"]
	require.Equal(t, gone, before.And(gone))
	require.Equal(t, gone, gone.And(before))
	tokens.Keep("1", gone)
	require.Empty(t, tokens.Remember(write(4, 40, 4)))
	require.Zero(t, tokens["1"].States.End(), "of a token that is gone nothing is to be there")
}
