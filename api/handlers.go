package api

import (
	"context"
	"encoding/hex"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// The inputs of the routes. Path parameters are not validated here: the use cases say what is wrong with a serial. A
// route whose input has an IdempotencyKey may be repeated under one.
type (
	issueInput struct {
		IdempotencyKey string `header:"Idempotency-Key"`
		Body           wire.IssueRequest
	}
	activateInput struct {
		IdempotencyKey string `header:"Idempotency-Key"`
		Serial         string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body           wire.ActivationRequest
	}
	confirmInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.ConfirmationRequest
	}
	removalInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.RemovalRequest
	}
	usesInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.UsesRequest
	}
	pinInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.PINRequest
	}
	mobileInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
		Body   wire.MobileRequest
	}
	tokenInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938466"`
	}
	subjectInput           struct{ Body wire.SubjectRequest }
	subjectActivationInput struct {
		IdempotencyKey string `header:"Idempotency-Key"`
		Body           wire.SubjectActivationRequest
	}
	noInput struct{}
)

func (s *Server) issue(ctx context.Context, c authz.Caller, in *issueInput) (wire.IssueAnswer, error) {
	pin, err := hex.DecodeString(in.Body.DeviceKeySHA256)
	if err != nil {
		return wire.IssueAnswer{}, invalid("device_key_sha256 must be 64 hex digits")
	}
	t, err := s.Service.Issue(ctx, c, keyservice.IssueRequest{
		IdempotencyKey: in.IdempotencyKey, Class: in.Body.Class, Subject: seed.NewSubject(in.Body.Subject), Channel: in.Body.Channel,
		Mobile: seed.NewMobile(in.Body.Mobile), Profile: in.Body.Profile, Uses: in.Body.Uses, DeviceKeySHA256: pin,
	})
	exchangeOf(ctx).replayed = t.Repeated
	return issueAnswer(t), err
}

func (s *Server) renewCode(ctx context.Context, c authz.Caller, in *tokenInput) (wire.IssueAnswer, error) {
	t, err := s.Service.RenewCode(ctx, c, in.Serial)
	return issueAnswer(t), err
}

func (s *Server) activate(ctx context.Context, c authz.Caller, in *activateInput) (wire.ActivationAnswer, error) {
	return s.activateOn(ctx, c, in.Body.Device, keyservice.ActivateRequest{
		IdempotencyKey: in.IdempotencyKey, Serial: in.Serial, Subject: seed.NewSubject(in.Body.Subject),
		Code: seed.NewCode(in.Body.ActivationCode), MakerSeed: in.Body.MakerSeed,
	})
}

func (s *Server) activateSubject(ctx context.Context, c authz.Caller, in *subjectActivationInput) (wire.ActivationAnswer, error) {
	return s.activateOn(ctx, c, in.Body.Device, keyservice.ActivateRequest{
		IdempotencyKey: in.IdempotencyKey, Class: in.Body.Class, Subject: seed.NewSubject(in.Body.Subject),
		Code: seed.NewCode(in.Body.ActivationCode), MakerSeed: in.Body.MakerSeed,
	})
}

func (s *Server) activateOn(ctx context.Context, c authz.Caller, d *wire.Device, r keyservice.ActivateRequest) (wire.ActivationAnswer, error) {
	if d != nil {
		r.DeviceID, r.Channel, r.KeyDER = d.ID, d.Channel, d.PublicKey
	}
	t, err := s.Service.Activate(ctx, c, r)
	exchangeOf(ctx).replayed = t.Repeated
	return activationAnswer(t), err
}

func (s *Server) confirm(ctx context.Context, c authz.Caller, in *confirmInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Confirm(ctx, c, keyservice.ConfirmRequest{
		Serial: in.Serial, Proof: in.Body.Proof, OTP: seed.NewPassword(in.Body.OTP),
	})
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) remove(ctx context.Context, c authz.Caller, in *removalInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Remove(ctx, c, keyservice.RemoveRequest{Serial: in.Serial, Proof: in.Body.Proof})
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) importKey(ctx context.Context, c authz.Caller, _ *noInput) (wire.ImportKeyAnswer, error) {
	key, err := s.Service.ImportKey(ctx, c)
	return wire.ImportKeyAnswer{PublicKey: key}, err
}

func (s *Server) token(ctx context.Context, c authz.Caller, in *tokenInput) (wire.TokenAnswer, error) {
	t, err := s.Service.Token(ctx, c, in.Serial)
	return tokenAnswer(t), err
}

func (s *Server) setUses(ctx context.Context, c authz.Caller, in *usesInput) (wire.UsesAnswer, error) {
	uses, err := s.Service.SetUses(ctx, c, in.Serial, in.Body.Uses)
	return wire.UsesAnswer{Serial: in.Serial, Uses: append([]string{}, uses...)}, err
}

func (s *Server) setPIN(ctx context.Context, c authz.Caller, in *pinInput) (wire.StatusAnswer, error) {
	status, err := s.Service.SetPIN(ctx, c, in.Serial, seed.NewPIN(in.Body.PIN))
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) setMobile(ctx context.Context, c authz.Caller, in *mobileInput) (wire.IssueAnswer, error) {
	t, err := s.Service.SetMobile(ctx, c, in.Serial, seed.NewMobile(in.Body.Mobile))
	return issueAnswer(t), err
}

func (s *Server) suspend(ctx context.Context, c authz.Caller, in *tokenInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Suspend(ctx, c, in.Serial)
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) resume(ctx context.Context, c authz.Caller, in *tokenInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Resume(ctx, c, in.Serial)
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) deactivate(ctx context.Context, c authz.Caller, in *tokenInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Deactivate(ctx, c, in.Serial)
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) unlock(ctx context.Context, c authz.Caller, in *tokenInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Unlock(ctx, c, in.Serial)
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) subjectTokens(ctx context.Context, c authz.Caller, in *subjectInput) (wire.SubjectTokensAnswer, error) {
	views, err := s.Service.SubjectTokens(ctx, c, in.Body.Class, seed.NewSubject(in.Body.Subject))
	a := wire.SubjectTokensAnswer{Tokens: make([]wire.TokenAnswer, len(views))}
	for i, v := range views {
		a.Tokens[i] = tokenAnswer(v)
	}
	return a, err
}

func (s *Server) deactivateSubject(ctx context.Context, c authz.Caller, in *subjectInput) (wire.SubjectDeactivationAnswer, error) {
	serials, err := s.Service.DeactivateSubject(ctx, c, in.Body.Class, seed.NewSubject(in.Body.Subject))
	return wire.SubjectDeactivationAnswer{Serials: append([]string{}, serials...)}, err
}

// time answers anyone: a phone whose clock is wrong has no other way to know.
func (s *Server) time(context.Context, *noInput) (*answer[wire.TimeAnswer], error) {
	return &answer[wire.TimeAnswer]{wire.TimeAnswer{Time: s.Clock().UTC()}}, nil
}
