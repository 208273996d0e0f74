package main

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// parsian is Bank Parsian's service of one-time passwords, offline and by SMS.
type parsian struct{ *retailBank }

// parsianCustomer is someone who stood at the ATM.
type parsianCustomer struct {
	card, mobile, pin string
	offline, sms      string // serials, which this customer never sees; sms is "" after opting out
	activation        wire.Activation
}

// TestBankParsianOneTimePasswords plays the bank's guide, line by line as the requirements number them. Customers register
// at an ATM and see no serials; offline passwords need a PIN and are good for 60 seconds, those by SMS for 120.
func TestBankParsianOneTimePasswords(t *testing.T) {
	b := parsian{openBank(t, func(c *Config) {
		c.Uses = []string{"second-pin", "first-pin", "cardless-withdrawal"} // the last one is this bank's own
		c.Clients = append(c.Clients, system("atm", "issuer"), system("payment-gateway", "verifier"))
	})}
	mina := &parsianCustomer{card: testCard(11), mobile: "09121234567", pin: "27182818"}
	omid := &parsianCustomer{card: testCard(12), mobile: "+989357654321", pin: "31415926"}

	b.line("1 registration at an ATM: mobile shown masked, PIN of 8 digits, SMS or not, activation code for 24 hours", func(t *testing.T) {
		b.registers(mina, true)
		b.registers(omid, false)
		require.Equal(t, "0912***4567", b.shows("atm", mina.offline).Mobile, "confirmed by the customer")
		require.Equal(t, "+9893***4321", b.shows("atm", omid.offline).Mobile)
		_, err := b.as("atm").SetPIN(t.Context(), mina.offline, wire.PINRequest{PIN: "2718281"})
		require.Equal(t, "request_invalid", refusal(err), "seven digits")
		require.Equal(t, "active", b.shows("atm", mina.sms).Status, "who opts in has nothing to activate")
		b.tellsNobodyWhoOptedOut(omid.card, testCard(99))

		code := b.texts(mina.activation.ID)
		require.Equal(t, mina.mobile, code.Mobile)
		require.Equal(t, b.clock.Now().Add(24*time.Hour), code.ExpiresAt)
		b.clock.pass(24 * time.Hour)
		_, err = b.handset("phone-of-mina", "app").activates(byCard(mina.card, code.Code))
		require.Equal(t, "activation_code_wrong", refusal(err), "a card alone learns no more of a dead code; the gateway does")
		_, err = b.as("sms-gateway").CollectCode(t.Context(), mina.activation.ID)
		require.Equal(t, "activation_code_expired", refusal(err))
		b.renewsCode(mina)
		b.renewsCode(omid)
	})

	phone := b.handset("phone-of-mina", "app")
	var card app
	b.line("2 offline activation in the app with card number and activation code", func(t *testing.T) {
		code := b.texts(mina.activation.ID).Code
		b.clock.pass(24*time.Hour - time.Second)
		for what, wrong := range map[string]activation{
			"code": byCard(mina.card, mistyped(code)), "another's card": byCard(omid.card, code), "unknown card": byCard(testCard(99), code),
		} {
			_, err := phone.activates(wrong)
			require.Equal(t, "activation_code_wrong", refusal(err), what)
		}
		card = phone.holds(byCard(mina.card, code))
		require.Equal(t, "active", b.shows("atm", mina.offline).Status)
	})

	// The bank cannot tell a late password from a slow clock, and looks 60 seconds either side of the drift it has learnt,
	// here none. A phone that is 60 seconds slow has the 60 seconds of its guide and not one more.
	b.line("3 the app asks for the PIN for each offline password, good for 60 seconds and once", func(t *testing.T) {
		token, err := card.phone.confirmedToken()
		require.NoError(t, err)
		_, _, err = token.next(card.now(), typed{})
		require.ErrorContains(t, err, "the PIN has 8 digits", "without it there is no password")
		require.Equal(t, "refused mismatch", b.pays(mina, card.passwordWith(mistyped(mina.pin)), nil))

		phone.fast = -time.Minute
		b.clock.toNextStep(time.Minute)
		late := card.passwordWith(mina.pin)
		b.clock.pass(61 * time.Second)
		require.Equal(t, "refused mismatch", b.pays(mina, late, nil))
		b.clock.toNextStep(time.Minute)
		inTime := card.passwordWith(mina.pin)
		b.clock.pass(59 * time.Second)
		require.Equal(t, "accepted offline", b.pays(mina, inTime, nil))
		require.Equal(t, "refused already_used", b.pays(mina, inTime, nil))
		phone.fast = 0
	})

	b.line("4 a phone with a wrong clock makes wrong passwords until its clock button is pressed", func(t *testing.T) {
		for _, fast := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
			phone.fast = fast
			require.Equal(t, "refused mismatch", b.pays(mina, card.passwordWith(mina.pin), nil))
			offset, err := card.phone.sync(t.Context(), b.as("mobile-bank"), card.now)
			require.NoError(t, err)
			require.Equal(t, -fast, offset)
			require.Equal(t, "accepted offline", b.pays(mina, card.passwordWith(mina.pin), nil))
			b.clock.pass(time.Minute)
		}
		phone.fast = 0
		_, err := card.phone.sync(t.Context(), b.as("mobile-bank"), card.now)
		require.NoError(t, err)
	})

	b.line("5 an SMS password is sent for one payment, good for 120 seconds and once", func(t *testing.T) {
		b.clock.pass(time.Minute)
		bill := wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: "6037997551493320"}
		sms := b.sends(mina, &bill)
		require.Equal(t, []string{"sms", mina.mobile}, []string{sms.Kind, sms.Mobile})
		require.Equal(t, &bill, sms.Transaction, "so that the message says what is paid")
		require.Equal(t, b.clock.Now().Add(2*time.Minute), sms.ExpiresAt)

		dearer, elsewhere := bill, bill
		dearer.Amount, elsewhere.Payee = "15000000", "6037997551493338"
		b.clock.pass(119 * time.Second)
		require.Equal(t, "refused mismatch", b.pays(mina, sms.Code, &dearer))
		require.Equal(t, "refused mismatch", b.pays(mina, sms.Code, &elsewhere))
		require.Equal(t, "accepted sms, bound", b.pays(mina, sms.Code, &bill), "and no PIN was asked for")
		require.Equal(t, "refused already_used", b.pays(mina, sms.Code, &bill))

		late := b.sends(mina, &bill)
		b.clock.pass(121 * time.Second)
		require.Equal(t, "refused mismatch", b.pays(mina, late.Code, &bill))
		_, err := b.as("payment-gateway").Challenge(t.Context(), b.asks(omid.card, &bill))
		require.Equal(t, "not_opted_in", refusal(err))
	})

	b.line("5 the page has one field: an offline password is taken there too, and the SMS one stays good", func(t *testing.T) {
		bill := wire.Transaction{Amount: "250000", Currency: "IRR", Payee: "6037997551493320"}
		sms := b.sends(mina, &bill)
		require.Equal(t, "accepted offline", b.pays(mina, card.passwordWith(mina.pin), &bill), "not bound to the payment")
		require.Equal(t, "accepted sms, bound", b.pays(mina, sms.Code, &bill))
	})

	b.line("6 deactivation: offline alone from the app, or offline and SMS together at the ATM", func(t *testing.T) {
		b.clock.pass(time.Minute)
		_, err := b.as("mobile-bank").Deactivate(t.Context(), mina.offline)
		require.Equal(t, "not_allowed", refusal(err), "the app's backend may end no token, but for the phone that holds it")
		last := card.passwordWith(mina.pin)
		card.deletes()
		require.Equal(t, "deactivated", b.shows("atm", mina.offline).Status)
		require.Equal(t, "refused mismatch", b.pays(mina, last, nil))
		bill := wire.Transaction{Amount: "90000", Currency: "IRR", Payee: "6037997551493320"}
		require.Equal(t, "accepted sms, bound", b.pays(mina, b.sends(mina, &bill).Code, &bill), "SMS passwords go on")

		b.registersOffline(mina)
		card = phone.holds(byCard(mina.card, b.texts(mina.activation.ID).Code))
		require.Equal(t, "accepted offline", b.pays(mina, card.passwordWith(mina.pin), nil))
		b.deactivates("branch", b.findsOffline(mina))
		b.clock.pass(time.Minute)
		require.Equal(t, "refused mismatch", b.pays(mina, card.passwordWith(mina.pin), nil), "a lost phone's is ended at a branch")

		b.registersOffline(mina)
		card = phone.holds(byCard(mina.card, b.texts(mina.activation.ID).Code))
		require.Equal(t, "accepted offline", b.pays(mina, card.passwordWith(mina.pin), nil))
		pending := b.sends(mina, &bill)
		ended, err := b.as("atm").DeactivateSubject(t.Context(), wire.SubjectRequest{Class: "card", Subject: mina.card})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{mina.offline, mina.sms}, ended.Serials)
		b.clock.pass(time.Minute)
		require.Equal(t, "refused mismatch", b.pays(mina, card.passwordWith(mina.pin), nil))
		require.Equal(t, "refused mismatch", b.pays(mina, pending.Code, &bill), "nor the one that was on its way")
		b.tellsNobodyWhoOptedOut(mina.card, testCard(99))
	})

	b.line("7 a further use, such as the first PIN, is data", func(t *testing.T) {
		b.registers(mina, true)
		card = phone.holds(byCard(mina.card, b.texts(mina.activation.ID).Code))
		password := card.passwordWith(mina.pin)
		for _, use := range []string{"first-pin", "cardless-withdrawal"} {
			require.Equal(t, "refused mismatch", b.types(mina, use, password))
		}
		b.connects("atm", mina.offline, "second-pin", "first-pin", "cardless-withdrawal")
		require.Equal(t, "accepted offline", b.types(mina, "first-pin", password))
		require.Equal(t, "refused already_used", b.types(mina, "second-pin", password), "once in all, not once for every use")
		b.clock.pass(time.Minute)
		require.Equal(t, "accepted offline", b.types(mina, "cardless-withdrawal", card.passwordWith(mina.pin)))
		_, err := b.as("atm").SetUses(t.Context(), mina.offline, wire.UsesRequest{Uses: []string{"login"}})
		require.Equal(t, "request_invalid", refusal(err), "this bank has no such use")
	})

	b.line("the audit log and the database agree", b.comparesAudit)
}

// registers is what a customer does at the ATM.
func (b parsian) registers(c *parsianCustomer, bySMS bool) {
	b.t.Helper()
	b.registersOffline(c)
	if !bySMS {
		return
	}
	sms := b.issues("atm", wire.IssueRequest{
		Class: "card", Subject: c.card, Channel: "sms", Mobile: c.mobile, Profile: "sms-120", Uses: []string{"second-pin"}})
	require.Nil(b.t, sms.Activation)
	c.sms = sms.Serial
}

func (b parsian) registersOffline(c *parsianCustomer) {
	b.t.Helper()
	offline := b.issues("atm", wire.IssueRequest{
		Class: "card", Subject: c.card, Channel: "app", Mobile: c.mobile, Profile: "offline-pin-60", Uses: []string{"second-pin"}})
	_, err := b.as("atm").SetPIN(b.t.Context(), offline.Serial, wire.PINRequest{PIN: c.pin})
	require.NoError(b.t, err)
	c.offline, c.activation = offline.Serial, *offline.Activation
}

func (b parsian) renewsCode(c *parsianCustomer) {
	b.t.Helper()
	fresh, err := b.as("atm").RenewActivationCode(b.t.Context(), c.offline)
	require.NoError(b.t, err)
	c.activation = *fresh.Activation
}

// findsOffline finds the token to deactivate by the card: nobody told the customer its serial.
func (b parsian) findsOffline(c *parsianCustomer) string {
	b.t.Helper()
	found, err := b.as("branch").SubjectTokens(b.t.Context(), wire.SubjectRequest{Class: "card", Subject: c.card})
	require.NoError(b.t, err)
	for _, token := range found.Tokens {
		if token.Channel != "sms" {
			return token.Serial
		}
	}
	require.FailNow(b.t, "the card has no offline token")
	return ""
}

func (parsian) asks(card string, t *wire.Transaction) wire.ChallengeRequest {
	return wire.ChallengeRequest{Class: "card", Subject: card, Use: "second-pin", Transaction: t}
}

// sends is the button on the payment page: the gateway asks for a password, and the courier sends it.
func (b parsian) sends(c *parsianCustomer, t *wire.Transaction) wire.CodeAnswer {
	b.t.Helper()
	asked, err := b.as("payment-gateway").Challenge(b.t.Context(), b.asks(c.card, t))
	require.NoError(b.t, err)
	return b.texts(asked.ID)
}

// pays is the page's one field: core banking knows the card and the payment, not where the digits come from.
func (b parsian) pays(c *parsianCustomer, password string, t *wire.Transaction) string {
	b.t.Helper()
	return b.verdict("core-banking", wire.VerificationRequest{Class: "card", Subject: c.card, Use: "second-pin", OTP: password, Transaction: t})
}

// types is a password typed for another use.
func (b parsian) types(c *parsianCustomer, use, password string) string {
	b.t.Helper()
	return b.verdict("core-banking", wire.VerificationRequest{Class: "card", Subject: c.card, Use: use, OTP: password})
}

// tellsNobodyWhoOptedOut: a card without SMS passwords is refused like one that the bank does not know.
func (b parsian) tellsNobodyWhoOptedOut(optedOut, unknown string) {
	b.t.Helper()
	var told [2]wire.Problem
	for i, card := range []string{optedOut, unknown} {
		_, err := b.as("payment-gateway").Challenge(context.Background(), b.asks(card, nil))
		require.Equal(b.t, "not_opted_in", refusal(err))
		told[i] = withoutID(err)
	}
	require.Equal(b.t, told[1], told[0])
}
