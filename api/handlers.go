package api

import (
	"context"
	"encoding/hex"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

// The inputs of the routes. Path parameters are not validated here: the use cases say what is wrong with a serial.
type (
	issueInput    struct{ Body wire.IssueRequest }
	verifyInput   struct{ Body wire.VerificationRequest }
	activateInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938461"`
		Body   wire.ActivationRequest
	}
	confirmInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938461"`
		Body   wire.ConfirmationRequest
	}
	tokenInput struct {
		Serial string `path:"serial" doc:"The token: 12 digits" example:"402519938461"`
	}
	codeInput struct {
		ID string `path:"id" doc:"Id of the activation, from the issuer: 32 lower-case hexadecimal digits" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	}
	auditInput struct {
		From  uint64 `query:"from" default:"0" doc:"Index of the first entry wanted"`
		Limit int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"How many entries at most"`
	}
	noInput struct{}
)

func (s *Server) issue(ctx context.Context, c authz.Caller, in *issueInput) (wire.IssueAnswer, error) {
	pin, err := hex.DecodeString(in.Body.DeviceKeySHA256)
	if err != nil {
		return wire.IssueAnswer{}, &keyservice.Error{Code: keyservice.CodeInvalid, Detail: "device_key_sha256 must be 64 hex digits"}
	}
	t, err := s.Service.Issue(ctx, c, keyservice.IssueRequest{
		Class: in.Body.Class, Subject: seed.NewSubject(in.Body.Subject), Channel: in.Body.Channel,
		Profile: in.Body.Profile, Uses: in.Body.Uses, DeviceKeySHA256: pin,
	})
	return issueAnswer(t), err
}

func (s *Server) renewCode(ctx context.Context, c authz.Caller, in *tokenInput) (wire.IssueAnswer, error) {
	t, err := s.Service.RenewCode(ctx, c, in.Serial)
	return issueAnswer(t), err
}

func (s *Server) collectCode(ctx context.Context, c authz.Caller, in *codeInput) (wire.CodeAnswer, error) {
	code, err := s.Service.CollectCode(ctx, c, in.ID)
	return wire.CodeAnswer{Kind: code.Kind, Serial: code.Serial, Code: code.Code.Reveal(), ExpiresAt: code.ExpiresAt}, err
}

func (s *Server) activate(ctx context.Context, c authz.Caller, in *activateInput) (wire.ActivationAnswer, error) {
	device := wire.Device{}
	if in.Body.Device != nil {
		device = *in.Body.Device
	}
	t, err := s.Service.Activate(ctx, c, keyservice.ActivateRequest{
		Serial: in.Serial, Subject: seed.NewSubject(in.Body.Subject), Code: seed.NewCode(in.Body.ActivationCode),
		DeviceID: device.ID, Channel: device.Channel, KeyDER: device.PublicKey,
	})
	return activationAnswer(t), err
}

func (s *Server) confirm(ctx context.Context, c authz.Caller, in *confirmInput) (wire.StatusAnswer, error) {
	status, err := s.Service.Confirm(ctx, c, keyservice.ConfirmRequest{Serial: in.Serial, Proof: in.Body.Proof})
	return wire.StatusAnswer{Serial: in.Serial, Status: string(status)}, err
}

func (s *Server) token(ctx context.Context, c authz.Caller, in *tokenInput) (wire.TokenAnswer, error) {
	t, err := s.Service.Token(ctx, c, in.Serial)
	return tokenAnswer(t), err
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

func (s *Server) verify(ctx context.Context, c authz.Caller, in *verifyInput) (wire.VerificationAnswer, error) {
	v, err := s.Service.Verify(ctx, c, keyservice.VerifyRequest{
		Serial: in.Body.Serial, Use: in.Body.Use, OTP: seed.NewPassword(in.Body.OTP),
	})
	return verificationAnswer(v), err
}

func (s *Server) auditEntries(ctx context.Context, c authz.Caller, in *auditInput) (wire.AuditAnswer, error) {
	entries, err := s.Service.AuditEntries(ctx, c, in.From, in.Limit)
	return auditAnswer(in.From, entries), err
}

func (s *Server) compareAudit(ctx context.Context, c authz.Caller, _ *noInput) (wire.ComparisonAnswer, error) {
	found, err := s.Service.CompareAudit(ctx, c)
	return comparisonAnswer(found), err
}

// time answers anyone: a phone whose clock is wrong has no other way to know.
func (s *Server) time(context.Context, *noInput) (*answer[wire.TimeAnswer], error) {
	return &answer[wire.TimeAnswer]{wire.TimeAnswer{Time: s.Clock().UTC()}}, nil
}
