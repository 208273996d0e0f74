package api_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// What a recorder answers to officers.
func someProposal(id string) keyservice.ProposalView {
	signed := approval.Signed{Document: []byte("{}"), Signature: []byte("s"), Certificate: []byte("c")}
	return keyservice.ProposalView{
		ID: id, State: keyservice.ProposalApproved, Document: approval.Proposal{Action: "officers.change", Proposer: "a", ExpiresAt: someTime},
		Signed: signed, Approval: &signed, Approver: "b", MadeAt: someTime, ApprovedAt: someTime,
	}
}

// aboutProposal is the input of the use cases that take an id and a signed document.
type aboutProposal struct {
	id     string
	signed approval.Signed
}

func (r *recorder) Propose(ctx context.Context, c authz.Caller, signed approval.Signed) (keyservice.ProposalView, error) {
	return someProposal("5d0f"), r.note(ctx, "propose", c, signed)
}

func (r *recorder) Approve(ctx context.Context, c authz.Caller, id string, signed approval.Signed) (keyservice.ProposalView, error) {
	return someProposal(id), r.note(ctx, "approve", c, aboutProposal{id, signed})
}

func (r *recorder) Withdraw(ctx context.Context, c authz.Caller, id string) (keyservice.ProposalView, error) {
	return someProposal(id), r.note(ctx, "withdraw", c, id)
}

func (r *recorder) Proposal(ctx context.Context, c authz.Caller, id string) (keyservice.ProposalView, error) {
	return someProposal(id), r.note(ctx, "proposal", c, id)
}

func (r *recorder) Proposals(ctx context.Context, c authz.Caller) (keyservice.Control, error) {
	return keyservice.Control{Caller: c.Name, Installation: "5d0f", Officers: []string{"a", "b"}, Proposals: []keyservice.ProposalView{someProposal("5d0f")}}, r.note(ctx, "proposals", c, nil)
}

func TestProposalsTravel(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	document := `{"quotes":"\"","persian":"رمز"}`
	body, err := json.Marshal(wire.Signed{Document: document, Signature: []byte{1, 2}, Certificate: []byte{3}})
	require.NoError(t, err)
	signed := approval.Signed{Document: []byte(document), Signature: []byte{1, 2}, Certificate: []byte{3}}
	for path, want := range map[string]any{"/v1/proposals": signed, "/v1/proposals/5d0f/approval": aboutProposal{"5d0f", signed}} {
		p := decode[wire.Proposal](t, w.send("officer", "POST", path, string(body)))
		require.Equal(t, "approved", p.Status)
		require.Equal(t, want, rec.seen()[len(rec.seen())-1].input, "every byte of the document")
	}
	p := decode[wire.Proposal](t, w.send("officer", "POST", "/v1/proposals/5d0f/withdrawal", ""))
	require.Equal(t, []any{"a", "b", "{}", someTime}, []any{p.Proposer, p.Approver, p.Approval.Document, *p.ApprovedAt})
	require.Nil(t, p.EndedAt)
	require.Equal(t, "5d0f", decode[wire.Proposal](t, w.send("officer", "GET", "/v1/proposals/5d0f", "")).ID)
	all := decode[wire.ProposalsAnswer](t, w.send("officer", "GET", "/v1/proposals", ""))
	require.Equal(t, []string{"a", "b"}, all.Officers)
	require.Equal(t, "the-officer", all.Caller)
	require.Len(t, all.Proposals, 1)
}

// TestExampleProposalIsOne: the documents shown are such as officers sign.
func TestExampleProposalIsOne(t *testing.T) {
	d := start(t, &recorder{}, nil).document(t)
	var made, consent wire.Signed
	for path, into := range map[string]*wire.Signed{"/v1/proposals": &made, "/v1/proposals/{id}/approval": &consent} {
		require.NoError(t, json.Unmarshal(d.Paths[path]["post"].Body.Content["application/json"].Example, into))
	}
	p, err := approval.ParseProposal([]byte(made.Document))
	require.NoError(t, err)
	var change keyservice.OfficersChange
	require.NoError(t, p.Into(&change))
	a, err := approval.ParseApproval([]byte(consent.Document))
	require.NoError(t, err)
	require.Equal(t, approval.Digest([]byte(made.Document)), a.Proposal)
}

// openControlled is the whole service, with officers: their certificates are of the authority that the API trusts.
func openControlled(t *testing.T) *bank {
	b := &bank{now: &clock{now: time.Now()}} // certificates are held against it
	ca := newAuthority(t, "test authority")
	names := []string{"officer", "officer-2", "officer-3"}
	clients := roleNames()
	for _, name := range names[1:] {
		clients = append(clients, authz.Client{Name: "the-" + name, Certificates: []string{name, name + "-renewed"}, Roles: []authz.Role{authz.Officer}})
	}
	directory, err := authz.NewDirectory(clients)
	require.NoError(t, err)
	b.open(t, ca, keyservice.Persons{Directory: directory, Roots: ca.pool(), Officers: []string{"the-officer", "the-officer-2"}})
	return b
}

// sign signs a document with the certificate of this name.
func (b *bank) sign(name string, document []byte) wire.Signed {
	b.t.Helper()
	certificate := b.tls(name).Certificates[0]
	s, err := approval.Sign(document, certificate.PrivateKey.(crypto.Signer), certificate.Certificate...)
	require.NoError(b.t, err)
	return wire.Signed{Document: string(s.Document), Signature: s.Signature, Certificate: s.Certificate}
}

// proposes makes the document of a change of officers.
func (b *bank) proposes(proposer string, officers ...string) []byte {
	b.t.Helper()
	list := decode[wire.ProposalsAnswer](b.t, b.send("officer", http.MethodGet, "/v1/proposals", ""))
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	p, err := approval.New(list.Installation, keyservice.ActionOfficers, keyservice.OfficersChange{Officers: officers, InsteadOf: list.Officers}, proposer, nonce, time.Now(), approval.DefaultLife)
	require.NoError(b.t, err)
	document, err := p.Encode()
	require.NoError(b.t, err)
	return document
}

func (b *bank) consents(approver string, proposal []byte) []byte {
	b.t.Helper()
	document, err := approval.Approve(proposal, approver, time.Now()).Encode()
	require.NoError(b.t, err)
	return document
}

// TestOneOfficerAloneChangesNothingOverTheAPI plays what one officer could try, over mutual TLS: each is refused with a
// code of its own, and the officers stay who they are. Then two do it.
func TestOneOfficerAloneChangesNothingOverTheAPI(t *testing.T) {
	b := openControlled(t)
	document := b.proposes("the-officer", "the-officer", "the-officer-3")
	id := approval.ID(document)
	path := "/v1/proposals/" + id + "/approval"
	made := decode[wire.Proposal](t, b.post("officer", "/v1/proposals", b.sign("officer", document)))
	require.Equal(t, []string{id, "waiting", "the-officer"}, []string{made.ID, made.Status, made.Proposer})
	consent := b.consents("the-officer-2", document)
	for name, c := range map[string]struct {
		client, path string
		signed       wire.Signed
		code         string
	}{
		"approve it oneself":                     {"officer", path, b.sign("officer", b.consents("the-officer", document)), "second_person_required"},
		"in another's name":                      {"officer", path, b.sign("officer", consent), "second_person_required"},
		"an approval that another one signed":    {"officer", path, b.sign("officer-2", consent), "second_person_required"},
		"another's key, under one's own session": {"officer-3", path, b.sign("officer-2", consent), "signature_invalid"},
		"by a person who is no officer":          {"officer-3", path, b.sign("officer-3", b.consents("the-officer-3", document)), "not_an_officer"},
		"propose in another's name":              {"officer", "/v1/proposals", b.sign("officer", b.proposes("the-officer-2", "the-officer", "the-officer-3")), "signature_invalid"},
		"propose as no officer":                  {"officer-3", "/v1/proposals", b.sign("officer-3", b.proposes("the-officer-3", "the-officer", "the-officer-3")), "not_an_officer"},
		"propose it again":                       {"officer", "/v1/proposals", b.sign("officer", document), "proposal_exists"},
		"the proposal as its approval":           {"officer-2", path, b.sign("officer-2", document), "document_invalid"},
		"an approval of another proposal":        {"officer-2", path, b.sign("officer-2", b.consents("the-officer-2", consent)), "document_invalid"},
		"a proposal that is not there":           {"officer-2", strings.Replace(path, id, strings.Repeat("0", 32), 1), b.sign("officer-2", consent), "proposal_not_found"},
	} {
		require.Equal(t, c.code, b.post(c.client, c.path, c.signed).problem(t).Code, name)
	}
	require.Equal(t, "not_the_proposer", b.post("officer-2", "/v1/proposals/"+id+"/withdrawal", nil).problem(t).Code)
	require.Equal(t, []string{"the-officer", "the-officer-2"}, b.controlled().Officers)

	approved := decode[wire.Proposal](t, b.post("officer-2-renewed", path, b.sign("officer-2", consent)))
	require.Equal(t, "approved", approved.Status, "a renewed certificate is the same person")
	require.Equal(t, "proposal_closed", b.post("officer-2", path, b.sign("officer-2", consent)).problem(t).Code, "once")
	ended, err := b.service.CarryOut(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, ended)
	require.Equal(t, []string{"the-officer", "the-officer-3"}, b.controlled().Officers)
	require.Equal(t, "done", decode[wire.Proposal](t, b.send("officer-3", http.MethodGet, "/v1/proposals/"+id, "")).Status)
	require.Equal(t, "proposal_closed", b.post("officer", "/v1/proposals/"+id+"/withdrawal", nil).problem(t).Code)
}

func (b *bank) controlled() wire.ProposalsAnswer {
	b.t.Helper()
	return decode[wire.ProposalsAnswer](b.t, b.send("officer", http.MethodGet, "/v1/proposals", ""))
}

// TestOfficersReachNothingElse: over all routes of the document, an officer's certificate opens those of dual control, and
// none that shows a customer or carries something out.
func TestOfficersReachNothingElse(t *testing.T) {
	open := map[string]bool{"propose": true, "proposals": true, "proposal": true, "approve": true, "withdraw": true,
		"pause-rotation": true, "resume-rotation": true, // what two have agreed on goes on, or rests
		"feed": true, "import-clear-seeds": true, // two have opened it
	}
	eachOperation(start(t, &recorder{}, nil).document(t), func(method, path string, op operation) {
		if op.Role == string(authz.Officer) && (method != http.MethodGet || strings.HasPrefix(path, "/v1/proposals")) {
			require.True(t, open[op.ID], "%s %s changes something on the word of one officer", method, path)
		}
	})
}
