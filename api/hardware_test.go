package api_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as the HSM does it
	"crypto/x509"
	"encoding/base32"
	"net/http"
	"strings"
	"testing"

	pquerna "github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// fob is a hardware token: its maker knows its seed, and it can make nothing but passwords.
type fob struct {
	bank    *bank
	serial  string
	seed    []byte
	counter uint64
}

// password presses the button.
func (f *fob) password() string {
	f.bank.t.Helper()
	made, err := hotp.GenerateCodeCustom(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(f.seed), f.counter,
		hotp.ValidateOpts{Digits: pquerna.DigitsSix, Algorithm: pquerna.AlgorithmSHA1})
	require.NoError(f.bank.t, err)
	f.counter++
	return made
}

func issueFob(n int) wire.IssueRequest {
	r := issueCard(n)
	r.Channel, r.Profile = "hardware", "counter-6"
	return r
}

// makerSeed is what the maker of a token delivers: its seed, encrypted to the key of GET /v1/import-key.
func (b *bank) makerSeed(plain []byte) []byte {
	b.t.Helper()
	der := decode[wire.ImportKeyAnswer](b.t, b.send("activator", http.MethodGet, "/v1/import-key", "")).PublicKey
	key, err := x509.ParsePKIXPublicKey(der)
	require.NoError(b.t, err)
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key.(*rsa.PublicKey), plain, nil)
	require.NoError(b.t, err)
	return wrapped
}

// TestHardwareToken plays the life of a hardware token over the API: its maker's seed goes into the HSM, one password
// confirms it and is used up, and a counter that ran ahead is found again.
func TestHardwareToken(t *testing.T) {
	b := openBank(t)
	f := &fob{bank: b, seed: make([]byte, 20)}
	_, err := rand.Read(f.seed)
	require.NoError(t, err)
	issued := decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", issueFob(1)))
	f.serial = issued.Serial
	path := "/v1/tokens/" + f.serial
	activated := decode[wire.ActivationAnswer](t, b.post("activator", path+"/activation", wire.ActivationRequest{
		Subject: card(1), ActivationCode: b.collect(issued.Activation.ID).Code, MakerSeed: b.makerSeed(f.seed),
	}))
	require.Nil(t, activated.Seed)
	require.Equal(t, wire.OTP{Type: "hotp", Hash: "SHA1", Digits: 6}, activated.OTP)
	first := f.password()
	confirmed := decode[wire.StatusAnswer](t, b.post("activator", path+"/confirmation", wire.ConfirmationRequest{OTP: first}))
	require.Equal(t, "active", confirmed.Status)
	verify := func(otp string) wire.VerificationAnswer { return b.verify(bySubject(1, otp, nil)) }
	require.Equal(t, "already_used", verify(first).Reason)
	accepted := verify(f.password())
	require.Equal(t, []any{"accepted", "offline", f.serial}, []any{accepted.Result, accepted.Kind, accepted.Serial})

	f.counter += 50 // the button was pressed in a pocket
	require.Equal(t, "mismatch", verify(f.password()).Reason)
	found := decode[wire.ResyncAnswer](t, b.post("activator", path+"/resync", wire.ResyncRequest{OTP1: f.password(), OTP2: f.password()}))
	require.Equal(t, "accepted", found.Result)
	require.Equal(t, "accepted", verify(f.password()).Result)

	written := b.log.String() + hsmLog.String() + b.gather(t)
	for _, s := range append(shown(f.seed), first, card(1)) {
		require.NotContains(t, written, s)
	}
}

// TestBadHardware: a seed that is none, and what belongs to a phone, activate and confirm no hardware token; nor the other
// way round.
func TestBadHardware(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	hardware := decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", issueFob(1)))
	app := b.issue(2)
	hardwareCode, appCode := b.collect(hardware.Activation.ID).Code, b.collect(app.Activation.ID).Code
	hardwarePath, appPath := "/v1/tokens/"+hardware.Serial, "/v1/tokens/"+app.Serial
	good := b.makerSeed(make([]byte, 20))
	with := func(seed []byte) wire.ActivationRequest {
		return wire.ActivationRequest{Subject: card(1), ActivationCode: hardwareCode, MakerSeed: seed}
	}
	both := b.activation(1, hardwareCode, &key.PublicKey)
	both.MakerSeed = good
	phone := b.activation(2, appCode, &key.PublicKey)
	onPhone := phone
	onPhone.Device, onPhone.MakerSeed = nil, good
	runBadInput(t, b, []badInput{
		{"device and seed", "activator", hardwarePath + "/activation", both, 422, "request_invalid", 0},
		{"neither device nor seed", "activator", hardwarePath + "/activation", with(nil), 422, "request_invalid", 0},
		{"a seed of 16 bytes", "activator", hardwarePath + "/activation", with(b.makerSeed(make([]byte, 16))), 422, "seed_invalid", 0},
		{"a seed of 65 bytes", "activator", hardwarePath + "/activation", with(b.makerSeed(make([]byte, 65))), 422, "seed_invalid", 0},
		{"a seed in clear", "activator", hardwarePath + "/activation", with(make([]byte, 20)), 422, "seed_invalid", 0},
		{"a seed that was changed", "activator", hardwarePath + "/activation", with(append(bytes.Clone(good[:255]), good[255]^1)), 422, "seed_invalid", 0},
		{"a phone for hardware", "activator", hardwarePath + "/activation", b.activation(1, hardwareCode, &key.PublicKey), 409, "channel_other", 0},
		{"a seed for a phone", "activator", appPath + "/activation", onPhone, 409, "channel_other", 0},
		{"a wrong code", "activator", hardwarePath + "/activation", func() wire.ActivationRequest {
			r := with(good)
			r.ActivationCode = string('0'+(hardwareCode[0]-'0'+1)%10) + hardwareCode[1:]
			return r
		}(), 403, "activation_code_wrong", 1},
	})
	require.Equal(t, 200, b.post("activator", hardwarePath+"/activation", with(good)).status)
	require.Equal(t, 200, b.post("activator", appPath+"/activation", phone).status)
	confirm := func(path string, r wire.ConfirmationRequest) reply {
		return b.post("activator", path+"/confirmation", r)
	}
	for name, r := range map[string]reply{
		"a proof for hardware": confirm(hardwarePath, wire.ConfirmationRequest{Proof: []byte("x")}), "a password for a phone": confirm(appPath, wire.ConfirmationRequest{OTP: "492039"}),
		"both": confirm(hardwarePath, wire.ConfirmationRequest{Proof: []byte("x"), OTP: "492039"}), "neither": confirm(appPath, wire.ConfirmationRequest{}),
	} {
		p := r.problem(t)
		require.Equal(t, "request_invalid", p.Code, name)
		require.Contains(t, p.Detail, "not with", "it says which it must be: "+name)
	}
	runBadInput(t, b, []badInput{
		{"a password too long", "activator", hardwarePath + "/confirmation", wire.ConfirmationRequest{OTP: "4920391"}, 422, "otp_malformed", 0},
		{"a password with a space", "activator", hardwarePath + "/confirmation", wire.ConfirmationRequest{OTP: "49203 "}, 422, "otp_malformed", 0},
		{"another device's password", "activator", hardwarePath + "/confirmation", wire.ConfirmationRequest{OTP: other(b, 0)}, 403, "proof_wrong", 1},
	})
	for range 4 {
		require.Equal(t, "proof_wrong", confirm(hardwarePath, wire.ConfirmationRequest{OTP: other(b, 0)}).problem(t).Code)
	}
	right := &fob{bank: b, seed: make([]byte, 20)}
	require.Equal(t, "activation_code_exhausted", confirm(hardwarePath, wire.ConfirmationRequest{OTP: right.password()}).problem(t).Code)
}

// other is a password that a device with an all-zero seed makes for none of the first counters.
func other(b *bank, from uint64) string {
	b.t.Helper()
	f := &fob{bank: b, seed: make([]byte, 20), counter: from}
	seen := map[string]bool{}
	for range 200 {
		seen[f.password()] = true
	}
	for _, candidate := range []string{"000000", "111111", "222222", "333333"} {
		if !seen[candidate] {
			return candidate
		}
	}
	require.Fail(b.t, "every candidate is a password")
	return ""
}

// TestAllOfACustomer: one request ends all tokens of a card, and those of no other; the card stands in no URL or log line.
func TestAllOfACustomer(t *testing.T) {
	b := openBank(t)
	p, sms, neighbour := b.enrolled(1), b.optIn(1), b.enrolled(2)
	message := b.sent(1, nil)
	end := func(n int) []string {
		r := b.post("issuer", "/v1/subjects/deactivations", wire.SubjectRequest{Class: "card", Subject: card(n)})
		return decode[wire.SubjectDeactivationAnswer](t, r).Serials
	}
	require.ElementsMatch(t, []string{p.serial, sms.Serial}, end(1))
	for _, serial := range []string{p.serial, sms.Serial} {
		require.Equal(t, "deactivated", decode[wire.TokenAnswer](t, b.send("issuer", "GET", "/v1/tokens/"+serial, "")).Status)
	}
	require.Equal(t, "mismatch", b.verify(bySubject(1, p.password(), nil)).Reason)
	require.Equal(t, "mismatch", b.verify(bySubject(1, message.Code, nil)).Reason)
	require.Equal(t, "accepted", b.verify(neighbour.request()).Result)
	again := b.post("issuer", "/v1/subjects/deactivations", wire.SubjectRequest{Class: "card", Subject: card(1)})
	require.JSONEq(t, `{"serials":[]}`, again.body)
	require.Equal(t, "issued", b.issue(1).Status, "the card may have another token")
	require.Equal(t, "active", b.optIn(1).Status)

	page := b.send("auditor", "GET", "/v1/audit/entries?limit=1000", "")
	var both []string
	for _, e := range decode[wire.AuditAnswer](t, page).Entries {
		if e.Action == "subject.deactivate" && e.Serial != "" {
			require.Len(t, e.Also, 1)
			both = append(both, e.Serial, e.Also[0].Serial)
		}
	}
	require.ElementsMatch(t, []string{p.serial, sms.Serial}, both)
	require.NotContains(t, b.log.String()+page.body, card(1))
	mistyped := strings.Replace(card(1), "603799", "603798", 1)
	bad := b.post("issuer", "/v1/subjects/deactivations", wire.SubjectRequest{Class: "card", Subject: mistyped})
	require.Equal(t, "subject_invalid", bad.problem(t).Code)
	require.NotContains(t, b.log.String()+bad.body, mistyped)
}
