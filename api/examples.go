package api

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ramzban/api/wire"
)

// example shows one route at work: a whole request that can be copied, and the answer that fits it. Each is a wire type,
// several as forms, or ndjson.
type example struct{ request, answer any }

// forms are examples of one body that can look in several ways, by name.
type forms map[string]any

// ndjson is an example of a body that is one document per line.
type ndjson []any

// MarshalJSON writes the lines as a string: they are not one JSON document.
func (l ndjson) MarshalJSON() ([]byte, error) {
	var text bytes.Buffer
	for _, line := range l {
		if err := jsonFormat.Marshal(&text, line); err != nil {
			return nil, err
		}
	}
	return json.Marshal(text.String())
}

// illustrate puts the examples into the document: a route's own fit together, which those of single fields cannot.
func illustrate(doc *huma.OpenAPI) {
	for _, item := range doc.Paths {
		for _, op := range operations(item) {
			if op.RequestBody != nil {
				show(op.RequestBody.Content, examples[op.OperationID].request)
			}
			for status, r := range op.Responses {
				if status < "400" {
					show(r.Content, examples[op.OperationID].answer)
				}
			}
		}
	}
}

func show(content map[string]*huma.MediaType, what any) {
	for _, media := range content {
		several, are := what.(forms)
		if !are {
			media.Example = what
			continue
		}
		media.Examples = map[string]*huma.Example{}
		for name, value := range several {
			media.Examples[name] = &huma.Example{Summary: name, Value: value}
		}
	}
}

// The numbers end in their check digits, and the key is an RSA key, so that nobody who copies an example is refused for
// its form.
const (
	exampleSerial   = "402519938466"
	exampleOrigin   = "ramzban/5d0f6f3c1b7e49a2/node-1"
	exampleSMS      = "317204485963"
	exampleCard     = "6037991234567893"
	exampleOther    = "6037997551493324"
	exampleMobile   = "09121234567"
	exampleCode     = "83920174"
	examplePassword = "492039"
	exampleKey      = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqadgEZOrKN8poEjfa08KV5f1ZxJke9aqtQK50Xt6QfkXkJCz4jUJ3K9UjhrV74+9" +
		"2pwCc9QcVKOdxHwRwcLwEKbxTBftyUNHIKxe2saSHTpkQS/ePby9y+PYruQLy44Xsgz0my+OHLygewsiq2nTtYMtLouUJmHuPaVAolLsgdTwkofIABVqHrDP" +
		"cwp3jyqB4+23PIsWzPMax8EzyMOTrCE/2a2i715kyp+UENWbHac2RBRyKF+GSYKbuXBNxt+iM0e5r/nTE3AB8co0cNCf4iPTyu7WnCNcXLS8AQshnXgQgFst" +
		"oldxDg1c1sUiKcQjuJl2VPwoNgxsw7RjxGJO8wIDAQAB"
)

var (
	exampleTime    = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	exampleDER, _  = base64.StdEncoding.DecodeString(exampleKey) // a test reads the key
	exampleDevice  = &wire.Device{ID: "a1b2", Channel: "app", PublicKey: exampleDER}
	examplePayment = &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: exampleOther}
	exampleIssue   = wire.IssueRequest{
		Class: "card", Subject: exampleCard, Channel: "app", Mobile: exampleMobile, Profile: "offline-60", Uses: []string{"second-pin"},
	}
	exampleOptIn = wire.IssueRequest{
		Class: "card", Subject: exampleOther, Channel: "sms", Mobile: exampleMobile, Profile: "sms-120", Uses: []string{"second-pin"},
	}
	exampleActivation = &wire.Activation{ID: "5d0f6f3c1b7e49a2b8a1c2d3e4f50617", ExpiresAt: exampleTime.Add(24 * time.Hour)}
	exampleIssued     = wire.IssueAnswer{Serial: exampleSerial, Status: "issued", Activation: exampleActivation}
	exampleOTP        = wire.OTP{Type: "totp", Hash: "SHA1", Digits: 6, Period: 60}
	exampleActivated  = wire.ActivationAnswer{
		Serial: exampleSerial, Status: "pending", Seed: &wire.WrappedSeed{Alg: "RSA-OAEP", Wrapped: exampleBytes(256)}, OTP: exampleOTP,
		ServerTime: exampleTime,
	}
	exampleSubject = wire.SubjectRequest{Class: "card", Subject: exampleCard}
	exampleToken   = wire.TokenAnswer{
		Serial: exampleSerial, Class: "card", Subject: "****7893", Mobile: "0912***4567", Channel: "app", Profile: "offline-60",
		Uses: []string{"second-pin"}, Status: "active", DriftSeconds: 2, DeviceID: "a1b2", CreatedAt: exampleTime,
		Guesses: []wire.UseGuesses{{Use: "second-pin", Misses: 1}},
	}
	exampleReceipt = &wire.Receipt{
		Note: "ramzban-receipt/1\nlog ramzban/example-bank/node-1\nindex 1842\nleaf 3wYPCDDPOLWMhNSZiOPPUVlT3hxbwxS3fUNOG/1EUFQ=\n" +
			"time 2026-11-22T10:00:00.000Z\nserial 402519938466\nsubject /hF+qUMoNAbeqI0+XEkRZ8BwTwyrC9sIBmR1a2/rQcU=\nuse second-pin\n" +
			"transaction 1Xya4UPZb3lpo8S1a0nkTvcOoCeV2ejYH3O3Bh6O+RY= bound\noutcome accepted\nreason -\n\n" +
			"— ramzban/example-bank/node-1 cR8v2jBFAiEA1v0Yxk7b0T1N3m8O0m6U0m0yF0Qm2t8G3c4B5a6978gCIFq3m1o2n4p5r6s7t8u9v0w1x2y3z4A5B6C7D8E9F0G1\n",
		TransactionSalt: exampleBytes(16),
	}
	exampleEntry = wire.AuditEntry{
		Index: 1842, Time: exampleTime, Node: "node-1", Actor: "core", Action: "otp.verify", Outcome: "accepted", Serial: exampleSerial,
		Use: "second-pin", RequestID: exampleID, Commitment: exampleBytes(32), Revision: 3, Next: 29887921, State: 7,
	}
)

// exampleBytes are bytes as an HMAC or a ciphertext has them, the same ones each time.
func exampleBytes(length int) []byte {
	b := make([]byte, length)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}

func exampleStatus(status string) wire.StatusAnswer {
	return wire.StatusAnswer{Serial: exampleSerial, Status: status}
}

// examples are those of every route, by operation id.
var examples = map[string]example{
	"time":  {answer: wire.TimeAnswer{Time: exampleTime}},
	"issue": {exampleIssue, exampleIssued},
	"issue-bulk": {
		ndjson{
			wire.BulkLine{Key: "batch-7-000001", Token: exampleIssue}, wire.BulkLine{Key: "batch-7-000002", Token: exampleOptIn},
			wire.BulkEnd{End: true, Lines: 2},
		},
		ndjson{
			wire.BulkAnswer{Line: 1, Key: "batch-7-000001", Serial: exampleSerial, Status: "issued", Activation: exampleActivation},
			wire.BulkAnswer{Line: 2, Key: "batch-7-000002", Serial: exampleSMS, Status: "active"},
			wire.BulkResult{Summary: wire.BulkSummary{Lines: 2, Issued: 2, Complete: true}},
		},
	},
	"renew-activation-code": {answer: exampleIssued},
	"activate": {
		forms{
			"phone":    wire.ActivationRequest{Subject: exampleCard, ActivationCode: exampleCode, Device: exampleDevice},
			"hardware": wire.ActivationRequest{Subject: exampleCard, ActivationCode: exampleCode, MakerSeed: exampleBytes(384)},
		},
		forms{
			"phone":    exampleActivated,
			"hardware": wire.ActivationAnswer{Serial: exampleSerial, Status: "pending", OTP: wire.OTP{Type: "hotp", Hash: "SHA1", Digits: 6}, ServerTime: exampleTime},
		},
	},
	"activate-subject": {
		wire.SubjectActivationRequest{Class: "card", Subject: exampleCard, ActivationCode: exampleCode, Device: exampleDevice}, exampleActivated,
	},
	"confirm": {
		forms{"phone": wire.ConfirmationRequest{Proof: exampleBytes(20)}, "hardware": wire.ConfirmationRequest{OTP: examplePassword}},
		exampleStatus("active"),
	},
	"remove":     {wire.RemovalRequest{Proof: exampleBytes(20)}, exampleStatus("deactivated")},
	"import-key": {answer: wire.ImportKeyAnswer{PublicKey: exampleDER}},
	"token":      {answer: exampleToken},
	"set-uses":   {wire.UsesRequest{Uses: []string{"second-pin", "login"}}, wire.UsesAnswer{Serial: exampleSerial, Uses: []string{"second-pin", "login"}}},
	"set-pin":    {wire.PINRequest{PIN: "27182818"}, exampleStatus("active")},
	"set-mobile": {wire.MobileRequest{Mobile: exampleMobile}, exampleIssued},
	"suspend":    {answer: exampleStatus("suspended")},
	"resume":     {answer: exampleStatus("active")},
	"unlock":     {answer: exampleStatus("active")},
	"deactivate": {answer: exampleStatus("deactivated")},
	"subject-tokens": {
		exampleSubject, wire.SubjectTokensAnswer{Tokens: []wire.TokenAnswer{exampleToken}},
	},
	"deactivate-subject": {exampleSubject, wire.SubjectDeactivationAnswer{Serials: []string{exampleSerial, exampleSMS}}},
	"verify": {
		forms{
			"serial": wire.VerificationRequest{Serial: exampleSerial, Use: "second-pin", OTP: examplePassword},
			"card":   wire.VerificationRequest{Class: "card", Subject: exampleCard, Use: "second-pin", OTP: examplePassword, Transaction: examplePayment},
			"with a receipt": wire.VerificationRequest{
				Serial: exampleSerial, Use: "second-pin", OTP: examplePassword, Transaction: examplePayment, Receipt: true,
			},
		},
		forms{
			"accepted": wire.VerificationAnswer{Result: "accepted", Serial: exampleSerial, Kind: "offline", Audit: wire.Audit{Node: "node-1", Index: 1842}},
			"with a receipt": wire.VerificationAnswer{
				Result: "accepted", Serial: exampleSerial, Kind: "offline", Bound: true, Audit: wire.Audit{Node: "node-1", Index: 1842}, Receipt: exampleReceipt,
			},
			"refused": wire.VerificationAnswer{Result: "refused", Reason: "already_used", Serial: exampleSerial, Audit: wire.Audit{Node: "node-1", Index: 1843}},
		},
	},
	"challenge": {
		wire.ChallengeRequest{Class: "card", Subject: exampleCard, Use: "second-pin", Transaction: examplePayment},
		wire.ChallengeAnswer{ID: exampleActivation.ID, ExpiresAt: exampleTime.Add(2 * time.Minute)},
	},
	"collect-code": {answer: forms{
		"activation": wire.CodeAnswer{
			Kind: "activation", Serial: exampleSerial, Mobile: exampleMobile, Code: exampleCode, ExpiresAt: exampleActivation.ExpiresAt,
		},
		"sms": wire.CodeAnswer{
			Kind: "sms", Serial: exampleSMS, Mobile: exampleMobile, Code: examplePassword, ExpiresAt: exampleTime.Add(2 * time.Minute),
			Transaction: examplePayment,
		},
	}},
	"resync": {
		wire.ResyncRequest{OTP1: examplePassword, OTP2: "170284"},
		wire.ResyncAnswer{Serial: exampleSerial, Result: "accepted", DriftSeconds: 120, Audit: wire.Audit{Node: "node-1", Index: 1844}},
	},
	"propose":         {exampleProposed, exampleProposal("waiting")},
	"proposals":       {answer: wire.ProposalsAnswer{Caller: "officer-1", Installation: exampleInstallation, Officers: []string{"officer-1", "officer-2"}, Proposals: []wire.Proposal{exampleProposal("waiting")}, Damaged: []string{}}},
	"proposal":        {answer: forms{"waiting": exampleProposal("waiting"), "done": exampleProposal("done")}},
	"approve":         {exampleApproved, exampleProposal("approved")},
	"withdraw":        {answer: exampleProposal("withdrawn")},
	"keys":            {answer: exampleKeys},
	"rotations":       {answer: wire.RotationsAnswer{Rotations: []wire.Rotation{exampleRotation("running")}, Damaged: []string{}}},
	"rotation":        {answer: forms{"running": exampleRotation("running"), "done": exampleRotation("done")}},
	"pause-rotation":  {answer: exampleRotation("paused")},
	"resume-rotation": {answer: exampleRotation("running")},
	"feed":            {wire.FeedRequest{Subjects: []wire.FedSubject{{Class: "card", Subject: "6037991234567893"}}}, wire.FeedAnswer{Fed: 1, Malformed: []int{}}},
	"import-clear-seeds": {
		ndjson{wire.ClearSeed{Device: "GX-000123", Hash: "SHA1", Seed: "3132333435363738393031323334353637383930"}},
		wire.SeedImportAnswer{Seeds: []wire.ImportedSeed{
			{Device: "GX-000123", Hash: "SHA1", MakerSeed: exampleBytes(384), DeviceKeySHA256: hex.EncodeToString(exampleBytes(32))},
		}},
	},
	"audit-logs":    {answer: wire.AuditLogsAnswer{Logs: []wire.AuditLog{{Node: "node-1", Entries: 1843}, {Node: "node-2", Entries: 971}}}},
	"audit-entries": {answer: wire.AuditAnswer{Entries: []wire.AuditEntry{exampleEntry}, Next: 1843, End: 1843}},
	"audit-stream":  {answer: ndjson{exampleEntry, wire.AuditStreamEnd{Summary: wire.AuditSummary{Entries: 1, Next: 1843, Complete: true}}}},
	"audit-checkpoint": {answer: wire.CheckpointAnswer{
		Node: "node-1", Origin: exampleOrigin, Size: 1842, Root: exampleBytes(32), Time: exampleTime,
		Note: exampleOrigin + "\n1842\n" + base64.StdEncoding.EncodeToString(exampleBytes(32)) + "\ntime 2026-11-22T10:00:00.000Z\n\n— " + exampleOrigin + " " +
			base64.StdEncoding.EncodeToString(exampleBytes(75)) + "\n",
	}},
	"prove-inclusion": {answer: wire.InclusionAnswer{
		Node: "node-1", Index: 1842, LeafHash: exampleBytes(32), Size: 1843, Root: exampleBytes(32), Proof: [][]byte{exampleBytes(32)},
	}},
	"prove-consistency": {answer: wire.ConsistencyAnswer{
		Node: "node-1", From: wire.AuditTree{Size: 1842, Root: exampleBytes(32)}, To: wire.AuditTree{Size: 1843, Root: exampleBytes(32)},
		Proof: [][]byte{exampleBytes(32)},
	}},
	"audit-keys": {answer: wire.AuditKeysAnswer{Keys: []wire.AuditKey{{Version: 1, ID: "4c1b8f02", PublicKey: exampleBytes(91)}}}},
	"compare-audit": {answer: forms{
		"agreed":                   wire.ComparisonAnswer{Discrepancies: []wire.Discrepancy{}},
		"put back":                 wire.ComparisonAnswer{Discrepancies: []wire.Discrepancy{{Serial: exampleSerial, What: "next moving factor", Logged: 29887921, Stored: 29887919}}},
		"two nodes wrote the same": wire.ComparisonAnswer{Discrepancies: []wire.Discrepancy{{Serial: exampleSerial, What: "logged twice", Node: "node-2", Logged: 970}}},
	}},
}
