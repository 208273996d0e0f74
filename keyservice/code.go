package keyservice

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

const (
	codeLifetime = 24 * time.Hour
	codeTries    = 5 // wrong activation codes before a code is dead
	codePurpose  = "activation-code"
	codeDigits   = 8
	codeModulus  = 100_000_000
	codeIDLength = 32 // hexadecimal digits
)

// Activation is an activation code that waits to be collected: its id and when it dies.
type Activation struct {
	ID        string
	ExpiresAt time.Time
}

// CollectedCode is a code on its way to the customer.
type CollectedCode struct {
	Kind      string // "activation" or "sms"
	Serial    string
	Mobile    seed.Mobile // empty if none was given at issue
	Code      seed.Code
	ExpiresAt time.Time

	Transaction *otp.Transaction // what an SMS password is for, to be shown with it; nil if it is bound to none
}

// newCode draws a new activation code for the token; the code itself is not made, only what it will be made from.
func (s *Service) newCode(ctx context.Context, r record) (*codeRecord, error) {
	random, err := s.HSM.Random(ctx, 32)
	if err != nil {
		return nil, err
	}
	code := &codeRecord{
		ID: hex.EncodeToString(random[:16]), Nonce: random[16:], ExpiresAt: s.Clock().Add(codeLifetime).UnixMilli(), Subject: r.Subject.Sum,
	}
	input, err := codeInput(r, code)
	if err != nil {
		return nil, err
	}
	made, err := s.HSM.Digest(ctx, codePurpose, input)
	code.Key = made.Key
	return code, err
}

// makeCode makes the token's activation code in the HSM: 8 digits of a MAC over serial, nonce and subject.
func (s *Service) makeCode(ctx context.Context, r record) (seed.Code, error) {
	input, err := codeInput(r, r.Code)
	if err != nil {
		return seed.Code{}, err
	}
	sum, err := s.HSM.DigestWith(ctx, r.Code.Key, codePurpose, input)
	if err != nil {
		return seed.Code{}, err
	}
	return seed.NewCode(fmt.Sprintf("%0*d", codeDigits, binary.BigEndian.Uint64(sum)%codeModulus)), nil
}

func codeInput(r record, c *codeRecord) ([]byte, error) {
	return store.Encode([][]byte{[]byte(r.Serial), c.Nonce, c.Subject})
}

func sameCode(a, b seed.Code) bool {
	return subtle.ConstantTimeCompare([]byte(a.Reveal()), []byte(b.Reveal())) == 1
}

// codeDead says why the token's code cannot be used any more; nil while it can.
func (s *Service) codeDead(t token) *Error {
	help := "ask the issuer for a fresh one"
	if t.Status == Pending {
		help = "deactivate the token and issue a new one"
	}
	switch {
	case s.Clock().UnixMilli() >= t.Code.ExpiresAt:
		return &Error{Code: CodeActivationExpired, Detail: "the activation code has expired: " + help}
	case t.state.CodeTries >= codeTries:
		return &Error{Code: CodeActivationExhausted, Detail: "too many wrong activation codes: " + help}
	}
	return nil
}

// CollectCode gives the courier the code with this id, to send to the customer. It may be collected again.
func (s *Service) CollectCode(ctx context.Context, c authz.Caller, id string) (CollectedCode, error) {
	if err := s.authorise(ctx, c, authz.CollectCode, ""); err != nil {
		return CollectedCode{}, err
	}
	var code CollectedCode
	_, err := s.decide(ctx, c, authz.CollectCode, "", func() (d decision, err error) {
		code, d, err = s.collect(ctx, id)
		return d, err
	})
	if err != nil {
		return CollectedCode{}, err
	}
	return code, nil
}

func (s *Service) collect(ctx context.Context, id string) (CollectedCode, decision, error) {
	t, err := s.codeOwner(ctx, id)
	if CodeOf(err) == CodeCodeNotFound {
		return CollectedCode{}, refuse(CodeCodeNotFound, noSuchCode), nil
	}
	if err != nil {
		return CollectedCode{}, decision{}, err
	}
	code, dead, err := s.waiting(ctx, t, id)
	if dead != nil {
		d := refuse(dead.Code, dead.Detail)
		d.entry.Serial = t.Serial
		return CollectedCode{}, d, nil
	}
	if err != nil {
		return CollectedCode{}, decision{}, err
	}
	code.Serial = t.Serial
	code.Mobile, err = s.mobile(ctx, t.record)
	return code, decision{
		change: store.Change{Require: t.require},
		entry:  audit.Entry{Outcome: audit.Done, Serial: t.Serial},
	}, err
}

const noSuchCode = "no code with this id waits to be collected"

// codeOwner loads the token that a code with this id belongs to.
func (s *Service) codeOwner(ctx context.Context, id string) (token, error) {
	if len(id) != codeIDLength || strings.Trim(id, "0123456789abcdef") != "" {
		return token{}, &Error{Code: CodeCodeNotFound, Detail: noSuchCode}
	}
	items, err := s.Store.Get(ctx, codeKey(id))
	if err != nil {
		return token{}, storeError(err)
	}
	if items[0].Version == 0 {
		return token{}, &Error{Code: CodeCodeNotFound, Detail: noSuchCode}
	}
	p, err := unmac[pointer](s, items[0], "code")
	if err != nil {
		return token{}, err
	}
	return s.load(ctx, p.Serial)
}

// waiting makes the token's code with this id, or says why it cannot be collected. The kind of the token decides what
// its codes are.
func (s *Service) waiting(ctx context.Context, t token, id string) (CollectedCode, *Error, error) {
	if t.kind() == KindSMS {
		return s.collectSMS(ctx, t, id)
	}
	return s.activationCode(ctx, t, id)
}

func (s *Service) activationCode(ctx context.Context, t token, id string) (CollectedCode, *Error, error) {
	if t.Code == nil || t.Code.ID != id || t.Status != Issued {
		return CollectedCode{}, &Error{Code: CodeCodeNotFound, Detail: noSuchCode}, nil
	}
	if dead := s.codeDead(t); dead != nil {
		return CollectedCode{}, dead, nil
	}
	code, err := s.makeCode(ctx, t.record)
	return CollectedCode{Kind: "activation", Code: code, ExpiresAt: time.UnixMilli(t.Code.ExpiresAt).UTC()}, nil, err
}

// RenewCode gives an issued token a fresh activation code with new tries; the old one dies.
func (s *Service) RenewCode(ctx context.Context, c authz.Caller, serial string) (IssuedToken, error) {
	var renewed token
	err := s.change(ctx, c, authz.RenewCode, serial, func(t token) (token, *Error, error) {
		if t.Status != Issued {
			return t, notWhile(t.Status, "only a token that is issued and not yet activated gets a fresh code"), nil
		}
		code, err := s.newCode(ctx, t.record)
		t.Code, t.state.CodeTries = code, 0
		renewed = t
		return t, nil, err
	})
	if err != nil {
		return IssuedToken{}, err
	}
	return renewed.issuedRow().answer(false), nil
}
