package api

import (
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice/authz/approval"
)

const exampleInstallation = "5d0f6f3c1b7e49a2"

// exampleDocument and exampleConsent are what two officers of the examples signed. Nobody can copy a signature: it counts
// for one document, of one installation.
const exampleDocument = `{"ramzban_proposal":1,"installation":"` + exampleInstallation + `","action":"officers.change",` +
	`"parameters":{"instead_of":["officer-1","officer-2"],"officers":["officer-1","officer-2","officer-3"]},"proposer":"officer-1",` +
	`"nonce":"b8a1c2d3e4f506175d0f6f3c1b7e49a2","created_at":"2026-11-22T10:00:00Z","expires_at":"2026-11-25T10:00:00Z"}`

var (
	exampleConsent = `{"ramzban_approval":1,"proposal_sha256":"` + approval.Digest([]byte(exampleDocument)) +
		`","approver":"officer-2","created_at":"2026-11-22T11:00:00Z"}`
	exampleProposed = wire.Signed{Document: exampleDocument, Signature: exampleBytes(70), Certificate: exampleBytes(400)}
	exampleApproved = wire.Signed{Document: exampleConsent, Signature: exampleBytes(71), Certificate: exampleBytes(401)}
)

// exampleProposal is the proposal at one time of its life.
func exampleProposal(status string) wire.Proposal {
	p := wire.Proposal{
		ID: approval.ID([]byte(exampleDocument)), Status: status, Action: "officers.change", Proposer: "officer-1", MadeAt: exampleTime,
		ExpiresAt: exampleTime.Add(approval.DefaultLife), Proposal: exampleProposed,
	}
	switch status {
	case "withdrawn":
		p.EndedAt = new(exampleTime.Add(time.Hour))
	case "done":
		p.EndedAt, p.Result = new(exampleTime.Add(time.Hour+time.Second)), "officer-1, officer-2, officer-3"
		fallthrough
	case "approved":
		p.Approver, p.Approval, p.ApprovedAt = "officer-2", &exampleApproved, new(exampleTime.Add(time.Hour))
	}
	return p
}

// exampleKeys are those of a label in the middle of its rotation.
var exampleKeys = wire.KeysAnswer{Keys: []wire.Key{
	{Label: "wrap", Version: 1, Status: "readable", KCV: "a94f21", Since: new(exampleTime), InHSM: true, Dependents: 37200, Kinds: []wire.KindOfRow{{Kind: "token record", Rows: 37200}}},
	{Label: "wrap", Version: 2, Status: "active", KCV: "3f92c1", Since: new(exampleTime), InHSM: true, Dependents: 12800, Kinds: []wire.KindOfRow{{Kind: "token record", Rows: 12800}}},
}}

// exampleRotation is a rotation at one time of its life.
func exampleRotation(status string) wire.Rotation {
	r := wire.Rotation{
		ID: approval.ID([]byte(exampleDocument)), Label: "wrap", From: 1, To: 2, Status: status, Stage: "tokens", Tokens: 50000, Seen: 12800,
		Renewed: 12800, Failed: []string{}, Kinds: []wire.KindOfRow{}, BegunAt: exampleTime, ProgressAt: exampleTime.Add(time.Minute),
	}
	if status == "done" {
		r.Stage, r.Seen, r.Renewed, r.EndedAt = "count", 50000, 50000, new(exampleTime.Add(5*time.Minute))
		r.ProgressAt = *r.EndedAt
	}
	if status == "paused" {
		r.PausedBy, r.PauseEndsAt = "officer-1", new(exampleTime.Add(24*time.Hour))
	}
	return r
}
