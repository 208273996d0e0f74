package api_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

const newMobile = "+989357654321"

func (p *phone) remove(proof []byte) reply {
	p.bank.t.Helper()
	return p.bank.post("activator", "/v1/tokens/"+p.serial+"/removal", wire.RemovalRequest{Proof: proof})
}

// TestRemovalRoute: the mobile bank ends a token with the proof of the phone that holds it, and no other one with that.
func TestRemovalRoute(t *testing.T) {
	b := openBank(t)
	p, other := b.enrolled(1), b.activated(2)
	removal := p.proofOf("ramzban/remove/1")
	runBadInput(t, b, []badInput{
		{"no proof at all", "activator", "/v1/tokens/" + p.serial + "/removal", `{"proof":""}`, 422, "request_invalid", 0},
		{"a proof that is not base64", "activator", "/v1/tokens/" + p.serial + "/removal", `{"proof":"%"}`, 422, "request_invalid", 0},
		{"another tag", "activator", "/v1/tokens/" + p.serial + "/removal", wire.RemovalRequest{Proof: p.proof()}, 403, "proof_wrong", 0},
		{"another phone's", "activator", "/v1/tokens/" + p.serial + "/removal", wire.RemovalRequest{Proof: other.proofOf("ramzban/remove/1")}, 403, "proof_wrong", 0},
		{"another token", "activator", "/v1/tokens/" + other.serial + "/removal", wire.RemovalRequest{Proof: removal}, 403, "proof_wrong", 0},
		{"half a proof", "activator", "/v1/tokens/" + p.serial + "/removal", wire.RemovalRequest{Proof: removal[:10]}, 403, "proof_wrong", 0},
		{"an SMS token", "activator", "/v1/tokens/" + b.optIn(1).Serial + "/removal", wire.RemovalRequest{Proof: removal}, 422, "request_invalid", 0},
		{"the issuer's way", "activator", "/v1/tokens/" + p.serial + "/deactivate", nil, 403, "not_allowed", 0},
		{"the issuer here", "issuer", "/v1/tokens/" + p.serial + "/removal", wire.RemovalRequest{Proof: removal}, 403, "not_allowed", 0},
	})
	require.Equal(t, "accepted", b.verify(p.request()).Result, "after all that it still works")
	removed := decode[wire.StatusAnswer](t, p.remove(removal))
	require.Equal(t, wire.StatusAnswer{Serial: p.serial, Status: "deactivated"}, removed)
	b.now.add(time.Minute)
	require.Equal(t, "not_active", b.verify(p.request()).Reason)
	again := p.remove(removal).problem(t)
	require.Equal(t, "transition_not_allowed", again.Code)
	require.Contains(t, again.Detail, "the token is deactivated")
	require.Equal(t, "deactivated", decode[wire.StatusAnswer](t, other.remove(other.proofOf("ramzban/remove/1"))).Status, "before its confirmation too")
	require.Equal(t, 201, b.post("issuer", "/v1/tokens", issueCard(1)).status, "the card may have another token")
}

// TestMobileRoute: from the change on, codes go to the new number; what was on its way to the old one is worth nothing.
func TestMobileRoute(t *testing.T) {
	b := openBank(t)
	sms := b.optIn(1)
	old := b.sent(1, nil)
	path := "/v1/tokens/" + sms.Serial
	moved := decode[wire.IssueAnswer](t, b.put("issuer", path+"/mobile", wire.MobileRequest{Mobile: newMobile}))
	require.Equal(t, wire.IssueAnswer{Serial: sms.Serial, Status: "active"}, moved)
	require.Equal(t, "+9893***4321", decode[wire.TokenAnswer](t, b.send("issuer", "GET", path, "")).Mobile)
	require.Equal(t, "mismatch", b.verify(bySubject(1, old.Code, nil)).Reason)
	message := b.sent(1, nil)
	require.Equal(t, newMobile, message.Mobile)
	require.Equal(t, "accepted", b.verify(bySubject(1, message.Code, nil)).Result)

	issued := b.issue(2)
	first := b.collect(issued.Activation.ID)
	moved = decode[wire.IssueAnswer](t, b.put("issuer", "/v1/tokens/"+issued.Serial+"/mobile", wire.MobileRequest{Mobile: newMobile}))
	require.Equal(t, "issued", moved.Status)
	require.NotEqual(t, issued.Activation.ID, moved.Activation.ID)
	key, err := phoneKey()
	require.NoError(t, err)
	require.Equal(t, "code_not_found", b.post("courier", "/v1/codes/"+issued.Activation.ID+"/collection", nil).problem(t).Code)
	require.Equal(t, "activation_code_wrong",
		b.post("activator", "/v1/tokens/"+issued.Serial+"/activation", b.activation(2, first.Code, &key.PublicKey)).problem(t).Code)
	require.Equal(t, newMobile, b.collect(moved.Activation.ID).Mobile)
	p, _ := b.activate(2, moved)
	p.confirm()

	require.Equal(t, 200, b.post("issuer", path+"/deactivate", nil).status)
	require.Equal(t, "transition_not_allowed", b.put("issuer", path+"/mobile", wire.MobileRequest{Mobile: newMobile}).problem(t).Code)
}
