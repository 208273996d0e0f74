package keyservice

import (
	"errors"
	"fmt"
	"time"
)

// Error is a refusal with a stable code; the API turns Code into a status in one place. Detail says what to do and
// holds no secret. Err, if any, is the cause: it is logged, never answered.
type Error struct {
	Code   Code
	Detail string
	Err    error

	RetryAfter time.Duration // how long to wait before it can help to ask again; 0 if that is not known
	Repeated   bool          // this is the answer to an earlier request with the same idempotency key
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
	CodeActivationThrottled Code = "activation_throttled"
	CodeDeviceKeyInvalid    Code = "device_key_invalid"
	CodeDeviceKeyNotPinned  Code = "device_key_not_pinned"
	CodeDeviceOther         Code = "device_other"
	CodeChannelOther        Code = "channel_other"
	CodeProofWrong          Code = "proof_wrong"
	CodeOTPMalformed        Code = "otp_malformed"
	CodeSeedInvalid         Code = "seed_invalid"
	CodeSeedInUse           Code = "seed_in_use"
	CodePINMissing          Code = "pin_not_set"
	CodeNotOptedIn          Code = "not_opted_in"
	CodeChallengesPending   Code = "challenges_pending"
	CodeTooManySubjects     Code = "too_many_subjects"
	CodeKeyReused           Code = "idempotency_key_reused"
	CodeProposalNotFound    Code = "proposal_not_found"
	CodeProposalExists      Code = "proposal_exists"
	CodeProposalClosed      Code = "proposal_closed"
	CodeProposalsPending    Code = "too_many_proposals"
	CodeNotProposer         Code = "not_the_proposer"
	CodeNotOfficer          Code = "not_an_officer"
	CodeSamePerson          Code = "second_person_required"
	CodeSignatureInvalid    Code = "signature_invalid"
	CodeDocumentInvalid     Code = "document_invalid"
	CodeTampered            Code = "record_tampered"
	CodeLogChanged          Code = "audit_log_changed"
	CodeCheckpointNotFound  Code = "checkpoint_not_found"
	CodeKeyRetired          Code = "key_retired"
	CodeKeyDestroyed        Code = "key_destroyed"
	CodeKeyNeeded           Code = "key_needed"
	CodeKeyUnknown          Code = "key_unknown"
	CodeRotationNotFound    Code = "rotation_not_found"
	CodeRotationRunning     Code = "rotation_running"
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
