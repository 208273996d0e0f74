package keyservice

import (
	"context"
	"slices"

	"ramzban/keyservice/authz"
)

// RemoveRequest proves that the phone which holds the token gives it up.
type RemoveRequest struct {
	Serial string
	Proof  []byte // see RemoveMessage
}

// RemoveMessage is what a phone MACs with its seed to give its token up: as ConfirmMessage, but it begins with
// "ramzban/remove/1", so that neither proof passes for the other.
func RemoveMessage(serial string, keySHA256 []byte) []byte {
	return proofMessage("ramzban/remove/1", serial, keySHA256)
}

// proofMessage is the tag, 0x00, the serial, 0x00 and the SHA-256 of the device's SubjectPublicKeyInfo (DER).
func proofMessage(tag, serial string, keySHA256 []byte) []byte {
	return slices.Concat([]byte(tag), []byte{0}, []byte(serial), []byte{0}, keySHA256)
}

// Remove ends a token for ever, as Deactivate does, because the phone that holds it gives it up. Whoever asks for the
// phone needs no right to end other tokens. A phone that did not hear the answer and asks again is told CodeTransition:
// with the seed gone, nothing is left to check its proof by.
func (s *Service) Remove(ctx context.Context, c authz.Caller, r RemoveRequest) (Status, error) {
	err := s.change(ctx, c, authz.RemoveToken, r.Serial, func(t token) (token, *Error, error) {
		if bad := removable(t, r.Proof); bad != nil {
			return t, bad, nil
		}
		right, err := s.rightProof(ctx, t, RemoveMessage(t.Serial, t.Device.KeySHA256), r.Proof)
		if err != nil {
			return t, nil, err
		}
		if !right {
			return t, &Error{Code: CodeProofWrong, Detail: "the device does not have this token's seed: let the issuer deactivate the token"}, nil
		}
		t.Status = Deactivated
		t.forget()
		return t, nil, nil
	})
	if err != nil {
		return "", err
	}
	return Deactivated, nil
}

// removable says why no proof can remove the token now; nil if one can.
func removable(t token, proof []byte) *Error {
	switch {
	case t.Channel != ChannelApp && t.Channel != ChannelPWA:
		return &Error{Code: CodeInvalid, Detail: "no phone holds this token, so none can give it up: let the issuer deactivate it"}
	case t.Status == Issued:
		return notWhile(t.Status, "no phone holds it yet: let the issuer deactivate it")
	case t.Status == Deactivated:
		return notWhile(t.Status, "there is nothing left to remove")
	case len(proof) == 0:
		return &Error{Code: CodeInvalid, Detail: "a phone gives its token up with a proof"}
	}
	return nil
}
