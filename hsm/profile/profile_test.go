package profile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

func TestEveryProfileIsSound(t *testing.T) {
	for name, p := range profiles {
		require.Equal(t, name, p.Name)
		require.NoError(t, p.Validate())
		got, err := ByName(name)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
}

func TestByNameListsWhatThereIs(t *testing.T) {
	_, err := ByName("toaster")
	require.EqualError(t, err, `no HSM profile is named "toaster": use one of softhsm`)
}

func TestValidateSaysWhatIsWrong(t *testing.T) {
	for say, change := range map[string]func(*Profile){
		"no name":          func(p *Profile) { p.Name = "" },
		"no wrap":          func(p *Profile) { p.WrapMechanism = 0 },
		"derivation 0":     func(p *Profile) { p.Derivation = 0 },
		"OAEP variant 2":   func(p *Profile) { p.OAEP = 2 },
		"SHA1 keys of 33":  func(p *Profile) { p.MinSHA1Key = 33 },
		"SHA256 keys of":   func(p *Profile) { p.MinSHA256Key = 40 },
		"SHA512 keys of 6": func(p *Profile) { p.MinSHA512Key = 65 },
	} {
		p := SoftHSM()
		change(&p)
		require.ErrorContains(t, p.Validate(), say)
	}
	require.Equal(t, 20, SoftHSM().MinKey(seed.SHA1))
}
