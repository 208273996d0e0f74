package api

import (
	"context"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
)

// AuditFilter is what entries are asked for by. Its name, and that of NodeInput, is for huma, which looks into what is
// embedded only if it is exported.
type AuditFilter struct {
	Node    string    `query:"node" maxLength:"63" doc:"Whose log; may be left out if there is only one" example:"node-1"`
	From    uint64    `query:"from" default:"0" doc:"Index of the first entry wanted"`
	Serial  string    `query:"serial" doc:"Only of this token: 12 digits" example:"402519938466"`
	Action  string    `query:"action" maxLength:"64" doc:"Only what was asked for so" example:"otp.verify"`
	Actor   string    `query:"actor" maxLength:"128" doc:"Only what this client asked for" example:"core"`
	Outcome string    `query:"outcome" enum:"done,accepted,refused,denied,tampered,resumed,repeated,begun,failed" doc:"Only what ended so"`
	Since   time.Time `query:"since" doc:"Only from this time on, by the deciding node's clock (RFC 3339)" example:"2026-11-22T10:00:00Z"`
	Until   time.Time `query:"until" doc:"Only before this time" example:"2026-11-23T10:00:00Z"`
	Leaves  bool      `query:"leaves" doc:"true: each entry comes with its bytes too, as they are in the Merkle tree"`
}

func (f AuditFilter) query() keyservice.AuditQuery {
	return keyservice.AuditQuery{
		Node: f.Node, From: f.From, Serial: f.Serial, Action: f.Action, Actor: f.Actor, Outcome: audit.Outcome(f.Outcome),
		Since: f.Since, Until: f.Until,
	}
}

// NodeInput says whose log is meant.
type NodeInput struct {
	Node string `query:"node" maxLength:"63" doc:"Whose log; may be left out if only one has checkpoints" example:"node-1"`
}

type (
	auditInput struct {
		AuditFilter
		Limit int `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many entries at most"`
	}
	inclusionInput struct {
		NodeInput
		Index uint64 `query:"index" default:"0" doc:"Of the entry" example:"7"`
		Size  uint64 `query:"size" doc:"Of the tree; without it that of the newest checkpoint" example:"1842"`
	}
	consistencyInput struct {
		NodeInput
		From uint64 `query:"from" default:"1" doc:"Size of the earlier tree, at least 1" example:"900"`
		To   uint64 `query:"to" doc:"Size of the later tree; without it that of the newest checkpoint" example:"1842"`
	}
)

func (s *Server) auditEntries(ctx context.Context, c authz.Caller, in *auditInput) (wire.AuditAnswer, error) {
	q := in.query()
	q.Limit = in.Limit
	page, err := s.Service.AuditEntries(ctx, c, q)
	if err != nil {
		return wire.AuditAnswer{}, err
	}
	return auditAnswer(page, in.Leaves)
}

func (s *Server) auditLogs(ctx context.Context, c authz.Caller, _ *noInput) (wire.AuditLogsAnswer, error) {
	logs, err := s.Service.AuditLogs(ctx, c)
	return auditLogsAnswer(logs), err
}

func (s *Server) compareAudit(ctx context.Context, c authz.Caller, _ *noInput) (wire.ComparisonAnswer, error) {
	found, err := s.Service.CompareAudit(ctx, c)
	return comparisonAnswer(found), err
}

func (s *Server) auditCheckpoint(ctx context.Context, c authz.Caller, in *NodeInput) (wire.CheckpointAnswer, error) {
	newest, err := s.Service.AuditCheckpoint(ctx, c, in.Node)
	return checkpointAnswer(newest), err
}

func (s *Server) inclusion(ctx context.Context, c authz.Caller, in *inclusionInput) (wire.InclusionAnswer, error) {
	p, err := s.Service.Inclusion(ctx, c, in.Node, in.Index, in.Size)
	return inclusionAnswer(p), err
}

func (s *Server) consistency(ctx context.Context, c authz.Caller, in *consistencyInput) (wire.ConsistencyAnswer, error) {
	p, err := s.Service.Consistency(ctx, c, in.Node, in.From, in.To)
	return consistencyAnswer(p), err
}

func (s *Server) auditKeys(ctx context.Context, c authz.Caller, _ *noInput) (wire.AuditKeysAnswer, error) {
	keys, err := s.Service.AuditKeys(ctx, c)
	return auditKeysAnswer(keys), err
}
