package api

import (
	"math"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
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

func codeAnswer(c keyservice.CollectedCode) wire.CodeAnswer {
	a := wire.CodeAnswer{Kind: c.Kind, Serial: c.Serial, Mobile: c.Mobile.Reveal(), Code: c.Code.Reveal(), ExpiresAt: c.ExpiresAt}
	if t := c.Transaction; t != nil {
		a.Transaction = &wire.Transaction{Amount: t.Amount, Currency: t.Currency, Payee: t.Payee.Reveal()}
	}
	return a
}

func activationAnswer(t keyservice.ActivatedToken) wire.ActivationAnswer {
	a := wire.ActivationAnswer{Serial: t.Serial, Status: string(t.Status), ServerTime: t.ServerTime, OTP: otpAnswer(t.Policy)}
	if t.Seed != nil {
		a.Seed = &wire.WrappedSeed{Alg: "RSA-OAEP", Wrapped: t.Seed}
	}
	return a
}

func otpAnswer(p otp.Policy) wire.OTP {
	return wire.OTP{
		Type: string(p.Type), Hash: p.Hash.String(), Digits: p.Digits, Period: int(p.Period / time.Second),
		Suite: p.Suite, PINDigits: p.PINDigits, Signs: p.Signs,
	}
}

func tokenAnswer(t keyservice.TokenView) wire.TokenAnswer {
	a := wire.TokenAnswer{
		Serial: t.Serial, Class: t.Class, Subject: "****" + t.LastFour, Mobile: t.Mobile, Channel: t.Channel,
		Profile: t.Profile, Uses: append([]string{}, t.Uses...), Status: string(t.Status), DriftSeconds: int(t.Drift / time.Second),
		DeviceID: t.DeviceID, CreatedAt: t.CreatedAt, PINSet: t.PINSet, Guesses: make([]wire.UseGuesses, len(t.Guesses)),
	}
	for i, g := range t.Guesses {
		a.Guesses[i] = wire.UseGuesses{Use: g.Use, Misses: g.Misses, Held: string(g.Held), RetryAfterSeconds: seconds(g.RetryAfter)}
	}
	return a
}

func verificationAnswer(v keyservice.Verdict) wire.VerificationAnswer {
	return wire.VerificationAnswer{
		Result: result(v.Accepted), Reason: string(v.Reason), Serial: v.Serial, Kind: v.Kind, Bound: v.Bound,
		RetryAfterSeconds: seconds(v.RetryAfter), Audit: auditPosition(v.Audit), Receipt: receiptAnswer(v.Receipt),
	}
}

func receiptAnswer(r *keyservice.Receipt) *wire.Receipt {
	if r == nil {
		return nil
	}
	return &wire.Receipt{Note: string(r.Note), TransactionSalt: r.Salt, Missing: string(r.Missing)}
}

func resyncAnswer(serial string, v keyservice.ResyncVerdict) wire.ResyncAnswer {
	return wire.ResyncAnswer{
		Serial: serial, Result: result(v.Accepted), Reason: string(v.Reason), DriftSeconds: int(v.Drift / time.Second),
		RetryAfterSeconds: seconds(v.RetryAfter), Audit: auditPosition(v.Audit),
	}
}

func result(accepted bool) string {
	if accepted {
		return "accepted"
	}
	return "refused"
}

// seconds rounds up: who waits that long has waited enough.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

func auditPosition(p audit.Position) wire.Audit { return wire.Audit{Node: p.Node, Index: p.Index} }
