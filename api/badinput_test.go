package api_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// badInput is one request that must be refused.
type badInput struct {
	name    string
	client  string
	path    string // of a POST; "GET …" of a GET
	body    any    // a string is sent as it is
	status  int
	code    string
	changes int // rows that may differ afterwards: a wrong activation code counts as a try
}

func (b *bank) badInput(c badInput) reply {
	b.t.Helper()
	if path, isGet := strings.CutPrefix(c.path, "GET "); isGet {
		return b.send(c.client, "GET", path, "")
	}
	if text, isText := c.body.(string); isText {
		return b.send(c.client, "POST", c.path, text)
	}
	return b.post(c.client, c.path, c.body)
}

// runBadInput sends each request: a problem with the stable code, and the stored rows as they were.
func runBadInput(t *testing.T, b *bank, cases []badInput) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := b.rows()
			r := b.badInput(c)
			require.Equal(t, c.status, r.status, r.body)
			p := r.problem(t)
			require.Equal(t, c.code, p.Code)
			require.NotEmpty(t, p.Detail)
			require.Equal(t, c.changes, differences(before, b.rows()))
		})
	}
}

func differences(before, after map[string]string) int {
	n := 0
	for k, v := range before {
		if after[k] != v {
			n++
		}
	}
	for k := range after {
		if _, was := before[k]; !was {
			n++
		}
	}
	return n
}

func TestBadPasswordsAndSerials(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	otp := p.password()
	verify := func(serial, otp string) wire.VerificationRequest {
		return wire.VerificationRequest{Serial: serial, Use: "second-pin", OTP: otp}
	}
	persian := strings.NewReplacer("0", "۰", "1", "۱", "2", "۲", "3", "۳", "4", "۴", "5", "۵", "6", "۶", "7", "۷", "8", "۸", "9", "۹").Replace(otp)
	wide := strings.Map(func(r rune) rune { return r - '0' + '０' }, otp)
	var cases []badInput
	for name, typed := range map[string]string{
		"none": "", "space before": " " + otp, "space behind": otp + " ", "newline behind": otp + "\n", "space inside": otp[:4] + " " + otp[4:],
		"space for a digit": otp[:7] + " ", "tab": "\t" + otp, "Persian digits": persian, "full-width digits": wide, "zero-width space": otp + "\u200b",
		"NUL": otp + "\x00", "a digit less": otp[:7], "a digit more": otp + "0", "letters": "abcdefgh", "sign": "+" + otp[1:], "exponent": "1e000007",
	} {
		cases = append(cases, badInput{"password: " + name, "verifier", "/v1/verifications", verify(p.serial, typed), 422, "otp_malformed", 0})
	}
	wrongDigit := p.serial[:11] + string('0'+(p.serial[11]-'0'+1)%10)
	for name, s := range map[string]string{
		"bad check digit": wrongDigit, "short": p.serial[:11], "long": p.serial + "0", "letters": "40251993846x", "Persian": "۴۰۲۵۱۹۹۳۸۴۶۱", "space": " " + p.serial[:11],
	} {
		cases = append(cases, badInput{"serial: " + name, "verifier", "/v1/verifications", verify(s, otp), 422, "serial_invalid", 0})
	}
	for _, path := range []string{"GET /v1/tokens/", "/v1/tokens/"} {
		for _, c := range []struct{ serial, code string }{{wrongDigit, "serial_invalid"}, {"x", "serial_invalid"}, {luhn("00000000000"), "token_not_found"}} {
			full, status := path+c.serial, map[string]int{"serial_invalid": 422, "token_not_found": 404}[c.code]
			if path == "/v1/tokens/" {
				full += "/suspend"
			}
			cases = append(cases, badInput{full, "issuer", full, nil, status, c.code, 0})
		}
	}
	cases = append(cases,
		badInput{"unknown serial", "verifier", "/v1/verifications", verify(luhn("00000000000"), otp), 404, "token_not_found", 0},
		badInput{"empty", "verifier", "/v1/verifications", "", 400, "body_required", 0},
		badInput{"huge", "verifier", "/v1/verifications", `{"otp":"` + strings.Repeat("1", 1<<20) + `"}`, 413, "body_too_large", 0},
		badInput{"wrong type", "verifier", "/v1/verifications", `{"serial":"` + p.serial + `","use":"second-pin","otp":` + "1" + otp[1:] + `}`, 422, "request_invalid", 0},
		badInput{"unknown field", "verifier", "/v1/verifications", `{"serial":"` + p.serial + `","use":"second-pin","otp":"` + otp + `","force":true}`, 422, "request_invalid", 0},
		badInput{"a page too large", "auditor", "GET /v1/audit/entries?limit=5000", nil, 422, "request_invalid", 0},
		badInput{"a node that has no log", "auditor", "GET /v1/audit/entries?node=nowhere", nil, 422, "request_invalid", 0},
	)
	runBadInput(t, b, cases)
	require.Equal(t, "accepted", decode[wire.VerificationAnswer](t, b.post("verifier", "/v1/verifications", p.request())).Result,
		"after all that, the password itself is still good")
}

func TestBadIssues(t *testing.T) {
	b := openBank(t)
	b.issue(1)
	but := func(edit func(*wire.IssueRequest)) wire.IssueRequest {
		r := issueCard(2)
		edit(&r)
		return r
	}
	mistyped := card(2)[:15] + string('0'+(card(2)[15]-'0'+1)%10)
	cases := []badInput{
		{"second live token", "issuer", "/v1/tokens", issueCard(1), 409, "live_token_exists", 0},
		{"unknown profile", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Profile = "other" }), 422, "profile_unknown", 0},
		{"unknown use", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Uses = []string{"third-pin"} }), 422, "request_invalid", 0},
		{"a use twice", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Uses = []string{"login", "login"} }), 422, "request_invalid", 0},
		{"null for uses", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Uses = nil }), 422, "request_invalid", 0},
		{"unknown class", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Class = "cheque" }), 422, "request_invalid", 0},
		{"unknown channel", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Channel = "fax" }), 422, "request_invalid", 0},
		{"a pin that is none", "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.DeviceKeySHA256 = strings.Repeat("AB", 32) }), 422, "request_invalid", 0},
	}
	for name, subject := range map[string]string{
		"bad check digit": mistyped, "15 digits": card(2)[:15], "20 digits": card(2) + "0000", "with spaces": "6037 9912 3456 7893", "letters": "60379912345678xx",
		"Persian digits": "۶۰۳۷۹۹۱۲۳۴۵۶۷۸۹۳",
	} {
		cases = append(cases, badInput{"card: " + name, "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Subject = subject }), 422, "subject_invalid", 0})
	}
	for name, subject := range map[string]string{"space": "a b", "not ASCII": "حساب", "NUL": "a\x00"} {
		cases = append(cases, badInput{"account: " + name, "issuer", "/v1/tokens", but(func(r *wire.IssueRequest) { r.Class, r.Subject = "account", subject }), 422, "subject_invalid", 0})
	}
	runBadInput(t, b, cases)
}

func TestBadActivations(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	issued := b.issue(1)
	code := b.collect(issued.Activation.ID).Code
	wrong := string('0'+(code[0]-'0'+1)%10) + code[1:]
	path := "/v1/tokens/" + issued.Serial + "/activation"
	good := b.activation(1, code, &key.PublicKey)
	but := func(edit func(*wire.ActivationRequest)) wire.ActivationRequest {
		r, device := good, *good.Device
		r.Device = &device
		edit(&r)
		return r
	}
	cases := []badInput{
		{"wrong code", "activator", path, b.activation(1, wrong, &key.PublicKey), 403, "activation_code_wrong", 1},
		{"another card", "activator", path, b.activation(2, code, &key.PublicKey), 403, "activation_code_wrong", 1},
		{"no card", "activator", path, but(func(r *wire.ActivationRequest) { r.Subject = "" }), 403, "activation_code_wrong", 1},
		{"code too short", "activator", path, b.activation(1, code[:7], &key.PublicKey), 422, "request_invalid", 0},
		{"code with a space", "activator", path, b.activation(1, code[:7]+" ", &key.PublicKey), 422, "request_invalid", 0},
		{"code in Persian", "activator", path, b.activation(1, "۱۲۳۴۵۶۷۸", &key.PublicKey), 422, "request_invalid", 0},
		{"another channel", "activator", path, but(func(r *wire.ActivationRequest) { r.Device.Channel = "pwa" }), 409, "channel_other", 0},
		{"no device", "activator", path, but(func(r *wire.ActivationRequest) { r.Device.ID = "" }), 422, "request_invalid", 0},
		{"a key that is not DER", "activator", path, but(func(r *wire.ActivationRequest) { r.Device.PublicKey = []byte("RSA") }), 422, "device_key_invalid", 0},
		{"a key with more behind it", "activator", path, but(func(r *wire.ActivationRequest) { r.Device.PublicKey = append(good.Device.PublicKey[:294:294], 0) }), 422, "device_key_invalid", 0},
		{"a key that is not base64", "activator", path, asMap(t, good, "public_key", "%%%"), 422, "request_invalid", 0},
		{"a confirmation too early", "activator", "/v1/tokens/" + issued.Serial + "/confirmation", wire.ConfirmationRequest{Proof: []byte("x")}, 409, "transition_not_allowed", 0},
		{"no code id", "courier", "/v1/codes/x/collection", nil, 404, "code_not_found", 0},
		{"a code id in capitals", "courier", "/v1/codes/" + strings.Repeat("A", 32) + "/collection", nil, 404, "code_not_found", 0},
		{"an endless code id", "courier", "/v1/codes/" + strings.Repeat("0", 6000) + "/collection", nil, 404, "code_not_found", 0},
		{"an unknown code id", "courier", "/v1/codes/" + strings.Repeat("0", 32) + "/collection", nil, 404, "code_not_found", 0},
	}
	for name, k := range weakKeys(t, key) {
		cases = append(cases, badInput{"key: " + name, "activator", path, b.activation(1, code, k), 422, "device_key_invalid", 0})
	}
	runBadInput(t, b, cases)
	require.Equal(t, 200, b.post("activator", path, good).status, "after all that, the right request still activates")
}

// weakKeys are public keys that no seed may be wrapped to. The large ones need no private half, so their moduli are
// merely numbers of that size.
func weakKeys(t *testing.T, good *rsa.PrivateKey) map[string]any {
	t.Helper()
	modulus := func(bits uint) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return n.Or(n, big.NewInt(1))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return map[string]any{
		"RSA of 1024 bits": &rsa.PublicKey{N: modulus(1024), E: 65537}, "RSA of 2047 bits": &rsa.PublicKey{N: modulus(2047), E: 65537},
		"RSA of 4097 bits": &rsa.PublicKey{N: modulus(4097), E: 65537}, "exponent 3": &rsa.PublicKey{N: good.N, E: 3},
		"elliptic curve": &ec.PublicKey, "Ed25519": ed,
	}
}

// asMap sends a device field as something its type could not hold.
func asMap(t *testing.T, r wire.ActivationRequest, field, value string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"subject": r.Subject, "activation_code": r.ActivationCode,
		"device": map[string]any{"id": r.Device.ID, "channel": r.Device.Channel, field: value},
	})
	require.NoError(t, err)
	return string(body)
}

// TestDeadActivationCodes: an expired and an exhausted code stay dead, even typed right, until the issuer renews them.
func TestDeadActivationCodes(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	worn, old := b.issue(1), b.issue(2)
	wornCode, oldCode := b.collect(worn.Activation.ID).Code, b.collect(old.Activation.ID).Code
	wornPath, oldPath := "/v1/tokens/"+worn.Serial+"/activation", "/v1/tokens/"+old.Serial+"/activation"
	wrong := string('0'+(wornCode[0]-'0'+1)%10) + wornCode[1:]
	for range 5 {
		require.Equal(t, "activation_code_wrong", b.post("activator", wornPath, b.activation(1, wrong, &key.PublicKey)).problem(t).Code)
	}
	b.now.add(24*time.Hour - time.Minute)
	runBadInput(t, b, []badInput{
		{"exhausted", "activator", wornPath, b.activation(1, wornCode, &key.PublicKey), 409, "activation_code_exhausted", 0},
		{"exhausted, collected", "courier", "/v1/codes/" + worn.Activation.ID + "/collection", nil, 409, "activation_code_exhausted", 0},
	})
	b.now.add(time.Minute)
	runBadInput(t, b, []badInput{
		{"expired", "activator", oldPath, b.activation(2, oldCode, &key.PublicKey), 409, "activation_code_expired", 0},
		{"expired, collected", "courier", "/v1/codes/" + old.Activation.ID + "/collection", nil, 409, "activation_code_expired", 0},
	})
	fresh := decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens/"+worn.Serial+"/activation-code", nil))
	runBadInput(t, b, []badInput{
		{"renewed, the old id", "courier", "/v1/codes/" + worn.Activation.ID + "/collection", nil, 404, "code_not_found", 0},
	})
	again := b.activation(1, b.collect(fresh.Activation.ID).Code, &key.PublicKey)
	require.Equal(t, 200, b.post("activator", wornPath, again).status)
}

// TestSecondDevice: a token that one device is activating is no other's, and a pinned one never was.
func TestSecondDevice(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	first := b.issue(1)
	path := "/v1/tokens/" + first.Serial + "/activation"
	good := b.activation(1, b.collect(first.Activation.ID).Code, &key.PublicKey)
	require.Equal(t, 200, b.post("activator", path, good).status)
	otherKey := b.activation(1, good.ActivationCode, &other.PublicKey)
	otherID := good
	otherID.Device.ID = "device-2"
	pinned := issueCard(2)
	pinned.DeviceKeySHA256 = strings.Repeat("ab", 32)
	pin := decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", pinned))
	runBadInput(t, b, []badInput{
		{"another key", "activator", path, otherKey, 409, "device_other", 0},
		{"another device id", "activator", path, otherID, 409, "device_other", 0},
		{"not the pinned key", "activator", "/v1/tokens/" + pin.Serial + "/activation",
			b.activation(2, b.collect(pin.Activation.ID).Code, &key.PublicKey), 409, "device_key_not_pinned", 0},
		{"a wrong proof", "activator", "/v1/tokens/" + first.Serial + "/confirmation", wire.ConfirmationRequest{Proof: make([]byte, 20)}, 403, "proof_wrong", 0},
		{"a proof of another length", "activator", "/v1/tokens/" + first.Serial + "/confirmation", wire.ConfirmationRequest{Proof: []byte("x")}, 403, "proof_wrong", 0},
	})
	p := b.enrolled(3)
	runBadInput(t, b, []badInput{
		{"an active token", "activator", "/v1/tokens/" + p.serial + "/activation", b.activation(3, "00000000", &other.PublicKey), 409, "transition_not_allowed", 0},
		{"a code of an active token", "issuer", "/v1/tokens/" + p.serial + "/activation-code", nil, 409, "transition_not_allowed", 0},
		{"resume what is active", "issuer", "/v1/tokens/" + p.serial + "/resume", nil, 409, "transition_not_allowed", 0},
	})
}
