package hsm_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

var masterLabels = []string{"wrap", "derive", "seal", "digest", "lookup", "data", "import", "backup", "audit"}

// renote takes the token's keys, whatever they are, for those of the ceremony.
func renote(t testing.TB, tok *softhsm.Token) {
	t.Helper()
	var err error
	tok.KnownAnswers, err = hsm.CreateKeys(t.Context(), tok.Config())
	require.NoError(t, err)
}

// Each key, exchanged alone for another of the same label, is refused and named; so is one of an old version.
func TestExchangedKeysAreRefusedAndNamed(t *testing.T) {
	tok := copyOf(t, token)
	for _, label := range masterLabels {
		require.NoError(t, hsm.CreateKey(tok.Config(), seed.KeyRef{Label: label, Version: 2}))
	}
	renote(t, tok)
	require.Len(t, tok.KnownAnswers, 2*len(masterLabels))
	for version := range uint32(2) {
		for _, label := range masterLabels {
			ref := seed.KeyRef{Label: label, Version: version + 1}
			require.NoError(t, hsm.DestroyKeys(tok.Config(), ref))
			require.NoError(t, hsm.CreateKey(tok.Config(), ref))
			refused(t, tok.Config(), "self-check: "+ref.String()+" does not give the answer noted at the key ceremony",
				"another key", "hsm.known_answer_file")
			renote(t, tok)
		}
	}
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	require.NoError(t, h.Close())
}

// Each part of an answer counts.
func TestWrongKnownAnswersAreRefused(t *testing.T) {
	useShared(t)
	for i, a := range token.KnownAnswers {
		for name, part := range map[string]func(*hsm.KnownAnswer) *[]byte{
			"check": func(a *hsm.KnownAnswer) *[]byte { return &a.Check },
			"iv":    func(a *hsm.KnownAnswer) *[]byte { return &a.IV },
			"blob":  func(a *hsm.KnownAnswer) *[]byte { return &a.Blob },
		} {
			c := token.Config()
			c.KnownAnswers = slices.Clone(token.KnownAnswers)
			p := part(&c.KnownAnswers[i])
			if len(*p) == 0 {
				continue
			}
			*p = slices.Clone(*p)
			(*p)[len(*p)-1] ^= 1
			t.Run(a.Key.Label+" "+name, func(t *testing.T) { refused(t, c, a.Key.String(), "answer noted at the key ceremony") })
		}
	}
}

func TestKnownAnswersAndKeysMustMatch(t *testing.T) {
	useShared(t)
	all := token.KnownAnswers
	for i, a := range all {
		c := token.Config()
		c.KnownAnswers = slices.Delete(slices.Clone(all), i, i+1)
		refused(t, c, "no known answer is configured for "+a.Key.String()+":", "hsm.known_answer_file")
	}
	derive, data := all[1], all[5]
	ninth := derive
	ninth.Key.Version = 9
	noKey, short, bare := derive, derive, data
	noKey.Key.Label, short.Check, bare.IV = "other", short.Check[:7], nil
	for name, test := range map[string]struct {
		answers []hsm.KnownAnswer
		say     []string
	}{
		"none":           {nil, []string{"no known answer", "ramzban/audit/1, ramzban/backup/1, ramzban/data/1, ramzban/derive/1"}},
		"of no such key": {append(slices.Clone(all), ninth), []string{"no such key", "ramzban/derive/9", "restore the key"}},
		"twice":          {append(slices.Clone(all), derive), []string{"two known answers", "ramzban/derive/1", "hsm.known_answer_file"}},
		"of no label":    {append(slices.Clone(all), noKey), []string{"ramzban/other/1", "no master key"}},
		"short":          {[]hsm.KnownAnswer{short}, []string{"ramzban/derive/1", "7 bytes of check"}},
		"without IV":     {[]hsm.KnownAnswer{bare}, []string{"ramzban/data/1", "0 of iv"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := token.Config()
			c.KnownAnswers = test.answers
			refused(t, c, test.say...)
		})
	}
	require.NoError(t, open(t).Ready(t.Context()))
}

// An answer survives JSON, gives away 8 bytes of any MAC and is read strictly.
func TestKnownAnswersInJSON(t *testing.T) {
	out, err := json.Marshal(token.KnownAnswers)
	require.NoError(t, err)
	var again []hsm.KnownAnswer
	require.NoError(t, json.Unmarshal(out, &again))
	require.Equal(t, token.KnownAnswers, again)
	for _, a := range again {
		require.Len(t, a.Check, 8)
	}
	for name, in := range map[string]string{
		"of an earlier version": `[{"derive":{"label":"derive","version":1},"mac":"AAAA"}]`,
		"unknown field":         `[{"key":{"label":"seal","version":1},"check":"AAAAAAAAAAA=","more":1}]`,
		"no key":                `[{"check":"AAAAAAAAAAA="}]`,
		"nothing":               `[null]`,
		"a whole MAC":           `[{"key":{"label":"seal","version":1},"check":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]`,
		"a blob too many":       `[{"key":{"label":"seal","version":1},"check":"AAAAAAAAAAA=","blob":"AAAA"}]`,
	} {
		into := slices.Clone(token.KnownAnswers) // which must not fill gaps
		require.ErrorContains(t, json.Unmarshal([]byte(in), &into), "known answer", name)
	}
}

// objectFiles are the files in which SoftHSM keeps the token's keys.
func objectFiles(t *testing.T, tok *softhsm.Token) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(tok.Dir, "tokens", "*", "*.object"))
	require.NoError(t, err)
	return files
}

// quick opens a token of the test's own, with quick retries and a log.
func quick(t testing.TB, tok *softhsm.Token) *hsm.HSM {
	t.Helper()
	return quickWith(t, tok)
}

func quickWith(t testing.TB, tok *softhsm.Token, change ...func(*hsm.Config)) *hsm.HSM {
	t.Helper()
	c := tok.Config()
	c.ReopenInterval = 10 * time.Millisecond
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, f := range change {
		f(&c)
	}
	h, err := hsm.Open(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// A key that was there at start and is not at a generation change is an outage: no record made under it may be taken
// for a tampered one, or for one of a key that never was. When the key is back, so is the HSM.
func TestAGenerationNeedsAllKeysOfTheEarlierOnes(t *testing.T) {
	tok := copyOf(t, token)
	before := objectFiles(t, tok)
	second := seed.KeyRef{Label: "seal", Version: 2}
	require.NoError(t, hsm.CreateKey(tok.Config(), second))
	hidden := slices.DeleteFunc(objectFiles(t, tok), func(f string) bool { return slices.Contains(before, f) })
	require.Len(t, hidden, 1)
	renote(t, tok)
	h := quick(t, tok)
	sealed, err := h.Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	require.Equal(t, second, sealed.Key)

	for i, module := range []bool{true, false} {
		require.NoError(t, os.Rename(hidden[0], hidden[0]+".away"))
		h.Change(module)
		failures := h.Stats().ReopenFailures
		eventually(t, "three attempts", func() bool { return h.Stats().ReopenFailures >= failures+3 })
		require.Contains(t, h.Stats().Down, second.String())
		require.Contains(t, h.Stats().Down, "restore the key")
		unavailable(t, h.CheckSeal(t.Context(), "record", []byte("x"), sealed))
		_, err = h.Random(t.Context(), 1)
		unavailable(t, err)
		require.False(t, h.Stats().Latched)

		require.NoError(t, os.Rename(hidden[0]+".away", hidden[0]))
		eventually(t, "the key to be found", func() bool { return h.Ready(t.Context()) == nil })
		require.NoError(t, h.CheckSeal(t.Context(), "record", []byte("x"), sealed))
		require.EqualValues(t, i+2, h.Stats().Generation)
	}
}

// The answers are asked for at each generation change as well.
func TestAKeyExchangedMeanwhileIsAnOutage(t *testing.T) {
	for _, label := range masterLabels {
		t.Run(label, func(t *testing.T) {
			tok := copyOf(t, token)
			h := quick(t, tok)
			sealed, err := h.Seal(t.Context(), "record", []byte("x"))
			require.NoError(t, err)
			require.NoError(t, h.ExchangeKeyMeanwhile(seed.KeyRef{Label: label, Version: 1}))
			h.Change(true)
			eventually(t, "two attempts", func() bool { return h.Stats().ReopenFailures >= 2 })
			require.Contains(t, h.Stats().Down, "ramzban/"+label+"/1 does not give the answer")
			unavailable(t, h.CheckSeal(t.Context(), "record", []byte("x"), sealed))
			require.EqualValues(t, 1, h.Stats().Generation)
		})
	}
}

// A key ceremony beside the running service is no outage; its keys are used once their answers are known.
func TestKeysThatAppearMeanwhileAreLeftOut(t *testing.T) {
	tok := copyOf(t, token)
	h := quick(t, tok)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	for _, label := range masterLabels {
		require.NoError(t, h.CreateKeyMeanwhile(seed.KeyRef{Label: label, Version: 2}))
	}
	for i, module := range []bool{true, false} {
		h.Change(module)
		eventually(t, "the next generation", func() bool { s := h.Stats(); return s.Ready && s.Generation == uint64(i+2) })
		m, err := h.Seal(t.Context(), "record", []byte("x"))
		require.NoError(t, err)
		require.EqualValues(t, 1, m.Key.Version)
		sum, err := k.mac(t.Context(), h, []byte("message"))
		require.NoError(t, err)
		require.Equal(t, k.software([]byte("message")), sum)
	}
	require.NoError(t, h.Close())
	refused(t, tok.Config(), "no known answer is configured for ramzban/audit/2, ramzban/backup/2, ramzban/data/2")
	renote(t, tok)
	m, err := quick(t, tok).Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	require.EqualValues(t, 2, m.Key.Version)
}
