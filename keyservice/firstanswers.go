package keyservice

import (
	"context"
	"time"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/store"
)

// What the use cases say to decideOnce: every field of a request, and the part of an answer that a row keeps. Answers
// hold no codes and no seeds: those are made again, by the courier's call and from the token's record.

func (r IssueRequest) once() once {
	return once{key: r.IdempotencyKey, says: []any{
		r.Class, r.Subject.Reveal(), r.Channel, r.Mobile.Reveal(), r.Profile, r.Uses, r.DeviceKeySHA256,
	}}
}

func (r ActivateRequest) once() once {
	return once{key: r.IdempotencyKey, says: []any{
		r.Serial, r.Class, r.Subject.Reveal(), r.Code.Reveal(), r.DeviceID, r.Channel, r.KeyDER, r.MakerSeed,
	}}
}

// activatedBefore reads again what activation answered: the row keeps no seed, but the record keeps what was delivered
// until the token is confirmed. After that it is refused.
func (s *Service) activatedBefore(ctx context.Context, serial string) (token, decision, error) {
	t, err := s.load(ctx, serial)
	if err != nil {
		return token{}, decision{}, err
	}
	if t.Status != Pending {
		return token{}, refuse(CodeTransition, notWhile(t.Status, "it was activated by this request before, and its seed is delivered only until it is confirmed").Detail), nil
	}
	return t, decision{change: store.Change{Require: t.require}}, nil
}

func (r VerifyRequest) once() once {
	return once{key: r.IdempotencyKey, says: []any{
		r.Serial, r.Class, r.Subject.Reveal(), r.Use, r.OTP.Reveal(), transactionSays(r.Transaction),
	}}
}

func (r ChallengeRequest) once() once {
	return once{key: r.IdempotencyKey, says: []any{r.Class, r.Subject.Reveal(), r.Use, transactionSays(r.Transaction)}}
}

// transactionSays is the fields of a transaction; none if there is none.
func transactionSays(t *otp.Transaction) []string {
	if t == nil {
		return nil
	}
	return []string{t.Amount, t.Currency, t.Payee.Reveal()}
}

// issuedRow is an IssuedToken as its idempotency row keeps it.
type issuedRow struct {
	Serial     string         `cbor:"1,keyasint"`
	Status     Status         `cbor:"2,keyasint"`
	Activation *activationRow `cbor:"3,keyasint,omitempty"`
}

// activationRow is an Activation, or a Challenge, as an idempotency row keeps it.
type activationRow struct {
	ID        string `cbor:"1,keyasint"`
	ExpiresAt int64  `cbor:"2,keyasint"` // Unix milliseconds
}

func (t token) issuedRow() issuedRow {
	row := issuedRow{Serial: t.Serial, Status: t.Status}
	if t.Code != nil {
		row.Activation = &activationRow{t.Code.ID, t.Code.ExpiresAt}
	}
	return row
}

func (r issuedRow) answer(repeated bool) IssuedToken {
	issued := IssuedToken{Serial: r.Serial, Status: r.Status, Repeated: repeated}
	if r.Activation != nil {
		issued.Activation = &Activation{ID: r.Activation.ID, ExpiresAt: time.UnixMilli(r.Activation.ExpiresAt).UTC()}
	}
	return issued
}
