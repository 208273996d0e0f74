package hsm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/hsm/profile"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// refused opens and expects an error of one line that holds all of say.
func refused(t *testing.T, c hsm.Config, say ...string) error {
	t.Helper()
	h, err := hsm.Open(t.Context(), c)
	if err == nil {
		require.NoError(t, h.Close())
	}
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	if pin := c.PIN.Reveal(); pin != "" {
		require.NotContains(t, err.Error(), pin)
	}
	for _, s := range say {
		require.ErrorContains(t, err, s)
	}
	return err
}

func TestOpenSaysWhatToDo(t *testing.T) {
	useShared(t)
	noModule := filepath.Join(t.TempDir(), "text.so")
	require.NoError(t, os.WriteFile(noModule, []byte("not a library"), 0o600))
	for name, test := range map[string]struct {
		change func(*hsm.Config)
		say    []string
	}{
		"no module":        {func(c *hsm.Config) { c.Module = "/nowhere/x.so" }, []string{"/nowhere/x.so", "hsm.module"}},
		"not a module":     {func(c *hsm.Config) { c.Module = noModule }, []string{"cannot be loaded", "hsm.module"}},
		"module not set":   {func(c *hsm.Config) { c.Module = "" }, []string{"hsm.module"}},
		"no such token":    {func(c *hsm.Config) { c.TokenLabel = "other" }, []string{`"other"`, "hsm.token_label"}},
		"label not set":    {func(c *hsm.Config) { c.TokenLabel = "" }, []string{"hsm.token_label"}},
		"wrong PIN":        {func(c *hsm.Config) { c.PIN = seed.NewPIN("0000-wrong") }, []string{"refused the PIN", "CKR_PIN_INCORRECT"}},
		"no PIN":           {func(c *hsm.Config) { c.PIN = seed.NewPIN("") }, []string{"PIN is empty"}},
		"no Fatal":         {func(c *hsm.Config) { c.Fatal = nil }, []string{"Fatal"}},
		"too many":         {func(c *hsm.Config) { c.PoolSessions = 1018 }, []string{"1025 HSM sessions", "1024"}},
		"negative":         {func(c *hsm.Config) { c.SeedCache = -1 }, []string{"negative"}},
		"negative time":    {func(c *hsm.Config) { c.DrainTimeout = -1 }, []string{"negative"}},
		"no profile":       {func(c *hsm.Config) { c.Profile = profile.Profile{} }, []string{"profile"}},
		"other wrapping":   {func(c *hsm.Config) { c.Profile.PadsBeforeWrapping = false }, []string{"0x210A", "20 bytes", "RFC 5649"}},
		"unwrap by length": {func(c *hsm.Config) { c.Profile.UnwrapNeedsLength = true }, []string{"self-check", "unwrap"}},
		"AES key wrap": {func(c *hsm.Config) { c.Profile.WrapMechanism, c.Profile.AllowedMechanisms = 0x2109, false },
			[]string{"0x2109", "20 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := token.Config()
			test.change(&c)
			refused(t, c, test.say...)
		})
	}
	require.NoError(t, open(t).Ready(t.Context()), "a refused opening leaves the module usable")
}

func TestAModuleIsOpenedOncePerProcess(t *testing.T) {
	h := open(t)
	_, err := hsm.Open(t.Context(), token.Config())
	require.ErrorContains(t, err, "already open")
	require.ErrorContains(t, hsm.InitToken(hsm.NewToken{Module: token.Module, Label: "x"}), "already open")
	require.NoError(t, h.Ready(t.Context()))
}

// spoil replaces a master key of a token of its own by one with other attributes.
func spoil(t *testing.T, tok *softhsm.Token, label string, instead ...hsm.Attribute) {
	t.Helper()
	ref := seed.KeyRef{Label: label, Version: 1}
	require.NoError(t, hsm.DestroyKeys(tok.Config(), ref))
	require.NoError(t, hsm.CreateKey(tok.Config(), ref, instead...))
}

func TestKeysWithOtherAttributesAreRefused(t *testing.T) {
	tok := copyOf(t, token)
	for name, test := range map[string]struct {
		label   string
		instead hsm.Attribute
		say     string
	}{
		"wrap signs":         {"wrap", hsm.Attribute{Type: pkcs11.CKA_SIGN, Value: true}, "CKA_SIGN must be false"},
		"wrap decrypts":      {"wrap", hsm.Attribute{Type: pkcs11.CKA_DECRYPT, Value: true}, "CKA_DECRYPT must be false"},
		"wrap unwraps not":   {"wrap", hsm.Attribute{Type: pkcs11.CKA_UNWRAP, Value: false}, "CKA_UNWRAP must be true"},
		"derive encrypts":    {"derive", hsm.Attribute{Type: pkcs11.CKA_ENCRYPT, Value: true}, "CKA_ENCRYPT must be false"},
		"derive may leave":   {"derive", hsm.Attribute{Type: pkcs11.CKA_EXTRACTABLE, Value: true}, "CKA_EXTRACTABLE must be false"},
		"data shows":         {"data", hsm.Attribute{Type: pkcs11.CKA_SENSITIVE, Value: false}, "CKA_SENSITIVE must be true"},
		"data in short":      {"data", hsm.Attribute{Type: pkcs11.CKA_VALUE_LEN, Value: 16}, "CKA_VALUE_LEN must be 32"},
		"seal verifies":      {"seal", hsm.Attribute{Type: pkcs11.CKA_VERIFY, Value: true}, "CKA_VERIFY must be false"},
		"seal is public":     {"seal", hsm.Attribute{Type: pkcs11.CKA_PRIVATE, Value: false}, "CKA_PRIVATE must be true"},
		"digest derives":     {"digest", hsm.Attribute{Type: pkcs11.CKA_DERIVE, Value: true}, "CKA_DERIVE must be false"},
		"lookup changes":     {"lookup", hsm.Attribute{Type: pkcs11.CKA_MODIFIABLE, Value: true}, "CKA_MODIFIABLE must be false"},
		"lookup copies":      {"lookup", hsm.Attribute{Type: pkcs11.CKA_COPYABLE, Value: true}, "CKA_COPYABLE must be false"},
		"lookup in SHA-512":  {"lookup", hsm.Attribute{Type: pkcs11.CKA_ALLOWED_MECHANISMS, Value: mech(pkcs11.CKM_SHA512_HMAC)}, "CKA_ALLOWED_MECHANISMS must be 0x251 alone"},
		"import decrypts":    {"import", hsm.Attribute{Type: pkcs11.CKA_DECRYPT, Value: true}, "CKA_DECRYPT must be false"},
		"import signs":       {"import", hsm.Attribute{Type: pkcs11.CKA_SIGN, Value: true}, "CKA_SIGN must be false"},
		"import recovers":    {"import", hsm.Attribute{Type: pkcs11.CKA_SIGN_RECOVER, Value: true}, "CKA_SIGN_RECOVER must be false"},
		"import may leave":   {"import", hsm.Attribute{Type: pkcs11.CKA_EXTRACTABLE, Value: true}, "CKA_EXTRACTABLE must be false"},
		"import shows":       {"import", hsm.Attribute{Type: pkcs11.CKA_SENSITIVE, Value: false}, "CKA_SENSITIVE must be true"},
		"import is short":    {"import", hsm.Attribute{Type: pkcs11.CKA_MODULUS_BITS, Value: 2048}, "RSA key must be of 3072 bits"},
		"import by PKCS#1":   {"import", hsm.Attribute{Type: pkcs11.CKA_ALLOWED_MECHANISMS, Value: mech(pkcs11.CKM_RSA_PKCS)}, "CKA_ALLOWED_MECHANISMS must be 0x9 alone"},
		"backup unwraps not": {"backup", hsm.Attribute{Type: pkcs11.CKA_UNWRAP, Value: false}, "CKA_UNWRAP must be true"},
		"backup encrypts":    {"backup", hsm.Attribute{Type: pkcs11.CKA_ENCRYPT, Value: true}, "CKA_ENCRYPT must be false"},
		"audit decrypts":     {"audit", hsm.Attribute{Type: pkcs11.CKA_DECRYPT, Value: true}, "CKA_DECRYPT must be false"},
		"audit derives":      {"audit", hsm.Attribute{Type: pkcs11.CKA_DERIVE, Value: true}, "CKA_DERIVE must be false"},
		"audit may leave":    {"audit", hsm.Attribute{Type: pkcs11.CKA_EXTRACTABLE, Value: true}, "CKA_EXTRACTABLE must be false"},
		"audit on P-384":     {"audit", hsm.Attribute{Type: pkcs11.CKA_EC_PARAMS, Value: curveP384}, ": CKA_EC_PARAMS must be P-256"},
		"audit by any":       {"audit", hsm.Attribute{Type: pkcs11.CKA_ALLOWED_MECHANISMS}, "CKA_ALLOWED_MECHANISMS must be 0x1041 alone"},
		"seal by any scheme": {"seal", hsm.Attribute{Type: pkcs11.CKA_ALLOWED_MECHANISMS}, "CKA_ALLOWED_MECHANISMS must be 0x251 alone"},
	} {
		t.Run(name, func(t *testing.T) {
			spoil(t, tok, test.label, test.instead)
			refused(t, tok.Config(), "ramzban/"+test.label+"/1", test.say)
			spoil(t, tok, test.label)
		})
	}
}

// curveP384 is the DER object identifier of another curve.
var curveP384 = []byte{0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22}

func mech(m uint) []byte { return pkcs11.NewAttribute(0, m).Value }

func TestMissingDoubledAndExchangedKeysAreRefused(t *testing.T) {
	tok := copyOf(t, token)
	for _, label := range masterLabels {
		ref := seed.KeyRef{Label: label, Version: 1}
		require.NoError(t, hsm.CreateKey(tok.Config(), ref))
		err := refused(t, tok.Config(), "two objects", ref.String())
		require.ErrorIs(t, err, seed.ErrKeyNotFound)

		require.NoError(t, hsm.DestroyKeys(tok.Config(), ref))
		err = refused(t, tok.Config(), ref.String()+" is missing")
		require.ErrorIs(t, err, seed.ErrKeyNotFound)
		require.NoError(t, hsm.CreateKey(tok.Config(), ref))
	}
	renote(t, tok)
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	require.NoError(t, h.Close())
}

// The highest version makes what is new; the older ones still check what is old.
func TestVersions(t *testing.T) {
	tok := copyOf(t, token)
	h, err := hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	old, err := h.Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	k := wrapKnown(t, h, seed.SHA1, rfcSecret(20))
	require.NoError(t, h.Close())

	for _, label := range []string{"seal", "wrap"} {
		require.NoError(t, hsm.CreateKey(tok.Config(), seed.KeyRef{Label: label, Version: 12}))
	}
	renote(t, tok)
	h, err = hsm.Open(t.Context(), tok.Config())
	require.NoError(t, err)
	defer func() { require.NoError(t, h.Close()) }()
	m, err := h.Seal(t.Context(), "record", []byte("x"))
	require.NoError(t, err)
	require.EqualValues(t, 12, m.Key.Version)
	require.NoError(t, h.CheckSeal(t.Context(), "record", []byte("x"), old))
	sum, err := k.mac(t.Context(), h, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, k.software([]byte("message")), sum)
	require.EqualValues(t, 12, wrapKnown(t, h, seed.SHA1, rfcSecret(20)).wrapped.Key.Version)
}

// Labels that only look like ours are not ours.
func TestOtherLabelsAreLeftAlone(t *testing.T) {
	for _, s := range []string{"", "ramzban", "ramzban/", "ramzban/wrap", "ramzban/wrap/", "ramzban/wrap/0", "ramzban/wrap/01",
		"ramzban/wrap/+1", "ramzban/wrap/1/2", "ramzban/wrap/4294967296", "ramzban/other/1", "wrap/1", "Ramzban/wrap/1"} {
		_, ours := hsm.ParseLabel(s)
		require.False(t, ours, s)
	}
	ref, ours := hsm.ParseLabel("ramzban/wrap/4294967295")
	require.True(t, ours)
	require.Equal(t, seed.KeyRef{Label: "wrap", Version: 1<<32 - 1}, ref)
}

// The probes of the self-check are tried on keys that allow what must be refused.
func TestTheNegativeProbesSee(t *testing.T) {
	h := open(t)
	require.NoError(t, h.ProbeWith(t.Context(), ""))
	for label, say := range map[string]string{
		"seal":   "reading the value of ramzban/seal/1",
		"wrap":   "encrypting with ramzban/wrap/1",
		"import": "decrypting with ramzban/import/1",
		"derive": "wrapping the unextractable ramzban/derive/1",
		"seed":   "wrapping a seed that is not extractable",
	} {
		err := h.ProbeWith(t.Context(), label)
		require.ErrorContains(t, err, say)
		require.True(t, strings.Contains(err.Error(), "allowed"), err)
	}
}
