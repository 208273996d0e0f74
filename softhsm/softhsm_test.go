package softhsm_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// pseudonym is different for every lookup key.
func pseudonym(t *testing.T, tok *softhsm.Token) []byte {
	t.Helper()
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	m, err := h.Pseudonym(t.Context(), "card", seed.NewSubject("6037991234567893"))
	require.NoError(t, err)
	require.NoError(t, h.Close())
	return m.Sum
}

func TestNewMakesATokenThatOpens(t *testing.T) {
	one, other := softhsm.New(t), softhsm.New(t)
	require.NotEqual(t, one.PIN.Reveal(), other.PIN.Reveal())
	theirs := pseudonym(t, other)
	t.Setenv("SOFTHSM2_CONF", one.Conf)
	require.NotEqual(t, theirs, pseudonym(t, one), "every token has keys of its own")
}

func TestProvisionLoadsWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "token")
	first, err := softhsm.Provision(t.Context(), dir)
	require.NoError(t, err)
	want := pseudonym(t, first)
	again, err := softhsm.Provision(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, want, pseudonym(t, again))
}

// A run that was cut short left no known answer: the token is made anew.
func TestProvisionAfterAnInterruption(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, dir string){
		"before the known answer": func(t *testing.T, dir string) {},
		"before the token":        func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, "tokens"))) },
		"before the PIN": func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "tokens")))
			require.NoError(t, os.Remove(filepath.Join(dir, "pin")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			tok := softhsm.New(t)
			require.NoError(t, os.Remove(filepath.Join(tok.Dir, "known-answer.json")))
			cut(t, tok.Dir)
			again, err := softhsm.Provision(t.Context(), tok.Dir)
			require.NoError(t, err)
			pseudonym(t, again)
		})
	}
}

func TestADamagedKnownAnswerIsNotReplaced(t *testing.T) {
	tok := softhsm.New(t)
	require.NoError(t, os.WriteFile(filepath.Join(tok.Dir, "known-answer.json"), []byte("{"), 0o600))
	_, err := softhsm.Provision(t.Context(), tok.Dir)
	require.ErrorContains(t, err, "known-answer.json")
}

// A token of an earlier version is refused by words that help; its keys stay.
func TestAKnownAnswerOfAnEarlierVersionIsNotReplaced(t *testing.T) {
	tok := softhsm.New(t)
	withoutImport, err := json.Marshal(tok.KnownAnswers[:6])
	require.NoError(t, err)
	for say, old := range map[string]string{
		`unknown field "derive"`:             `[{"derive":{"label":"derive","version":1},"mac":"AAAA"}]`,
		"no known answer of the keys import": string(withoutImport),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(tok.Dir, "known-answer.json"), []byte(old), 0o600))
		_, err := softhsm.Provision(t.Context(), tok.Dir)
		require.ErrorContains(t, err, "known-answer.json")
		require.ErrorContains(t, err, say)
		require.ErrorContains(t, err, "move its folder away")
		require.NotContains(t, err.Error(), "\n")
	}
	pseudonym(t, tok)
}

func TestNobodyElseCanReadAToken(t *testing.T) {
	tok := softhsm.New(t)
	found := 0
	require.NoError(t, filepath.WalkDir(tok.Dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if path != tok.Dir { // the test's own directory
			require.Zero(t, info.Mode().Perm()&0o077, path)
			found++
		}
		return nil
	}))
	require.Greater(t, found, 6)
	answers, err := os.ReadFile(filepath.Join(tok.Dir, "known-answer.json"))
	require.NoError(t, err)
	require.False(t, strings.Contains(string(answers), tok.PIN.Reveal()))
}

func TestFindModule(t *testing.T) {
	found, err := softhsm.FindModule()
	require.NoError(t, err)
	t.Setenv(softhsm.ModuleVariable, found)
	again, err := softhsm.FindModule()
	require.NoError(t, err)
	require.Equal(t, found, again)
	t.Setenv(softhsm.ModuleVariable, "/nowhere/libsofthsm2.so")
	_, err = softhsm.FindModule()
	require.ErrorContains(t, err, "RAMZBAN_PKCS11_MODULE: stat /nowhere/libsofthsm2.so")
	_, err = softhsm.Provision(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "/nowhere/libsofthsm2.so")
}
