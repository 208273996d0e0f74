package api

import (
	"math"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/otp"
)

// The answers of the use cases as they travel. Slices are never nil: JSON would say null.

func issueAnswer(t keyservice.IssuedToken) wire.IssueAnswer {
	a := wire.IssueAnswer{Serial: t.Serial, Status: string(t.Status)}
	if t.Activation != nil {
		a.Activation = &wire.Activation{ID: t.Activation.ID, ExpiresAt: t.Activation.ExpiresAt}
	}
	return a
}

func activationAnswer(t keyservice.ActivatedToken) wire.ActivationAnswer {
	return wire.ActivationAnswer{
		Serial: t.Serial, Status: string(t.Status), ServerTime: t.ServerTime,
		Seed: &wire.WrappedSeed{Alg: "RSA-OAEP", Wrapped: t.Seed},
		OTP:  otpAnswer(t.Policy),
	}
}

func otpAnswer(p otp.Policy) wire.OTP {
	return wire.OTP{Type: string(p.Type), Hash: p.Hash.String(), Digits: p.Digits, Period: int(p.Period / time.Second)}
}

func tokenAnswer(t keyservice.TokenView) wire.TokenAnswer {
	return wire.TokenAnswer{
		Serial: t.Serial, Class: t.Class, Subject: "****" + t.LastFour, Channel: t.Channel, Profile: t.Profile,
		Uses: append([]string{}, t.Uses...), Status: string(t.Status), DriftSeconds: int(t.Drift / time.Second),
		DeviceID: t.DeviceID, CreatedAt: t.CreatedAt,
	}
}

func verificationAnswer(v keyservice.Verdict) wire.VerificationAnswer {
	a := wire.VerificationAnswer{
		Result: "refused", Reason: string(v.Reason), Serial: v.Serial, Kind: v.Kind,
		RetryAfterSeconds: int(math.Ceil(v.RetryAfter.Seconds())), Audit: wire.Audit{Index: v.AuditIndex},
	}
	if v.Accepted {
		a.Result = "accepted"
	}
	return a
}

func auditAnswer(from uint64, entries []keyservice.LoggedEntry) wire.AuditAnswer {
	a := wire.AuditAnswer{Entries: make([]wire.AuditEntry, len(entries)), Next: from}
	for i, e := range entries {
		a.Entries[i] = wire.AuditEntry{
			Index: e.Index, Time: time.UnixMilli(e.Time).UTC(), Node: e.Node, Actor: e.Actor, Action: e.Action,
			Outcome: string(e.Outcome), Reason: e.Reason, Serial: e.Serial, Use: e.Use, RequestID: e.RequestID,
			Commitment: e.Commitment, Revision: e.Revision, Next: e.Next, Budget: e.Budget, State: e.State,
		}
		a.Next = e.Index + 1
	}
	return a
}

func comparisonAnswer(found []keyservice.Discrepancy) wire.ComparisonAnswer {
	a := wire.ComparisonAnswer{Discrepancies: make([]wire.Discrepancy, len(found))}
	for i, d := range found {
		a.Discrepancies[i] = wire.Discrepancy{Serial: d.Serial, What: d.What, Logged: d.Logged, Stored: d.Stored}
	}
	return a
}
