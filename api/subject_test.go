package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice"
)

// Who has no serial names the customer in the body: the use cases hear of the same things.
func TestRoutesBySubject(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	r := w.send("activator", "POST", "/v1/activations", subjectActivationBody)
	require.Equal(t, 200, r.status, r.body)
	in, ok := rec.inputs()["activate"].(keyservice.ActivateRequest)
	require.True(t, ok)
	require.Equal(t, []string{"", "card", "6037991234567893", "83920174", "a1b2", "app", "key"},
		[]string{in.Serial, in.Class, in.Subject.Reveal(), in.Code.Reveal(), in.DeviceID, in.Channel, string(in.KeyDER)})

	r = w.send("issuer", "POST", "/v1/subjects/tokens", `{"class":"card","subject":"6037991234567893"}`)
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, someToken.Serial, decode[wire.SubjectTokensAnswer](t, r).Tokens[0].Serial)
	require.Contains(t, rec.inputs(), "subject-tokens")
}

// A customer's phone is activated with card and code, and the branch finds the token by the card, through the whole
// service.
func TestEnrolmentWithoutASerial(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	issued := b.issue(1)
	by := b.activation(1, b.collect(issued.Activation.ID).Code, &key.PublicKey)
	r := b.post("activator", "/v1/activations", wire.SubjectActivationRequest{
		Class: "card", Subject: by.Subject, ActivationCode: by.ActivationCode, Device: by.Device,
	})
	require.Equal(t, 200, r.status, r.body)
	require.Equal(t, issued.Serial, decode[wire.ActivationAnswer](t, r).Serial)
	r = b.post("issuer", "/v1/subjects/tokens", wire.SubjectRequest{Class: "card", Subject: card(1)})
	found := decode[wire.SubjectTokensAnswer](t, r).Tokens
	require.Len(t, found, 1)
	require.Equal(t, "pending", found[0].Status)
	require.NotContains(t, r.body, card(1))
	require.JSONEq(t, `{"tokens":[]}`, b.post("issuer", "/v1/subjects/tokens", wire.SubjectRequest{Class: "card", Subject: card(2)}).body)
}
