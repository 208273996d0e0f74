package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"ramzban/api/wire"
)

// at joins path elements below /v1; each is escaped, dots included, so that no serial can reach another route.
func (c *Client) at(elements ...string) *url.URL {
	path := []string{"v1"}
	for _, e := range elements {
		path = append(path, strings.ReplaceAll(url.PathEscape(e), ".", "%2E"))
	}
	return c.base.JoinPath(path...)
}

// Issue makes a token. Role: issuer.
func (c *Client) Issue(ctx context.Context, r wire.IssueRequest) (wire.IssueAnswer, error) {
	return call[wire.IssueAnswer](ctx, c, http.MethodPost, c.at("tokens"), r)
}

// CollectCode reads a code that waits to be sent to its customer. Role: courier.
func (c *Client) CollectCode(ctx context.Context, id string) (wire.CodeAnswer, error) {
	return call[wire.CodeAnswer](ctx, c, http.MethodPost, c.at("codes", id, "collection"), nil)
}

// RenewActivationCode makes a fresh activation code; the old one dies. Role: issuer.
func (c *Client) RenewActivationCode(ctx context.Context, serial string) (wire.IssueAnswer, error) {
	return call[wire.IssueAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "activation-code"), nil)
}

// Activate binds a token to a device and returns its seed, wrapped to the device's key. Role: activator.
func (c *Client) Activate(ctx context.Context, serial string, r wire.ActivationRequest) (wire.ActivationAnswer, error) {
	return call[wire.ActivationAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "activation"), r)
}

// ActivateSubject is Activate without the serial. Role: activator.
func (c *Client) ActivateSubject(ctx context.Context, r wire.SubjectActivationRequest) (wire.ActivationAnswer, error) {
	return call[wire.ActivationAnswer](ctx, c, http.MethodPost, c.at("activations"), r)
}

// Confirm hands over the device's proof that it has the seed. Role: activator.
func (c *Client) Confirm(ctx context.Context, serial string, r wire.ConfirmationRequest) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "confirmation"), r)
}

// Remove ends a token for good, with the proof that the phone which holds it gives it up. Role: activator.
func (c *Client) Remove(ctx context.Context, serial string, r wire.RemovalRequest) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "removal"), r)
}

// Token shows a token. Role: issuer.
func (c *Client) Token(ctx context.Context, serial string) (wire.TokenAnswer, error) {
	return call[wire.TokenAnswer](ctx, c, http.MethodGet, c.at("tokens", serial), nil)
}

// SetUses connects a token to exactly these uses; none is allowed. Role: issuer.
func (c *Client) SetUses(ctx context.Context, serial string, r wire.UsesRequest) (wire.UsesAnswer, error) {
	return call[wire.UsesAnswer](ctx, c, http.MethodPut, c.at("tokens", serial, "uses"), r)
}

// SetPIN sets the PIN that the customer types into the device for each password. Role: issuer.
func (c *Client) SetPIN(ctx context.Context, serial string, r wire.PINRequest) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPut, c.at("tokens", serial, "pin"), r)
}

// SetMobile changes the number that a token's codes are sent to; those on their way die. Role: issuer.
func (c *Client) SetMobile(ctx context.Context, serial string, r wire.MobileRequest) (wire.IssueAnswer, error) {
	return call[wire.IssueAnswer](ctx, c, http.MethodPut, c.at("tokens", serial, "mobile"), r)
}

// Suspend makes an active token refuse every password until it is resumed. Role: issuer.
func (c *Client) Suspend(ctx context.Context, serial string) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "suspend"), nil)
}

// Resume makes a suspended token active again. Role: issuer.
func (c *Client) Resume(ctx context.Context, serial string) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "resume"), nil)
}

// Unlock forgives the wrong passwords of all uses that a token is connected to. Role: issuer.
func (c *Client) Unlock(ctx context.Context, serial string) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "unlock"), nil)
}

// Deactivate ends a token for good. Role: issuer.
func (c *Client) Deactivate(ctx context.Context, serial string) (wire.StatusAnswer, error) {
	return call[wire.StatusAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "deactivate"), nil)
}

// SubjectTokens shows a subject's live tokens. Role: issuer.
func (c *Client) SubjectTokens(ctx context.Context, r wire.SubjectRequest) (wire.SubjectTokensAnswer, error) {
	return call[wire.SubjectTokensAnswer](ctx, c, http.MethodPost, c.at("subjects", "tokens"), r)
}

// DeactivateSubject ends all live tokens of a subject for good. Role: issuer.
func (c *Client) DeactivateSubject(ctx context.Context, r wire.SubjectRequest) (wire.SubjectDeactivationAnswer, error) {
	return call[wire.SubjectDeactivationAnswer](ctx, c, http.MethodPost, c.at("subjects", "deactivations"), r)
}

// ImportKey reads the public key to which makers of hardware tokens wrap seeds. Role: activator.
func (c *Client) ImportKey(ctx context.Context) (wire.ImportKeyAnswer, error) {
	return call[wire.ImportKeyAnswer](ctx, c, http.MethodGet, c.at("import-key"), nil)
}

// Challenge asks for an SMS password; the courier collects it with the id in the answer. Role: verifier.
func (c *Client) Challenge(ctx context.Context, r wire.ChallengeRequest) (wire.ChallengeAnswer, error) {
	return call[wire.ChallengeAnswer](ctx, c, http.MethodPost, c.at("challenges"), r)
}

// Resync finds a token again by two consecutive passwords, and unlocks its uses. A refusal is an answer, not an error.
// Role: activator.
func (c *Client) Resync(ctx context.Context, serial string, r wire.ResyncRequest) (wire.ResyncAnswer, error) {
	return call[wire.ResyncAnswer](ctx, c, http.MethodPost, c.at("tokens", serial, "resync"), r)
}

// Verify asks whether a password is genuine and unused. A refused password is an answer, not an error. Role: verifier.
func (c *Client) Verify(ctx context.Context, r wire.VerificationRequest) (wire.VerificationAnswer, error) {
	return call[wire.VerificationAnswer](ctx, c, http.MethodPost, c.at("verifications"), r)
}

// Time reads the server's clock; it needs no certificate.
func (c *Client) Time(ctx context.Context) (wire.TimeAnswer, error) {
	return call[wire.TimeAnswer](ctx, c, http.MethodGet, c.at("time"), nil)
}
