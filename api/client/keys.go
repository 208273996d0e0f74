package client

import (
	"context"
	"net/http"

	"ramzban/api/wire"
)

// Keys lists the master keys and what depends on them. It reads the whole database: as CompareAudit, it may take minutes,
// and ends when ctx does, or after six minutes if ctx has no deadline. Role: officer.
func (c *Client) Keys(ctx context.Context) (wire.KeysAnswer, error) {
	if _, given := ctx.Deadline(); !given {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, comparisonTimeout)
		defer cancel()
	}
	return exchange[wire.KeysAnswer](ctx, c, http.MethodGet, c.at("keys"), nil)
}

// Rotations lists rotations of master keys, the newest first. Role: officer.
func (c *Client) Rotations(ctx context.Context) (wire.RotationsAnswer, error) {
	return call[wire.RotationsAnswer](ctx, c, http.MethodGet, c.at("rotations"), nil)
}

// Rotation shows how far one has come. Role: officer.
func (c *Client) Rotation(ctx context.Context, id string) (wire.Rotation, error) {
	return call[wire.Rotation](ctx, c, http.MethodGet, c.at("rotations", id), nil)
}

// PauseRotation lets a rotation rest until it is resumed, 24 hours at most. Role: officer.
func (c *Client) PauseRotation(ctx context.Context, id string) (wire.Rotation, error) {
	return call[wire.Rotation](ctx, c, http.MethodPost, c.at("rotations", id, "pause"), nil)
}

// ResumeRotation lets it go on, or try again at once what it could not do. Role: officer.
func (c *Client) ResumeRotation(ctx context.Context, id string) (wire.Rotation, error) {
	return call[wire.Rotation](ctx, c, http.MethodPost, c.at("rotations", id, "resume"), nil)
}

// Feed hands over at most 500 customers, under the proposal that opened the feed. Role: officer.
func (c *Client) Feed(ctx context.Context, id string, r wire.FeedRequest) (wire.FeedAnswer, error) {
	return call[wire.FeedAnswer](ctx, c, http.MethodPost, c.at("feeds", id), r)
}
