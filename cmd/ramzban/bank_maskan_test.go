package main

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// maskan is Bank Maskan's service "Ramznama", and a customer with a card, an account and a phone.
type maskan struct {
	*retailBank
	card, account, mobile string
}

// TestBankMaskanRamznama plays the bank's guide, line by line as the requirements number them. Serials are printed at a
// branch, codes go by SMS, passwords are good for 120 seconds.
func TestBankMaskanRamznama(t *testing.T) {
	b := maskan{card: testCard(1), account: "0123456789.01", mobile: "09121234567"}
	b.retailBank = openBank(t, func(c *Config) { c.Clients = append(c.Clients, system("internet-bank", "verifier")) })
	phone := b.handset("phone-of-sara", "app")

	var receipt wire.IssueAnswer
	var sms wire.CodeAnswer
	b.line("1 the serial is issued first and printed; the activation code goes by SMS to the registered mobile", func(t *testing.T) {
		receipt = b.issuesCardToken("app")
		require.NoError(t, checkSerial(receipt.Serial))
		require.Equal(t, "issued", receipt.Status)
		require.Equal(t, "refused not_active", b.buys(receipt.Serial, "123456"))
		_, err := b.as("branch").CollectCode(t.Context(), receipt.Activation.ID)
		require.Equal(t, "not_allowed", refusal(err), "whoever prints the serial does not read the code")

		sms = b.texts(receipt.Activation.ID)
		require.Equal(t, []string{"activation", receipt.Serial, b.mobile}, []string{sms.Kind, sms.Serial, sms.Mobile})
		require.Regexp(t, `^[0-9]{8}$`, sms.Code)
		shown := b.shows("branch", receipt.Serial)
		require.Equal(t, "0912***4567", shown.Mobile, "the branch sees the first and last four digits")
		require.Equal(t, "****"+b.card[12:], shown.Subject)
	})

	var card, account app
	var accountReceipt wire.IssueAnswer
	b.line("2 card tokens check card number, serial and activation code; account tokens serial and code", func(t *testing.T) {
		neighbour := b.issues("branch", wire.IssueRequest{
			Class: "card", Subject: testCard(2), Channel: "app", Profile: "offline-120", Uses: []string{"second-pin"}})
		for _, wrong := range []struct {
			what, code string
			typed      activation
		}{
			{"card", "activation_code_wrong", bySerial(receipt.Serial, testCard(2), sms.Code)},
			{"no card", "activation_code_wrong", bySerial(receipt.Serial, "", sms.Code)},
			{"code", "activation_code_wrong", bySerial(receipt.Serial, b.card, mistyped(sms.Code))},
			{"another's serial", "activation_code_wrong", bySerial(neighbour.Serial, b.card, sms.Code)},
			{"mistyped serial", "serial_invalid", bySerial(mistyped(receipt.Serial), b.card, sms.Code)},
		} {
			_, err := phone.activates(wrong.typed)
			require.Equal(t, wrong.code, refusal(err), wrong.what)
		}
		card = phone.holds(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "active", b.shows("branch", receipt.Serial).Status)

		accountReceipt = b.issuesAccountToken()
		code := b.texts(accountReceipt.Activation.ID).Code
		_, err := phone.activates(bySerial(accountReceipt.Serial, "", mistyped(code)))
		require.Equal(t, "activation_code_wrong", refusal(err))
		_, err = phone.activates(bySerial(neighbour.Serial, "", code))
		require.Equal(t, "activation_code_wrong", refusal(err))
		account = phone.holds(bySerial(accountReceipt.Serial, "", code))
	})

	b.line("3 an account token works only once a branch connected it, and for those uses only", func(t *testing.T) {
		serial, password := accountReceipt.Serial, account.password()
		require.Equal(t, "refused not_connected", b.logsIn(serial, password))
		require.Equal(t, "refused not_connected", b.paysFromAccount(serial, password))

		b.connects("branch", serial, "login")
		require.Equal(t, "refused not_connected", b.paysFromAccount(serial, password))
		require.Equal(t, "accepted offline", b.logsIn(serial, password), "no refusal has used it up")

		b.clock.toNextStep(2 * time.Minute)
		b.connects("branch", serial, "account-pin", "login")
		require.Equal(t, "refused not_connected", b.buys(serial, account.password()), "it is no card's second PIN")
		require.Equal(t, "accepted offline", b.paysFromAccount(serial, account.password()))

		b.clock.toNextStep(2 * time.Minute)
		b.connects("branch", serial, "login")
		require.Equal(t, "refused not_connected", b.paysFromAccount(serial, account.password()), "disconnected again")
	})

	// The service cannot tell a password that is typed late from one of a slow clock. It looks drift_search, here 120
	// seconds, either side of the drift it has learnt, here none. So a phone whose clock is right has 120 seconds more, and
	// one that is 120 seconds slow has the 120 seconds of its guide and not one more: on that phone they are played.
	b.line("4 the phone makes passwords offline, good for 120 seconds, once, on any channel", func(t *testing.T) {
		phone.fast = -2 * time.Minute
		b.clock.toNextStep(2 * time.Minute)
		late := card.password()
		b.clock.pass(121 * time.Second)
		require.Equal(t, "refused mismatch", b.buys(receipt.Serial, late))

		b.clock.toNextStep(2 * time.Minute)
		inTime := card.password()
		b.clock.pass(119 * time.Second)
		require.Equal(t, "accepted offline", b.buys(receipt.Serial, inTime))
		b.clock.pass(10 * time.Second)
		require.Equal(t, "refused already_used", b.buysAtInternetBank(inTime), "once in all, not once on every channel")
		require.Equal(t, "accepted offline", b.buysAtInternetBank(card.password()))
		phone.fast = 0
	})

	// The same with a right clock, on the account's token. Coming late teaches nothing about the clock.
	b.line("4 a phone whose clock is right has the drift search in addition", func(t *testing.T) {
		for _, typed := range []struct {
			after   time.Duration
			verdict string
		}{{119 * time.Second, "accepted offline"}, {241 * time.Second, "refused mismatch"}, {239 * time.Second, "accepted offline"}} {
			b.clock.toNextStep(2 * time.Minute)
			password := account.password()
			b.clock.pass(typed.after)
			require.Equal(t, typed.verdict, b.logsIn(accountReceipt.Serial, password), "after %v", typed.after)
			require.Zero(t, b.shows("branch", accountReceipt.Serial).DriftSeconds)
		}
	})

	b.line("5 a token lives on one device only, for the user registered on it, in the app or the PWA, never both", func(t *testing.T) {
		other := b.handset("phone-of-another", "app")
		_, err := other.activates(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "transition_not_allowed", refusal(err), "it is on a phone already")
		_, err = b.as("branch").Issue(t.Context(), b.cardToken("pwa"))
		require.Equal(t, "live_token_exists", refusal(err), "it is in the app already")

		b.deactivates("branch", receipt.Serial)
		request := b.cardToken("pwa")
		request.DeviceKeySHA256 = phone.keyDigest() // registered for this user when the mobile bank was installed
		receipt = b.issues("branch", request)
		sms = b.texts(receipt.Activation.ID)
		_, err = phone.activates(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "channel_other", refusal(err), "issued for the PWA")
		other.channel, phone.channel = "pwa", "pwa"
		_, err = other.activates(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "device_key_not_pinned", refusal(err), "not the registered user's device")
		card = phone.holds(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "accepted offline", b.buys(receipt.Serial, card.password()))

		b.refusesASecondDeviceMeanwhile(phone, other)
	})

	b.line("6 a card gets a new token only after the old one is deleted, and is registered again", func(t *testing.T) {
		_, err := b.as("branch").Issue(t.Context(), b.cardToken("app"))
		require.Equal(t, "live_token_exists", refusal(err))
		last := card.password()
		card.deletes()
		require.Equal(t, "refused not_active", b.buys(receipt.Serial, last))
		_, err = phone.activates(bySerial(receipt.Serial, b.card, sms.Code))
		require.Equal(t, "transition_not_allowed", refusal(err), "what is deleted stays deleted")

		phone.channel = "app"
		old := receipt.Serial
		receipt = b.issuesCardToken("app")
		require.NotEqual(t, old, receipt.Serial)
		card = phone.holds(bySerial(receipt.Serial, b.card, b.texts(receipt.Activation.ID).Code))
		require.Equal(t, "accepted offline", b.buys(receipt.Serial, card.password()))
	})

	b.line("7 a forgotten app passcode is not recovered: the token is deleted and enrolled again", func(t *testing.T) {
		forgotten, old := card, receipt.Serial
		b.clock.toNextStep(2 * time.Minute)
		b.deactivates("branch", old)
		receipt = b.issuesCardToken("app")
		card = phone.holds(bySerial(receipt.Serial, b.card, b.texts(receipt.Activation.ID).Code))
		require.Equal(t, "refused not_active", b.buys(old, forgotten.password()))
		require.Equal(t, "refused mismatch", b.buysAtInternetBank(forgotten.password()), "nor for the card")
		require.Equal(t, "accepted offline", b.buysAtInternetBank(card.password()))
	})

	b.line("the audit log and the database agree", b.comparesAudit)
}

func (b maskan) cardToken(channel string) wire.IssueRequest {
	return wire.IssueRequest{Class: "card", Subject: b.card, Channel: channel, Mobile: b.mobile, Profile: "offline-120", Uses: []string{"second-pin"}}
}

func (b maskan) issuesCardToken(channel string) wire.IssueAnswer {
	b.t.Helper()
	return b.issues("branch", b.cardToken(channel))
}

// issuesAccountToken makes a token that is connected to nothing yet.
func (b maskan) issuesAccountToken() wire.IssueAnswer {
	b.t.Helper()
	return b.issues("branch", wire.IssueRequest{
		Class: "account", Subject: b.account, Channel: "app", Mobile: b.mobile, Profile: "offline-120", Uses: []string{}})
}

// refusesASecondDeviceMeanwhile: also a token whose first device has not confirmed it yet is that device's, and no other's.
func (b maskan) refusesASecondDeviceMeanwhile(first, second *handset) {
	b.t.Helper()
	issued := b.issues("branch", wire.IssueRequest{
		Class: "card", Subject: testCard(3), Channel: "pwa", Profile: "offline-120", Uses: []string{"second-pin"}})
	code := b.texts(issued.Activation.ID).Code
	a, err := b.as("mobile-bank").Activate(b.t.Context(), issued.Serial,
		wire.ActivationRequest{Subject: testCard(3), ActivationCode: code, Device: first.device()})
	require.NoError(b.t, err)
	require.Equal(b.t, "pending", a.Status)
	_, err = second.activates(bySerial(issued.Serial, testCard(3), code))
	require.Equal(b.t, "device_other", refusal(err))
	first.holds(bySerial(issued.Serial, testCard(3), code))
}

// buys is a card purchase; core banking knows the serial.
func (b maskan) buys(serial, password string) string {
	b.t.Helper()
	return b.verdict("core-banking", wire.VerificationRequest{Serial: serial, Use: "second-pin", OTP: password})
}

// buysAtInternetBank is a card purchase on another channel, which knows the card.
func (b maskan) buysAtInternetBank(password string) string {
	b.t.Helper()
	return b.verdict("internet-bank", wire.VerificationRequest{Class: "card", Subject: b.card, Use: "second-pin", OTP: password})
}

func (b maskan) logsIn(serial, password string) string {
	b.t.Helper()
	return b.verdict("internet-bank", wire.VerificationRequest{Serial: serial, Use: "login", OTP: password})
}

func (b maskan) paysFromAccount(serial, password string) string {
	b.t.Helper()
	return b.verdict("internet-bank", wire.VerificationRequest{Serial: serial, Use: "account-pin", OTP: password})
}

// keyDigest is what an issuer pins a phone's key by.
func (h *handset) keyDigest() string {
	sum := sha256.Sum256(h.device().PublicKey)
	return hex.EncodeToString(sum[:])
}
