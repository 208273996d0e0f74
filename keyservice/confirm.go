package keyservice

import (
	"context"
	"crypto/hmac"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// ConfirmRequest proves that the device has the seed.
type ConfirmRequest struct {
	Serial string
	Proof  []byte        // of phones: see ConfirmMessage
	OTP    seed.Password // of hardware tokens, which can make nothing else: a password, which is used up
}

// ConfirmMessage is what a device MACs with its seed to prove that it has it: "ramzban/confirm/1" 0x00 serial 0x00 and
// the SHA-256 of its SubjectPublicKeyInfo (DER). No password is ever made of a message this long.
func ConfirmMessage(serial string, keySHA256 []byte) []byte {
	return proofMessage("ramzban/confirm/1", serial, keySHA256)
}

// Confirm makes a pending token active once its device proves that it has the seed: a phone without using up a password,
// a hardware token with one. A device that did not hear the answer may confirm again.
func (s *Service) Confirm(ctx context.Context, c authz.Caller, r ConfirmRequest) (Status, error) {
	err := s.change(ctx, c, authz.ConfirmToken, r.Serial, func(t token) (token, *Error, error) {
		if t.Status != Pending && t.Status != Active || t.kind() == KindSMS {
			return t, notWhile(t.Status, "only a pending token can be confirmed"), nil
		}
		if bad := checkConfirm(t, r); bad != nil {
			return t, bad, nil
		}
		if t.Channel == ChannelHardware {
			return s.confirmHardware(ctx, t, r.OTP)
		}
		return s.confirmPhone(ctx, t, r.Proof)
	})
	if err != nil {
		return "", err
	}
	return Active, nil
}

// checkConfirm says what is wrong with the form of the proof; nil if nothing is.
func checkConfirm(t token, r ConfirmRequest) *Error {
	typed := r.OTP.Reveal()
	switch {
	case t.Channel != ChannelHardware && (len(r.Proof) == 0 || typed != ""):
		return &Error{Code: CodeInvalid, Detail: "a phone confirms with proof, not with otp"}
	case t.Channel == ChannelHardware && (len(r.Proof) != 0 || typed == ""):
		return &Error{Code: CodeInvalid, Detail: "a hardware token confirms with otp, not with proof"}
	case typed != "" && (otp.CheckDigits(r.OTP) != nil || len(typed) != t.Policy.Digits):
		return &Error{Code: CodeOTPMalformed, Detail: otp.ErrMalformed.Error()}
	}
	return nil
}

func (s *Service) confirmPhone(ctx context.Context, t token, proof []byte) (token, *Error, error) {
	right, err := s.rightProof(ctx, t, ConfirmMessage(t.Serial, t.Device.KeySHA256), proof)
	if err != nil {
		return t, nil, err
	}
	if !right {
		return t, &Error{Code: CodeProofWrong, Detail: "the device does not have this token's seed: activate it again"}, nil
	}
	return t.confirmed(), nil, nil
}

// rightProof says whether the proof is this message's MAC under the token's seed.
func (s *Service) rightProof(ctx context.Context, t token, message, proof []byte) (bool, error) {
	right := false
	err := s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) error {
		sum, err := mac(message)
		right = hmac.Equal(sum, proof)
		return err
	})
	return right, err
}

func (t token) confirmed() token {
	t.Status, t.Delivery, t.Code = Active, nil, nil
	return t
}

// confirmHardware looks for the password among the first ones that the device makes, which may have been tried out
// before. Wrong ones are counted like wrong activation codes.
func (s *Service) confirmHardware(ctx context.Context, t token, typed seed.Password) (token, *Error, error) {
	if t.Status == Active {
		return s.confirmedAgain(ctx, t, typed)
	}
	if t.state.CodeTries >= codeTries {
		return t, &Error{Code: CodeActivationExhausted, Detail: "too many wrong passwords: deactivate the token and issue a new one"}, nil
	}
	factor, found, err := s.findPassword(ctx, t, t.Policy.ResyncPlan(s.Clock(), t.state.Next), typed)
	if err != nil {
		return t, nil, err
	}
	if !found {
		t.state.CodeTries++
		return t, &Error{Code: CodeProofWrong, Detail: "the password does not come from the seed that was given for this token: is it the right device?"}, nil
	}
	t.state.Next, t.state.CodeTries = factor+1, 0
	return t.confirmed(), nil, nil
}

// confirmedAgain answers a device that did not hear that it was confirmed: its password is the one used up last. Wrong ones
// are counted here too, or whoever has no budget for guesses could look for that password without end.
func (s *Service) confirmedAgain(ctx context.Context, t token, typed seed.Password) (token, *Error, error) {
	confirmed := notWhile(t.Status, "only a pending token can be confirmed")
	if t.state.CodeTries >= codeTries {
		return t, confirmed, nil
	}
	_, found, err := s.findPassword(ctx, t, []uint64{t.state.Next - 1}, typed)
	if err != nil {
		return t, nil, err
	}
	if !found {
		t.state.CodeTries++
		return t, confirmed, nil
	}
	return t, nil, nil
}

// findPassword looks which of these moving factors makes the typed password.
func (s *Service) findPassword(ctx context.Context, t token, plan []uint64, typed seed.Password) (factor uint64, found bool, err error) {
	maker := maker{policy: t.Policy}
	err = s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) (err error) {
		found = false // the HSM may run this again from its start
		for _, factor = range plan {
			if found, err = maker.is(mac, factor, typed); err != nil || found {
				return err
			}
		}
		return nil
	})
	return factor, found, err
}
