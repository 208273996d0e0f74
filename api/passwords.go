package api

import (
	"context"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// The inputs of the routes that deal with passwords and the audit log.
type (
	verifyInput struct {
		IdempotencyKey string `header:"Idempotency-Key"`
		Body           wire.VerificationRequest
	}
	challengeInput struct {
		IdempotencyKey string `header:"Idempotency-Key"`
		Body           wire.ChallengeRequest
	}
	resyncInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.ResyncRequest
	}
	codeInput struct {
		ID string `path:"id" doc:"Id of the activation or challenge, from who asked for it: 32 lower-case hexadecimal digits" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	}
)

func (s *Server) verify(ctx context.Context, c authz.Caller, in *verifyInput) (wire.VerificationAnswer, error) {
	if err := oneToken(in.Body); err != nil {
		return wire.VerificationAnswer{}, err
	}
	v, err := s.Service.Verify(ctx, c, keyservice.VerifyRequest{
		IdempotencyKey: in.IdempotencyKey, Serial: in.Body.Serial, Class: in.Body.Class, Subject: seed.NewSubject(in.Body.Subject),
		Use: in.Body.Use, OTP: seed.NewPassword(in.Body.OTP), Transaction: transaction(in.Body.Transaction),
		Receipt: in.Body.Receipt,
	})
	exchangeOf(ctx).replayed = v.Repeated
	return verificationAnswer(v), err
}

func (s *Server) challenge(ctx context.Context, c authz.Caller, in *challengeInput) (wire.ChallengeAnswer, error) {
	asked, err := s.Service.Challenge(ctx, c, keyservice.ChallengeRequest{
		IdempotencyKey: in.IdempotencyKey, Class: in.Body.Class, Subject: seed.NewSubject(in.Body.Subject), Use: in.Body.Use,
		Transaction: transaction(in.Body.Transaction),
	})
	exchangeOf(ctx).replayed = asked.Repeated
	return wire.ChallengeAnswer{ID: asked.ID, ExpiresAt: asked.ExpiresAt}, err
}

func (s *Server) collectCode(ctx context.Context, c authz.Caller, in *codeInput) (wire.CodeAnswer, error) {
	code, err := s.Service.CollectCode(ctx, c, in.ID)
	return codeAnswer(code), err
}

func (s *Server) resync(ctx context.Context, c authz.Caller, in *resyncInput) (wire.ResyncAnswer, error) {
	v, err := s.Service.Resync(ctx, c, keyservice.ResyncRequest{
		Serial: in.Serial, First: seed.NewPassword(in.Body.OTP1), Second: seed.NewPassword(in.Body.OTP2),
	})
	return resyncAnswer(in.Serial, v), err
}

func transaction(t *wire.Transaction) *otp.Transaction {
	if t == nil {
		return nil
	}
	return &otp.Transaction{Amount: t.Amount, Currency: t.Currency, Payee: seed.NewSubject(t.Payee)}
}

func invalid(detail string) error {
	return &keyservice.Error{Code: keyservice.CodeInvalid, Detail: detail}
}

// oneToken returns nil if a verification names what to try in exactly one of the two ways.
func oneToken(r wire.VerificationRequest) error {
	bySerial := r.Serial != ""
	switch {
	case bySerial && (r.Class != "" || r.Subject != ""):
		return invalid("name the token by serial, or whose it is by class and subject, but not both")
	case bySerial:
		return nil
	case r.Class == "" && r.Subject == "":
		return invalid("name the token by serial, or whose it is by class and subject: there is neither")
	case r.Subject == "":
		return invalid("name the subject besides the class: they go together")
	case r.Class == "":
		return invalid("name the class besides the subject: they go together")
	}
	return nil
}
