package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"ramzban/api/wire"
)

// Throw-away values of the demonstration. The card number is a test number with a right check digit, nobody's card.
const (
	demoCard   = "6037991234567893"
	demoDevice = "demo-phone"
	demoUse    = "second-pin"
	demoMobile = "09120000000"
)

// walk plays one card's tokens from enrolment to their first passwords, and what must not work after them.
func (d *demo) walk(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.issue, d.collect, d.activate, d.confirm, d.makePassword, d.accept, d.repeat, d.refuse,
		d.optIn, d.challenge, d.payOther, d.pay, d.deny, d.audit,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) issue(ctx context.Context) error {
	d.title("The branch issues a token for a card",
		"It may issue, but never sees an activation code. No seed exists yet.")
	return d.call(ctx, question{as: "branch", method: http.MethodPost, path: "/v1/tokens", in: wire.IssueRequest{
		Class: "card", Subject: demoCard, Channel: "app", Profile: "offline-60", Uses: []string{demoUse},
	}}, http.StatusCreated, &d.issued)
}

func (d *demo) collect(ctx context.Context) error {
	d.title("The SMS gateway collects the activation code and sends it",
		"It reads codes, but can neither issue nor activate. The code is not stored: the HSM makes it again when it is needed.")
	return d.call(ctx, d.collection(d.issued.Activation.ID), http.StatusOK, &d.code)
}

func (d *demo) collection(id string) question {
	return question{as: "sms-gateway", method: http.MethodPost, path: "/v1/codes/" + id + "/collection"}
}

// ofToken is a call about the phone's token.
func (d *demo) ofToken(as, what string, in any) question {
	return question{as: as, method: http.MethodPost, path: "/v1/tokens/" + d.issued.Serial + what, in: in}
}

func (d *demo) activate(ctx context.Context) error {
	d.title("The customer types the code; the mobile bank activates the phone",
		"The phone has made an RSA key. Only now the HSM derives the seed; it leaves the HSM only wrapped to that key.")
	key, err := d.phone.publicKey()
	if err != nil {
		return err
	}
	return d.call(ctx, d.ofToken("mobile-bank", "/activation", wire.ActivationRequest{
		Subject: demoCard, ActivationCode: d.code.Code, Device: &wire.Device{ID: demoDevice, Channel: "app", PublicKey: key},
	}), http.StatusOK, &d.activated)
}

func (d *demo) confirm(ctx context.Context) error {
	d.title("The phone proves that it has the seed",
		"It unwraps the seed with its private key and answers with an HMAC, which the HSM checks. No password is used up.")
	key, err := d.phone.publicKey()
	if err != nil {
		return err
	}
	if d.token, err = d.phone.unwrap(d.activated); err != nil {
		return err
	}
	proof, err := d.token.proof(key)
	if err != nil {
		return err
	}
	var status wire.StatusAnswer
	if err := d.call(ctx, d.ofToken("mobile-bank", "/confirmation", wire.ConfirmationRequest{Proof: proof}),
		http.StatusOK, &status); err != nil {
		return err
	}
	d.token.Confirmed = true
	return expect("status", "active", status.Status)
}

func (d *demo) makePassword(context.Context) error {
	d.title("The phone makes a password, offline", "From its seed and its clock; nobody is asked.")
	if err := d.phone.save(d.token); err != nil {
		return err
	}
	var out bytes.Buffer
	if err := showPassword(&out, d.phone, d.now(), typed{}); err != nil {
		return err
	}
	d.password = strings.TrimSpace(out.String())
	return d.print("   phone: %s", d.password)
}

// verify shows a verification and expects this outcome of it.
func (d *demo) verify(ctx context.Context, q question, r wire.VerificationRequest, want string) error {
	r.Class, r.Subject, r.Use = "card", demoCard, demoUse
	q.as, q.method, q.path, q.in = "core-banking", http.MethodPost, "/v1/verifications", r
	var a wire.VerificationAnswer
	if err := d.call(ctx, q, http.StatusOK, &a); err != nil {
		return err
	}
	return expect("result", want, a.Result+": "+cmp.Or(a.Reason, a.Kind))
}

const demoKey = "purchase-81724"

func (d *demo) accept(ctx context.Context) error {
	d.title("Core banking asks whether the password is genuine",
		"It knows the card only. \"accepted\" is answered only when the fact is on disk.")
	return d.verify(ctx, question{key: demoKey}, wire.VerificationRequest{OTP: d.password}, "accepted: offline")
}

func (d *demo) repeat(ctx context.Context) error {
	d.title("The answer was lost: the same request with the same key", "It gets the first answer, not \"already used\".")
	return d.verify(ctx, question{key: demoKey, repeated: true}, wire.VerificationRequest{OTP: d.password}, "accepted: offline")
}

func (d *demo) refuse(ctx context.Context) error {
	d.title("The same password in a new request", "A password is accepted once, ever.")
	return d.verify(ctx, question{}, wire.VerificationRequest{OTP: d.password}, "refused: already_used")
}

func (d *demo) deny(ctx context.Context) error {
	d.title("Core banking tries to get itself a new activation code",
		"Verifying is all its certificate is good for.")
	var p wire.Problem
	if err := d.call(ctx, d.ofToken("core-banking", "/activation-code", nil), http.StatusForbidden, &p); err != nil {
		return err
	}
	return expect("code", "not_allowed", p.Code)
}

func (d *demo) audit(ctx context.Context) error {
	d.title("The auditor reads what was decided about the phone's token",
		"Every decision above, denials included, was written in the same transaction as its effect. No card number is in it.")
	var a wire.AuditAnswer
	q := question{as: "auditor", method: http.MethodGet, path: "/v1/audit/entries?limit=100&serial=" + d.issued.Serial}
	if err := d.exchange(ctx, q, http.StatusOK, &a); err != nil {
		return err
	}
	var table bytes.Buffer
	if err := printEntries(&table, a.Entries, 1, false); err != nil {
		return err
	}
	if err := d.print("   auditor → GET /v1/audit/entries?serial=…\n\n%s", strings.TrimRight(table.String(), "\n")); err != nil {
		return err
	}
	return expect("last decision", "denied", a.Entries[len(a.Entries)-1].Outcome)
}

// surprise is an answer that is not what the demonstration promises.
func expect(what, want, got string) error {
	if got != want {
		return fmt.Errorf("the %s should be %q but is %q: the service does not do what it promises", what, want, got)
	}
	return nil
}
