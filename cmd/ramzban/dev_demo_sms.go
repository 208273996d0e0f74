package main

import (
	"context"
	"net/http"

	"ramzban/api/wire"
)

// demoPayment is what the customer pays with a password by SMS.
var demoPayment = wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: "6037997551493320"}

func (d *demo) optIn(ctx context.Context) error {
	d.title("The customer opts in to passwords by SMS",
		"Another token, on no device: it is active at once. The mobile number is kept encrypted.")
	var issued wire.IssueAnswer
	if err := d.call(ctx, question{as: "branch", method: http.MethodPost, path: "/v1/tokens", in: wire.IssueRequest{
		Class: "card", Subject: demoCard, Channel: "sms", Mobile: demoMobile, Profile: "sms-120", Uses: []string{demoUse},
	}}, http.StatusCreated, &issued); err != nil {
		return err
	}
	return expect("status", "active", issued.Status)
}

func (d *demo) challenge(ctx context.Context) error {
	d.title("Core banking asks for a password by SMS, for one payment",
		"It gets an id, never the password: that is for the SMS gateway to collect and send.")
	var asked wire.ChallengeAnswer
	if err := d.call(ctx, question{as: "core-banking", method: http.MethodPost, path: "/v1/challenges", in: wire.ChallengeRequest{
		Class: "card", Subject: demoCard, Use: demoUse, Transaction: &demoPayment,
	}}, http.StatusCreated, &asked); err != nil {
		return err
	}
	return d.call(ctx, d.collection(asked.ID), http.StatusOK, &d.sms)
}

func (d *demo) payOther(ctx context.Context) error {
	d.title("The password comes back with another amount", "It is bound to the payment it was made for.")
	other := demoPayment
	other.Amount = "9" + other.Amount
	return d.verify(ctx, question{}, wire.VerificationRequest{OTP: d.sms.Code, Transaction: &other}, "refused: mismatch")
}

func (d *demo) pay(ctx context.Context) error {
	d.title("The password comes back with its payment", "Core banking need not know that it came by SMS.")
	return d.verify(ctx, question{}, wire.VerificationRequest{OTP: d.sms.Code, Transaction: &demoPayment}, "accepted: sms")
}
