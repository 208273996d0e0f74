package api_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

const (
	subjectBody     = `{"class":"card","subject":"6037991234567893","use":"second-pin","otp":"492039"}`
	challengeBody   = `{"class":"card","subject":"6037991234567893","use":"second-pin"}`
	transactionBody = `{"class":"card","subject":"6037991234567893","use":"second-pin","transaction":{"amount":"1500000","currency":"IRR","payee":"6037997551493320"}}`
	activationBody  = `{"activation_code":"83920174","device":{"id":"a1b2","channel":"app","public_key":"a2V5"}}`

	subjectActivationBody = `{"class":"card","subject":"6037991234567893","activation_code":"83920174","device":{"id":"a1b2","channel":"app","public_key":"a2V5"}}`
)

// inputs are what the use cases were called with, by use case.
func (r *recorder) inputs() map[string]any {
	all := map[string]any{}
	for _, c := range r.seen() {
		all[c.name] = c.input
	}
	return all
}

var (
	sentTransaction = &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: "6037997551493320"}
	tookTransaction = &otp.Transaction{Amount: "1500000", Currency: "IRR", Payee: seed.NewSubject("6037997551493320")}
)

// TestPasswordRoutesReachTheirUseCases: verification by subject, SMS passwords and resynchronisation, at both ends.
func TestPasswordRoutesReachTheirUseCases(t *testing.T) {
	rec := &recorder{sms: true}
	w := start(t, rec, nil)
	ctx := t.Context()
	verifier := w.goClient("verifier")
	verdict, err := verifier.Verify(ctx, wire.VerificationRequest{
		Class: "card", Subject: "6037991234567893", Use: "second-pin", OTP: "492039", Transaction: sentTransaction,
	})
	require.NoError(t, err)
	require.Equal(t, wire.VerificationAnswer{
		Result: "accepted", Serial: "402519938461", Kind: "sms", Bound: true, Audit: wire.Audit{Node: "n1", Index: 1843},
	}, verdict)
	asked, err := verifier.Challenge(ctx, wire.ChallengeRequest{Class: "card", Subject: "6037991234567893", Use: "second-pin", Transaction: sentTransaction})
	require.NoError(t, err)
	require.Equal(t, wire.ChallengeAnswer{ID: "5d0f", ExpiresAt: someTime}, asked)
	code, err := w.goClient("courier").CollectCode(ctx, asked.ID)
	require.NoError(t, err)
	require.Equal(t, wire.CodeAnswer{
		Kind: "sms", Serial: "402519938461", Mobile: "09121234567", Code: "83920174", ExpiresAt: someTime, Transaction: sentTransaction,
	}, code)
	found, err := w.goClient("activator").Resync(ctx, "402519938461", wire.ResyncRequest{OTP1: "492039", OTP2: "170284"})
	require.NoError(t, err)
	require.Equal(t, wire.ResyncAnswer{Serial: "402519938461", Result: "accepted", DriftSeconds: 120, Audit: wire.Audit{Node: "n1", Index: 7}}, found)

	in := rec.inputs()
	require.Equal(t, keyservice.VerifyRequest{
		Class: "card", Subject: seed.NewSubject("6037991234567893"), Use: "second-pin", OTP: seed.NewPassword("492039"), Transaction: tookTransaction,
	}, in["verify"])
	require.Equal(t, keyservice.ChallengeRequest{
		Class: "card", Subject: seed.NewSubject("6037991234567893"), Use: "second-pin", Transaction: tookTransaction,
	}, in["challenge"])
	require.Equal(t, keyservice.ResyncRequest{Serial: "402519938461", First: seed.NewPassword("492039"), Second: seed.NewPassword("170284")}, in["resync"])
	require.Equal(t, 201, w.send("verifier", "POST", "/v1/challenges", challengeBody).status)
	require.Nil(t, rec.inputs()["challenge"].(keyservice.ChallengeRequest).Transaction)
}

// TestReceiptsTravel: a receipt that was asked for, or why there is none.
func TestReceiptsTravel(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	asked := wire.VerificationRequest{Class: "card", Subject: "6037991234567893", Use: "second-pin", OTP: "492039"}
	verdict, err := w.goClient("verifier").Verify(t.Context(), asked)
	require.NoError(t, err)
	require.Nil(t, verdict.Receipt)
	asked.Receipt = true
	verdict, err = w.goClient("verifier").Verify(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, &wire.Receipt{Note: "a note\n", TransactionSalt: []byte{1, 2, 3}}, verdict.Receipt)
	require.True(t, rec.inputs()["verify"].(keyservice.VerifyRequest).Receipt)
}

// TestTokenRoutesReachTheirUseCases: what an issuer changes of a token, and the other two ways to enrol one.
func TestTokenRoutesReachTheirUseCases(t *testing.T) {
	rec := &recorder{sms: true}
	w := start(t, rec, nil)
	ctx := t.Context()
	issuer, activator := w.goClient("issuer"), w.goClient("activator")
	issued, err := issuer.Issue(ctx, wire.IssueRequest{
		Class: "card", Subject: "6037991234567893", Channel: "sms", Mobile: "09121234567", Profile: "sms-120", Uses: []string{},
	})
	require.NoError(t, err)
	require.Equal(t, wire.IssueAnswer{Serial: "402519938461", Status: "active"}, issued, "nothing waits to be activated")
	uses, err := issuer.SetUses(ctx, "402519938461", wire.UsesRequest{Uses: []string{"login", "account-pin"}})
	require.NoError(t, err)
	require.Equal(t, wire.UsesAnswer{Serial: "402519938461", Uses: []string{"login", "account-pin"}}, uses)
	status, err := issuer.SetPIN(ctx, "402519938461", wire.PINRequest{PIN: "27182818"})
	require.NoError(t, err)
	require.Equal(t, wire.StatusAnswer{Serial: "402519938461", Status: "issued"}, status)
	moved, err := issuer.SetMobile(ctx, "402519938461", wire.MobileRequest{Mobile: "+989121234567"})
	require.NoError(t, err)
	require.Equal(t, wire.IssueAnswer{Serial: "402519938461", Status: "issued", Activation: &wire.Activation{ID: "5d0f", ExpiresAt: someTime}}, moved)
	removed, err := activator.Remove(ctx, "402519938461", wire.RemovalRequest{Proof: []byte("proof")})
	require.NoError(t, err)
	require.Equal(t, wire.StatusAnswer{Serial: "402519938461", Status: "deactivated"}, removed)
	status, err = issuer.Unlock(ctx, "402519938461")
	require.NoError(t, err)
	require.Equal(t, wire.StatusAnswer{Serial: "402519938461", Status: "active"}, status)
	ended, err := issuer.DeactivateSubject(ctx, wire.SubjectRequest{Class: "card", Subject: "6037991234567893"})
	require.NoError(t, err)
	require.Equal(t, []string{"402519938461"}, ended.Serials)
	shown, err := issuer.Token(ctx, "402519938461")
	require.NoError(t, err)
	require.Equal(t, "0912***4567", shown.Mobile)
	key, err := activator.ImportKey(ctx)
	require.NoError(t, err)
	require.Equal(t, []byte("der"), key.PublicKey)
	activated, err := activator.Activate(ctx, "402519938461", wire.ActivationRequest{ActivationCode: "83920174", MakerSeed: []byte("wrapped")})
	require.NoError(t, err)
	require.Nil(t, activated.Seed, "a hardware token has its seed")
	_, err = activator.Confirm(ctx, "402519938461", wire.ConfirmationRequest{OTP: "492039"})
	require.NoError(t, err)

	in := rec.inputs()
	require.Equal(t, seed.NewMobile("09121234567"), in["issue"].(keyservice.IssueRequest).Mobile)
	require.Equal(t, setUses{"402519938461", []string{"login", "account-pin"}}, in["set-uses"])
	require.Equal(t, setPIN{"402519938461", seed.NewPIN("27182818")}, in["set-pin"])
	require.Equal(t, setMobile{"402519938461", seed.NewMobile("+989121234567")}, in["set-mobile"])
	require.Equal(t, keyservice.RemoveRequest{Serial: "402519938461", Proof: []byte("proof")}, in["remove"])
	require.Equal(t, "402519938461", in["unlock"])
	require.Equal(t, endSubject{"card", seed.NewSubject("6037991234567893")}, in["deactivate-subject"])
	require.Equal(t, keyservice.ActivateRequest{
		Serial: "402519938461", Subject: seed.NewSubject(""), Code: seed.NewCode("83920174"), MakerSeed: []byte("wrapped"),
	}, in["activate"])
	require.Equal(t, keyservice.ConfirmRequest{Serial: "402519938461", OTP: seed.NewPassword("492039")}, in["confirm"])
}

// TestUsesMayBeNone: a token that is connected to nothing is answered with an empty list, never with null.
func TestUsesMayBeNone(t *testing.T) {
	w := start(t, &recorder{}, nil)
	r := w.send("issuer", "PUT", "/v1/tokens/402519938461/uses", `{"uses":[]}`)
	require.Equal(t, 200, r.status, r.body)
	require.JSONEq(t, `{"serial":"402519938461","uses":[]}`, r.body)
}

// TestOneWayOnly: a verification names what to try in exactly one of two ways; the detail says which there are, and no use
// case is reached.
func TestOneWayOnly(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	rest := `"use":"second-pin","otp":"492039"}`
	const ways = "serial, or whose it is by class and subject"
	for name, c := range map[string]struct{ body, detail string }{
		"serial and subject":          {`{"serial":"402519938461","class":"card","subject":"6037991234567893",` + rest, "name the token by " + ways + ", but not both"},
		"serial and class":            {`{"serial":"402519938461","class":"card",` + rest, "name the token by " + ways + ", but not both"},
		"serial and subject only":     {`{"serial":"402519938461","subject":"6037991234567893",` + rest, "name the token by " + ways + ", but not both"},
		"nobody":                      {`{` + rest, "name the token by " + ways + ": there is neither"},
		"an empty serial":             {`{"serial":"",` + rest, "name the token by " + ways + ": there is neither"},
		"a subject without its class": {`{"subject":"6037991234567893",` + rest, "name the class besides the subject: they go together"},
		"a class without a subject":   {`{"class":"card",` + rest, "name the subject besides the class: they go together"},
		"an empty subject":            {`{"class":"card","subject":"",` + rest, "name the subject besides the class: they go together"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.send("verifier", "POST", "/v1/verifications", c.body)
			require.Equal(t, 422, r.status, r.body)
			p := r.problem(t)
			require.Equal(t, "request_invalid", p.Code)
			require.Equal(t, c.detail, p.Detail)
		})
	}
	require.Empty(t, rec.seen())
}

// TestRefusedForms: the new bodies are read as strictly as all others; where they are wrong is said, and no use case is
// reached.
func TestRefusedForms(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	with := func(transaction string) string {
		return strings.Replace(subjectBody, "}", `,"transaction":`+transaction+`}`, 1)
	}
	const uses, pin, resync = "/v1/tokens/402519938461/uses", "/v1/tokens/402519938461/pin", "/v1/tokens/402519938461/resync"
	const moved, removal = "/v1/tokens/402519938461/mobile", "/v1/tokens/402519938461/removal"
	for name, c := range map[string]struct{ client, route, body, where string }{
		"a class of its own":          {"verifier", "POST /v1/verifications", strings.Replace(subjectBody, `"card"`, `"cheque"`, 1), "body.class"},
		"a subject without end":       {"verifier", "POST /v1/verifications", strings.Replace(subjectBody, "6037", strings.Repeat("6037", 20), 1), "body.subject"},
		"a card number as a number":   {"verifier", "POST /v1/verifications", strings.Replace(subjectBody, `"6037991234567893"`, `6037991234567893`, 1), "body.subject"},
		"a text as transaction":       {"verifier", "POST /v1/verifications", with(`"1500000 IRR"`), "body.transaction"},
		"an empty transaction":        {"verifier", "POST /v1/verifications", with(`{}`), "body.transaction"},
		"an amount as a number":       {"verifier", "POST /v1/verifications", with(`{"amount":1500000,"currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"a leading zero":              {"verifier", "POST /v1/verifications", with(`{"amount":"01","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"nothing to pay":              {"verifier", "POST /v1/verifications", with(`{"amount":"0","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"a fraction":                  {"verifier", "POST /v1/verifications", with(`{"amount":"1.5","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"a negative amount":           {"verifier", "POST /v1/verifications", with(`{"amount":"-1","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"19 digits":                   {"verifier", "POST /v1/verifications", with(`{"amount":"1000000000000000000","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"Persian digits":              {"verifier", "POST /v1/verifications", with(`{"amount":"۱۵","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"a newline behind the amount": {"verifier", "POST /v1/verifications", with(`{"amount":"15\n","currency":"IRR","payee":"p"}`), "body.transaction.amount"},
		"a currency in small letters": {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"irr","payee":"p"}`), "body.transaction.currency"},
		"a currency of two letters":   {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"IR","payee":"p"}`), "body.transaction.currency"},
		"no payee":                    {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"IRR"}`), "body.transaction"},
		"an empty payee":              {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"IRR","payee":""}`), "body.transaction.payee"},
		"a payee with a space":        {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"IRR","payee":"a b"}`), "body.transaction.payee"},
		"more in the transaction":     {"verifier", "POST /v1/verifications", with(`{"amount":"15","currency":"IRR","payee":"p","memo":"m"}`), "body.transaction"},
		"a challenge for nobody":      {"verifier", "POST /v1/challenges", `{"class":"card","use":"second-pin"}`, "body"},
		"a challenge by serial":       {"verifier", "POST /v1/challenges", strings.Replace(challengeBody, "{", `{"serial":"402519938461",`, 1), "body"},
		"a challenge for no use":      {"verifier", "POST /v1/challenges", `{"class":"card","subject":"6037991234567893"}`, "body"},
		"a challenge's transaction":   {"verifier", "POST /v1/challenges", strings.Replace(transactionBody, "IRR", "rial", 1), "body.transaction.currency"},
		"no uses":                     {"issuer", "PUT " + uses, `{}`, "body"},
		"null for uses":               {"issuer", "PUT " + uses, `{"uses":null}`, "body.uses"},
		"a use as text":               {"issuer", "PUT " + uses, `{"uses":"login"}`, "body.uses"},
		"too many uses":               {"issuer", "PUT " + uses, `{"uses":["` + strings.Repeat(`a","`, 16) + `a"]}`, "body.uses"},
		"no PIN":                      {"issuer", "PUT " + pin, `{}`, "body"},
		"a PIN as a number":           {"issuer", "PUT " + pin, `{"pin":27182818}`, "body.pin"},
		"a PIN of three digits":       {"issuer", "PUT " + pin, `{"pin":"271"}`, "body.pin"},
		"a PIN with a space":          {"issuer", "PUT " + pin, `{"pin":"2718 2818"}`, "body.pin"},
		"a PIN in Persian":            {"issuer", "PUT " + pin, `{"pin":"۲۷۱۸۲۸۱۸"}`, "body.pin"},
		"no new number":               {"issuer", "PUT " + moved, `{}`, "body"},
		"an empty number":             {"issuer", "PUT " + moved, `{"mobile":""}`, "body.mobile"},
		"a new number as a number":    {"issuer", "PUT " + moved, `{"mobile":9121234567}`, "body.mobile"},
		"a new number with spaces":    {"issuer", "PUT " + moved, `{"mobile":"0912 123 4567"}`, "body.mobile"},
		"a removal without proof":     {"activator", "POST " + removal, `{}`, "body"},
		"a removal, proving nothing":  {"activator", "POST " + removal, `{"proof":""}`, "body.proof"},
		"a removal by password":       {"activator", "POST " + removal, `{"proof":"AAAA","otp":"492039"}`, "body"},
		"one password":                {"activator", "POST " + resync, `{"otp1":"492039"}`, "body"},
		"passwords as a list":         {"activator", "POST " + resync, `{"otps":["492039","170284"]}`, "body"},
		"a customer without class":    {"issuer", "POST /v1/subjects/deactivations", `{"subject":"6037991234567893"}`, "body"},
		"a customer without number":   {"issuer", "POST /v1/subjects/deactivations", `{"class":"card","subject":""}`, "body.subject"},
		"a mobile number with spaces": {"issuer", "POST /v1/tokens", strings.Replace(issueBody, "{", `{"mobile":"0912 123 4567",`, 1), "body.mobile"},
		"a mobile number too short":   {"issuer", "POST /v1/tokens", strings.Replace(issueBody, "{", `{"mobile":"091212345",`, 1), "body.mobile"},
		"a mobile number in Persian":  {"issuer", "POST /v1/tokens", strings.Replace(issueBody, "{", `{"mobile":"۰۹۱۲۱۲۳۴۵۶۷",`, 1), "body.mobile"},
		"a device of another form":    {"activator", "POST /v1/tokens/402519938461/activation", `{"activation_code":"83920174","device":[]}`, "body.device"},
		"a seed that is not base64":   {"activator", "POST /v1/tokens/402519938461/activation", `{"activation_code":"83920174","maker_seed":"%"}`, "body.maker_seed"},
		"an empty seed":               {"activator", "POST /v1/tokens/402519938461/activation", `{"activation_code":"83920174","maker_seed":""}`, "body.maker_seed"},
		"an empty proof":              {"activator", "POST /v1/tokens/402519938461/confirmation", `{"proof":""}`, "body.proof"},
		"a password as a number":      {"activator", "POST /v1/tokens/402519938461/confirmation", `{"otp":492039}`, "body.otp"},
	} {
		t.Run(name, func(t *testing.T) {
			method, path, _ := strings.Cut(c.route, " ")
			r := w.send(c.client, method, path, c.body)
			require.Equal(t, 422, r.status, r.body)
			p := r.problem(t)
			require.Equal(t, "request_invalid", p.Code)
			require.NotEmpty(t, p.Errors)
			for _, e := range p.Errors {
				require.True(t, strings.HasPrefix(e, c.where+":"), e)
			}
		})
	}
	require.Empty(t, rec.seen())
}
