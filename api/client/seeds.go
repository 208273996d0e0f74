package client

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"ramzban/api/wire"
)

// ImportClear sends a file of seeds in clear, under the proposal that opened the import, and returns them wrapped. It may
// take minutes, and may be called again with the same file. Role: officer.
func (c *Client) ImportClear(ctx context.Context, id string, file []byte) (wire.SeedImportAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, comparisonTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.at("seed-imports", id).String(), bytes.NewReader(file))
	if err != nil {
		return wire.SeedImportAnswer{}, fmt.Errorf("client: making the request: %w", err)
	}
	req.Header.Set("Content-Type", linesType)
	req.Header.Set("Accept", "application/json, application/problem+json")
	return answer[wire.SeedImportAnswer](c, req)
}
