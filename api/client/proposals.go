package client

import (
	"context"
	"net/http"

	"ramzban/api/wire"
)

// Propose hands in a signed proposal. Role: officer.
func (c *Client) Propose(ctx context.Context, s wire.Signed) (wire.Proposal, error) {
	return call[wire.Proposal](ctx, c, http.MethodPost, c.at("proposals"), s)
}

// Proposals lists the newest proposals, and who the officers are. Role: officer.
func (c *Client) Proposals(ctx context.Context) (wire.ProposalsAnswer, error) {
	return call[wire.ProposalsAnswer](ctx, c, http.MethodGet, c.at("proposals"), nil)
}

// Proposal shows one proposal. Role: officer.
func (c *Client) Proposal(ctx context.Context, id string) (wire.Proposal, error) {
	return call[wire.Proposal](ctx, c, http.MethodGet, c.at("proposals", id), nil)
}

// Approve hands in the signed approval of another officer's proposal, which is then carried out. Role: officer.
func (c *Client) Approve(ctx context.Context, id string, s wire.Signed) (wire.Proposal, error) {
	return call[wire.Proposal](ctx, c, http.MethodPost, c.at("proposals", id, "approval"), s)
}

// Withdraw ends a proposal that waits. Role: officer, and its proposer.
func (c *Client) Withdraw(ctx context.Context, id string) (wire.Proposal, error) {
	return call[wire.Proposal](ctx, c, http.MethodPost, c.at("proposals", id, "withdrawal"), nil)
}
