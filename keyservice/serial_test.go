package keyservice

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// One mistyped digit, or two neighbours exchanged (but 09 and 90, which Luhn cannot tell apart), is always noticed.
func TestSerialsCatchMistypedDigits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		serial := makeSerial(rapid.StringMatching(`[0-9]{11}`).Draw(t, "digits"))
		require.NoError(t, checkSerial(serial))
		i := rapid.IntRange(0, serialLength-1).Draw(t, "where")
		typed := []byte(serial)
		typed[i] = '0' + (typed[i]-'0'+byte(rapid.IntRange(1, 9).Draw(t, "by")))%10
		require.Error(t, checkSerial(string(typed)))
		j := rapid.IntRange(0, serialLength-2).Draw(t, "swap")
		swapped := []byte(serial)
		swapped[j], swapped[j+1] = swapped[j+1], swapped[j]
		if swapped[j] != swapped[j+1] && swapped[j]+swapped[j+1] != '0'+'9' {
			require.Error(t, checkSerial(string(swapped)))
		}
	})
}

func TestSerialForm(t *testing.T) {
	for _, s := range []string{"", "1", "40251993846", "4025199384611", "40251993846a", "40251993846１", " 02519938461"} {
		require.Equal(t, CodeSerialInvalid, CodeOf(checkSerial(s)), "%q", s)
	}
	require.True(t, luhnValid("79927398713"), "the example of ISO/IEC 7812-1")
}
