package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// under sends a wire type under an idempotency key.
func (b *bank) under(key, client, path string, in any) reply {
	b.t.Helper()
	return b.sendJSON(client, http.MethodPost, path, in, "Idempotency-Key: "+key)
}

// repeated fails the test unless the answer is marked, and the very one that came first.
func repeated(t *testing.T, first, again reply) {
	t.Helper()
	require.Empty(t, first.header.Get("Idempotency-Replayed"), first.body)
	require.Equal(t, "true", again.header.Get("Idempotency-Replayed"), again.body)
	require.Equal(t, first.status, again.status)
	if first.status < 300 {
		require.Equal(t, first.body, again.body)
		return
	}
	one, other := first.problem(t), again.problem(t)
	one.RequestID, other.RequestID = "", ""
	require.Equal(t, one, other)
}

// TestRetriedVerifications: a caller that did not hear the answer asks again under the same key and gets it, an acceptance
// and a refusal alike; nothing is used up or counted twice. Another request under that key is refused.
func TestRetriedVerifications(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	const path = "/v1/verifications"
	right := p.request()
	first := b.under("payment-1", "verifier", path, right)
	require.Equal(t, "accepted", decode[wire.VerificationAnswer](t, first).Result)
	repeated(t, first, b.under("payment-1", "verifier", path, right))
	require.Equal(t, "already_used", b.verify(right).Reason, "without the key it is a new request")
	require.Equal(t, "already_used", decode[wire.VerificationAnswer](t, b.under("payment-2", "verifier", path, right)).Reason, "with another key too")
	require.Equal(t, "already_used", decode[wire.VerificationAnswer](t, b.under("payment-1", "another-verifier", path, right)).Reason,
		"another client's keys are its own")

	wrong := right
	wrong.OTP = p.passwordAt(b.now.time().Add(24 * time.Hour))
	missed := b.under("payment-3", "verifier", path, wrong)
	require.Equal(t, "mismatch", decode[wire.VerificationAnswer](t, missed).Reason)
	for range 5 {
		repeated(t, missed, b.under("payment-3", "verifier", path, wrong))
	}
	require.Equal(t, "mismatch", b.verify(wrong).Reason, "the repeats were no guesses")
	for name, other := range map[string]wire.VerificationRequest{
		"password": wrong, "use": {Serial: right.Serial, Use: "login", OTP: right.OTP},
		"transaction": {Serial: right.Serial, Use: right.Use, OTP: right.OTP, Transaction: &wire.Transaction{Amount: "1", Currency: "IRR", Payee: "p"}},
	} {
		r := b.under("payment-1", "verifier", path, other)
		require.Equal(t, 422, r.status, name)
		require.Equal(t, "idempotency_key_reused", r.problem(t).Code, name)
		require.Empty(t, r.header.Get("Idempotency-Replayed"), name)
	}
	unknown := wire.VerificationRequest{Serial: luhn("00000000000"), Use: "second-pin", OTP: right.OTP}
	repeated(t, b.under("payment-4", "verifier", path, unknown), b.under("payment-4", "verifier", path, unknown))
}

// TestRetriedEnrolment: issuing, activating and asking for an SMS password again give the same serial, seed and challenge.
func TestRetriedEnrolment(t *testing.T) {
	b := openBank(t)
	first := b.under("receipt-1", "issuer", "/v1/tokens", issueCard(1))
	repeated(t, first, b.under("receipt-1", "issuer", "/v1/tokens", issueCard(1)))
	require.Equal(t, "live_token_exists", b.post("issuer", "/v1/tokens", issueCard(1)).problem(t).Code)
	require.Equal(t, "idempotency_key_reused", b.under("receipt-1", "issuer", "/v1/tokens", issueCard(2)).problem(t).Code)
	taken := b.under("receipt-2", "issuer", "/v1/tokens", issueCard(1))
	repeated(t, taken, b.under("receipt-2", "issuer", "/v1/tokens", issueCard(1)))

	key, err := phoneKey()
	require.NoError(t, err)
	issued := decode[wire.IssueAnswer](t, first)
	path := "/v1/tokens/" + issued.Serial + "/activation"
	request := b.activation(1, b.collect(issued.Activation.ID).Code, &key.PublicKey)
	activated := b.under("phone-1", "activator", path, request)
	require.Equal(t, 200, activated.status, activated.body)
	again := b.under("phone-1", "activator", path, request)
	require.Equal(t, "true", again.header.Get("Idempotency-Replayed"))
	require.Equal(t, decode[wire.ActivationAnswer](t, activated).Seed, decode[wire.ActivationAnswer](t, again).Seed)

	b.optIn(1)
	ask := wire.ChallengeRequest{Class: "card", Subject: card(1), Use: "second-pin", Transaction: &wire.Transaction{Amount: "1", Currency: "IRR", Payee: payee}}
	asked := b.under("sms-1", "verifier", "/v1/challenges", ask)
	require.Equal(t, 201, asked.status, asked.body)
	for range 5 {
		repeated(t, asked, b.under("sms-1", "verifier", "/v1/challenges", ask))
	}
	require.NotEqual(t, decode[wire.ChallengeAnswer](t, asked).ID, decode[wire.ChallengeAnswer](t, b.post("verifier", "/v1/challenges", ask)).ID,
		"the repeats did not take a place")
	require.Positive(t, b.outcomes(t)["repeated"])
}
