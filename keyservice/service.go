// Package keyservice is Ramzban's use cases: issue a token, hand out its activation code, activate it on a phone,
// confirm it, verify its passwords. Each use case authorises in its first line and writes its audit entry in the
// commit that changes the state, so that no transport can go round either.
//
// It must not know HTTP, PKCS#11 or a storage engine: it declares what it needs of an HSM and takes a store.Store.
package keyservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// Error is a refusal with a stable code; the API turns Code into a status in one place. Detail says what to do and
// holds no secret. Err, if any, is the cause: it is logged, never answered.
type Error struct {
	Code   Code
	Detail string
	Err    error
}

// Code names a refusal for machines; it never changes once published.
type Code string

// The refusals of the use cases.
const (
	CodeDenied              Code = "not_allowed"
	CodeInvalid             Code = "request_invalid"
	CodeSubjectInvalid      Code = "subject_invalid"
	CodeSerialInvalid       Code = "serial_invalid"
	CodeProfileUnknown      Code = "profile_unknown"
	CodeTokenNotFound       Code = "token_not_found"
	CodeCodeNotFound        Code = "code_not_found"
	CodeLiveTokenExists     Code = "live_token_exists"
	CodeTransition          Code = "transition_not_allowed"
	CodeActivationWrong     Code = "activation_code_wrong"
	CodeActivationExpired   Code = "activation_code_expired"
	CodeActivationExhausted Code = "activation_code_exhausted"
	CodeDeviceKeyInvalid    Code = "device_key_invalid"
	CodeDeviceKeyNotPinned  Code = "device_key_not_pinned"
	CodeDeviceOther         Code = "device_other"
	CodeChannelOther        Code = "channel_other"
	CodeProofWrong          Code = "proof_wrong"
	CodeOTPMalformed        Code = "otp_malformed"
	CodeTampered            Code = "record_tampered"
	CodeHSMUnavailable      Code = "hsm_unavailable"
	CodeStorageUnavailable  Code = "storage_unavailable"
	CodeStorageFull         Code = "storage_full"
	CodeOutcomeUnknown      Code = "outcome_unknown"
	CodeBusy                Code = "busy"
	CodeInternal            Code = "internal"
)

// Error implements error; it holds no secret.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of a use case's error, CodeInternal for any other.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// Status of a token: issued → pending → active ⇄ suspended → deactivated.
type Status string

// The statuses.
const (
	Issued      Status = "issued"
	Pending     Status = "pending"
	Active      Status = "active"
	Suspended   Status = "suspended"
	Deactivated Status = "deactivated"
)

// IssueRequest asks for a token.
type IssueRequest struct {
	Class           string       // "card" or "account"
	Subject         seed.Subject // card number (16–19 digits, Luhn) or account id
	Channel         string       // "app" or "pwa": where it may live
	Profile         string       // name of a configured profile
	Uses            []string     // what its passwords are good for, e.g. "second-pin"
	DeviceKeySHA256 []byte       // optional: SHA-256 of the only SubjectPublicKeyInfo (DER) it may be activated for
}

// Activation is an activation code that waits to be collected: its id and when it dies.
type Activation struct {
	ID        string
	ExpiresAt time.Time
}

// IssuedToken answers Issue and RenewCode.
type IssuedToken struct {
	Serial     string
	Status     Status
	Activation Activation
}

// CollectedCode is a code on its way to the customer.
type CollectedCode struct {
	Kind      string // "activation"
	Serial    string
	Code      seed.Code
	ExpiresAt time.Time
}

// ActivateRequest binds an issued token to one device.
type ActivateRequest struct {
	Serial   string
	Subject  seed.Subject // required for cards; optional, but checked when given, for accounts
	Code     seed.Code
	DeviceID string
	Channel  string
	KeyDER   []byte // SubjectPublicKeyInfo (DER), RSA of 2048 to 4096 bits
}

// ActivatedToken carries the seed to the phone, wrapped.
type ActivatedToken struct {
	Serial     string
	Status     Status
	Seed       []byte // RSA-OAEP (SHA-1, MGF1-SHA-1, no label) under the device's key
	Policy     otp.Policy
	ServerTime time.Time
}

// ConfirmRequest proves that the phone has the seed.
type ConfirmRequest struct {
	Serial string
	Proof  []byte // HMAC-hash(seed, "ramzban/confirm/1" 0x00 serial 0x00 SHA-256(SPKI DER))
}

// VerifyRequest asks whether a password is genuine and unused.
type VerifyRequest struct {
	Serial string
	Use    string
	OTP    seed.Password
}

// Reason says why a password was refused.
type Reason string

// The reasons.
const (
	ReasonMismatch     Reason = "mismatch"      // matches no acceptable moving factor; counted as a guess
	ReasonAlreadyUsed  Reason = "already_used"  // is the last accepted one; not counted
	ReasonNotConnected Reason = "not_connected" // the token is not connected to this use
	ReasonNotActive    Reason = "not_active"    // issued, pending, suspended or deactivated
	ReasonThrottled    Reason = "throttled"     // too many misses: wait; the password was not looked at
	ReasonLocked       Reason = "locked"        // the guess budget is spent; the password was not looked at
)

// Verdict answers Verify. A refusal is a verdict, not an error.
type Verdict struct {
	Accepted   bool
	Reason     Reason // set when refused
	Serial     string
	Kind       string        // "offline", set when accepted
	RetryAfter time.Duration // set when throttled or locked
	AuditIndex uint64
}

// TokenView is what an issuer may see of a token; no secret is in it.
type TokenView struct {
	Serial    string
	Class     string
	Channel   string
	Profile   string
	Uses      []string
	Status    Status
	LastFour  string // of the subject
	Drift     time.Duration
	CreatedAt time.Time
	DeviceID  string
}

// LoggedEntry is one entry of the audit log with its index.
type LoggedEntry struct {
	Index uint64
	audit.Entry
}

// Discrepancy is a place where the stored state is older than what the audit log says happened: an older row was
// put back. Logged and Stored are the two values of What ("next moving factor", "record revision", "guess budget").
type Discrepancy struct {
	Serial string
	What   string
	Logged uint64
	Stored uint64
}

// API lists the use cases as transports call them.
type API interface {
	Issue(ctx context.Context, c authz.Caller, r IssueRequest) (IssuedToken, error)
	RenewCode(ctx context.Context, c authz.Caller, serial string) (IssuedToken, error)
	CollectCode(ctx context.Context, c authz.Caller, id string) (CollectedCode, error)
	Activate(ctx context.Context, c authz.Caller, r ActivateRequest) (ActivatedToken, error)
	Confirm(ctx context.Context, c authz.Caller, r ConfirmRequest) (TokenView, error)
	Token(ctx context.Context, c authz.Caller, serial string) (TokenView, error)
	Suspend(ctx context.Context, c authz.Caller, serial string) (TokenView, error)
	Resume(ctx context.Context, c authz.Caller, serial string) (TokenView, error)
	Deactivate(ctx context.Context, c authz.Caller, serial string) (TokenView, error)
	Verify(ctx context.Context, c authz.Caller, r VerifyRequest) (Verdict, error)
	AuditEntries(ctx context.Context, c authz.Caller, from uint64, limit int) ([]LoggedEntry, error)
	CompareAudit(ctx context.Context, c authz.Caller) ([]Discrepancy, error)
}
