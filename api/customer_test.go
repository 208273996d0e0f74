package api_test

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // OCRA's hash in this suite
	"encoding/binary"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

const (
	mobile   = "09121234567"
	payee    = "6037997551493320"
	pin      = "27182818"
	pinSuite = "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M"
)

// optIn issues card n's SMS token.
func (b *bank) optIn(n int) wire.IssueAnswer {
	b.t.Helper()
	return decode[wire.IssueAnswer](b.t, b.post("issuer", "/v1/tokens", wire.IssueRequest{
		Class: "card", Subject: card(n), Channel: "sms", Mobile: mobile, Profile: "sms-120", Uses: []string{"second-pin"},
	}))
}

func bySubject(n int, otp string, paid *wire.Transaction) wire.VerificationRequest {
	return wire.VerificationRequest{Class: "card", Subject: card(n), Use: "second-pin", OTP: otp, Transaction: paid}
}

func (b *bank) verify(r wire.VerificationRequest) wire.VerificationAnswer {
	b.t.Helper()
	return decode[wire.VerificationAnswer](b.t, b.post("verifier", "/v1/verifications", r))
}

// sent asks for an SMS password of card n and is the message that the customer gets.
func (b *bank) sent(n int, paid *wire.Transaction) wire.CodeAnswer {
	b.t.Helper()
	r := b.post("verifier", "/v1/challenges", wire.ChallengeRequest{Class: "card", Subject: card(n), Use: "second-pin", Transaction: paid})
	require.Equal(b.t, http.StatusCreated, r.status, r.body)
	return b.collect(decode[wire.ChallengeAnswer](b.t, r).ID)
}

// TestOneFieldTwoKindsOfPasswords: core banking names the card only; what the customer typed is found out.
func TestOneFieldTwoKindsOfPasswords(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	sms := b.optIn(1)
	require.Equal(t, "active", sms.Status)
	require.Nil(t, sms.Activation)
	require.Equal(t, "0912***4567", decode[wire.TokenAnswer](t, b.send("issuer", "GET", "/v1/tokens/"+sms.Serial, "")).Mobile)

	offline := b.verify(bySubject(1, p.password(), nil))
	require.Equal(t, []any{"accepted", "offline", p.serial, false}, []any{offline.Result, offline.Kind, offline.Serial, offline.Bound})
	require.Equal(t, "already_used", b.verify(bySubject(1, p.password(), nil)).Reason)

	paid := &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: payee}
	message := b.sent(1, paid)
	require.Equal(t, []any{"sms", mobile, sms.Serial, paid}, []any{message.Kind, message.Mobile, message.Serial, message.Transaction})
	other := *paid
	other.Amount = "1500001"
	require.Equal(t, "mismatch", b.verify(bySubject(1, message.Code, &other)).Reason, "it is for another payment")
	require.Equal(t, "mismatch", b.verify(bySubject(1, message.Code, nil)).Reason, "it is for a payment")
	bound := b.verify(bySubject(1, message.Code, paid))
	require.Equal(t, []any{"accepted", "sms", sms.Serial, true}, []any{bound.Result, bound.Kind, bound.Serial, bound.Bound})
	require.Equal(t, "already_used", b.verify(bySubject(1, message.Code, paid)).Reason)
	b.now.add(time.Minute)
	require.Equal(t, "not_bound", b.verify(bySubject(1, p.password(), paid)).Reason, "an offline password is for no payment in particular")

	page := decode[wire.AuditAnswer](t, b.send("auditor", "GET", "/v1/audit/entries?limit=1000", ""))
	require.Equal(t, "otp.verify", page.Entries[bound.Audit.Index].Action)
	require.Equal(t, "accepted", page.Entries[bound.Audit.Index].Outcome)
}

// TestSMSPasswordsAreForThoseWhoOptedIn, and not more than may wait.
func TestSMSPasswordsAreForThoseWhoOptedIn(t *testing.T) {
	b := openBank(t)
	ask := func(n int) reply {
		return b.post("verifier", "/v1/challenges", wire.ChallengeRequest{Class: "card", Subject: card(n), Use: "second-pin"})
	}
	b.enrolled(1)
	without, unknown := ask(1), ask(2)
	require.Equal(t, "not_opted_in", without.problem(t).Code)
	require.Equal(t, apart(without), apart(unknown), "whether the card is known is not to be seen")
	b.optIn(1)
	for range 2 {
		require.Equal(t, 201, ask(1).status)
	}
	full := ask(1)
	require.Equal(t, "challenges_pending", full.problem(t).Code)
	require.Equal(t, "120", full.header.Get("Retry-After"))
	b.now.add(2 * time.Minute)
	require.Equal(t, 201, ask(1).status)
}

var volatile = regexp.MustCompile(`"index":[0-9]+|"request_id":"[A-Z2-7]+"`)

// apart is everything of an answer apart from its audit index, request id and date.
func apart(r reply) string {
	header := r.header.Clone()
	header.Del("X-Request-Id")
	header.Del("Date")
	header.Del("Content-Length") // it follows the index
	return fmt.Sprint(r.status, header, volatile.ReplaceAllString(r.body, "…"))
}

// TestUnknownSubjectsLookLikeWrongPasswords: whoever knows no password of a card does not learn whether the card is known,
// what it has, or what state that is in; not even by guessing until it is delayed and locked.
func TestUnknownSubjectsLookLikeWrongPasswords(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	suspended := b.enrolled(2)
	require.Equal(t, 200, b.post("issuer", "/v1/tokens/"+suspended.serial+"/suspend", nil).status)
	b.issue(3)
	b.optIn(4)
	wrong := p.passwordAt(b.now.time().Add(24 * time.Hour))
	for range 8 {
		first := b.post("verifier", "/v1/verifications", bySubject(1, wrong, nil))
		require.Equal(t, 200, first.status)
		for n := 2; n <= 5; n++ { // 5 is unknown
			other := b.post("verifier", "/v1/verifications", bySubject(n, wrong, nil))
			require.Equal(t, apart(first), apart(other), "card %d", n)
		}
		b.now.add(time.Second)
	}
}

// ocra is the password of a device that does not know the service's software: RFC 6287 section 5, for pinSuite.
func (p *phone) ocra(typed string) string {
	digest := sha1.Sum([]byte(typed))
	message := append([]byte(pinSuite), 0)
	message = append(message, make([]byte, 128)...) // the question: zeroes
	message = append(message, digest[:]...)
	message = binary.BigEndian.AppendUint64(message, uint64(p.bank.now.time().Unix()/60))
	m := hmac.New(sha1.New, p.seed)
	m.Write(message)
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", (binary.BigEndian.Uint32(sum[at:])&0x7fffffff)%1_000_000)
}

// TestPINRoute: the phone is told that it must ask for a PIN; only with the one that was set its passwords are good.
func TestPINRoute(t *testing.T) {
	b := openBank(t)
	request := issueCard(1)
	request.Profile = "pin-60"
	p, told := b.activate(1, decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", request)))
	require.Equal(t, wire.OTP{Type: "ocra", Hash: "SHA1", Digits: 6, Period: 60, Suite: pinSuite, PINDigits: 8}, told)
	p.confirm()
	verify := func(typed string) wire.VerificationRequest {
		return wire.VerificationRequest{Serial: p.serial, Use: "second-pin", OTP: p.ocra(typed)}
	}
	early := b.post("verifier", "/v1/verifications", verify(pin))
	require.Equal(t, 409, early.status, early.body)
	require.Equal(t, "pin_not_set", early.problem(t).Code)
	for _, bad := range []string{"2718281", "271828181", "2718281x"} {
		require.Equal(t, "request_invalid", b.put("issuer", "/v1/tokens/"+p.serial+"/pin", wire.PINRequest{PIN: bad}).problem(t).Code)
	}
	set := decode[wire.StatusAnswer](t, b.put("issuer", "/v1/tokens/"+p.serial+"/pin", wire.PINRequest{PIN: pin}))
	require.Equal(t, wire.StatusAnswer{Serial: p.serial, Status: "active"}, set)
	require.Equal(t, "mismatch", b.verify(verify("27182819")).Reason)
	require.Equal(t, "accepted", b.verify(verify(pin)).Result)
}

// TestResyncRoute: a phone whose clock has gone astray is found again by two consecutive passwords, and is not delayed any
// more.
func TestResyncRoute(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	astray := func(steps int) string { return p.passwordAt(b.now.time().Add(time.Duration(steps) * time.Minute)) }
	verify := func(otp string) wire.VerificationAnswer {
		return b.verify(wire.VerificationRequest{Serial: p.serial, Use: "second-pin", OTP: otp})
	}
	for range 3 {
		require.Equal(t, "mismatch", verify(astray(3)).Reason)
	}
	throttled := verify(astray(3))
	require.Equal(t, "throttled", throttled.Reason)
	require.Positive(t, throttled.RetryAfterSeconds)
	resync := func(first, second string) wire.ResyncAnswer {
		return decode[wire.ResyncAnswer](t, b.post("activator", "/v1/tokens/"+p.serial+"/resync", wire.ResyncRequest{OTP1: first, OTP2: second}))
	}
	missed := resync(astray(3), astray(2))
	require.Equal(t, []any{"refused", "mismatch", 0}, []any{missed.Result, missed.Reason, missed.DriftSeconds}, "in the wrong order")
	found := resync(astray(2), astray(3))
	require.Equal(t, []any{"accepted", p.serial, 160}, []any{found.Result, found.Serial, found.DriftSeconds}, "its time step begins in 160 seconds")
	require.Equal(t, "already_used", verify(astray(3)).Reason)
	b.now.add(time.Minute)
	require.Equal(t, "accepted", verify(astray(3)).Result)
	require.Equal(t, 160, decode[wire.TokenAnswer](t, b.send("issuer", "GET", "/v1/tokens/"+p.serial, "")).DriftSeconds)
}

// TestUsesAndUnlockRoutes: a token is good for what it is connected to, and an issuer may end a delay.
func TestUsesAndUnlockRoutes(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	login := p.request()
	login.Use = "login"
	require.Equal(t, "not_connected", b.verify(login).Reason)
	path := "/v1/tokens/" + p.serial
	uses := decode[wire.UsesAnswer](t, b.put("issuer", path+"/uses", wire.UsesRequest{Uses: []string{"login"}}))
	require.Equal(t, wire.UsesAnswer{Serial: p.serial, Uses: []string{"login"}}, uses)
	require.Equal(t, "not_connected", b.verify(p.request()).Reason)
	wrong := login
	wrong.OTP = p.passwordAt(b.now.time().Add(24 * time.Hour))
	for range 3 {
		require.Equal(t, "mismatch", b.verify(wrong).Reason)
	}
	require.Equal(t, "throttled", b.verify(login).Reason)
	require.Equal(t, "active", decode[wire.StatusAnswer](t, b.post("issuer", path+"/unlock", nil)).Status)
	require.Equal(t, "accepted", b.verify(login).Result)
	before := b.rows()
	for _, bad := range [][]string{{"third-pin"}, {"login", "login"}} {
		require.Equal(t, "request_invalid", b.put("issuer", path+"/uses", wire.UsesRequest{Uses: bad}).problem(t).Code)
	}
	require.Equal(t, before, b.rows())
}

// TestNothingOfACustomerIsWritten: mobile number, PIN, payee, SMS password and card number stand in no log, metric or
// problem, nor in any answer but the courier's, whatever the requests were.
func TestNothingOfACustomerIsWritten(t *testing.T) {
	b := openBank(t)
	request := issueCard(1)
	request.Profile, request.Mobile = "pin-60", mobile
	p, _ := b.activate(1, decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", request)))
	p.confirm()
	sms := b.optIn(1)
	paid := &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: payee}
	message := b.sent(1, paid)
	key := "Idempotency-Key: " + card(1)
	path := "/v1/tokens/" + p.serial
	answers := []reply{
		b.put("issuer", path+"/pin", wire.PINRequest{PIN: pin}), b.put("issuer", path+"/pin", wire.PINRequest{PIN: pin + "0"}),
		b.put("issuer", "/v1/tokens/"+sms.Serial+"/pin", wire.PINRequest{PIN: pin}),
		b.put("issuer", path+"/uses", wire.UsesRequest{Uses: []string{card(1)}}),
		b.put("issuer", path+"/mobile", wire.MobileRequest{Mobile: newMobile}), b.put("issuer", path+"/mobile", wire.MobileRequest{Mobile: newMobile + "-"}),
		b.post("verifier", "/v1/verifications", bySubject(1, message.Code, nil)), b.post("verifier", "/v1/verifications", bySubject(2, message.Code, paid)),
		b.post("verifier", "/v1/verifications", bySubject(1, message.Code, paid)), b.post("verifier", "/v1/verifications", bySubject(1, message.Code, paid)),
		b.post("verifier", "/v1/verifications", bySubject(1, p.ocra(pin), paid)),
		b.send("verifier", "POST", "/v1/verifications", `{"class":"card","subject":"`+card(1)+`","use":"second-pin","otp":"`+card(1)+`"}`, key),
		b.post("verifier", "/v1/challenges", wire.ChallengeRequest{Class: "card", Subject: card(2), Use: "second-pin", Transaction: paid}),
		b.post("verifier", "/v1/challenges", wire.ChallengeRequest{Class: "card", Subject: card(1) + "0", Use: card(1), Transaction: paid}),
		b.post("activator", path+"/resync", wire.ResyncRequest{OTP1: message.Code, OTP2: card(1)}),
		b.send("issuer", "GET", path, ""), b.send("issuer", "GET", path, "", key), b.send("issuer", "GET", "/v1/subjects/"+card(1), ""),
		b.send("auditor", "GET", "/v1/audit/entries?limit=1000", ""), b.send("auditor", "GET", "/v1/audit/comparison", ""),
	}
	written := b.log.String() + hsmLog.String() + b.gather(t)
	for _, a := range answers {
		written += fmt.Sprint(a.header) + a.body
	}
	require.Contains(t, written, sms.Serial, "the search sees what is written")
	for i, s := range []string{mobile, newMobile, payee, pin, message.Code, card(1), card(2), p.ocra(pin)} {
		require.NotContains(t, strings.NewReplacer("0912***4567", "", "+9893***4321", "").Replace(written), s, "secret %d", i)
	}
}
