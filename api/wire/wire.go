// Package wire is the JSON that travels: request and answer types of /v1 and the problem document. The OpenAPI document
// is generated from these types.
//
// It must not know how anything is done: it imports the standard library only.
package wire

import "time"

// IssueRequest asks for a token (POST /v1/tokens).
type IssueRequest struct {
	Class           string   `json:"class" enum:"card,account" doc:"Kind of subject"`
	Subject         string   `json:"subject" minLength:"1" maxLength:"64" doc:"Card number (16 to 19 digits) or account id"`
	Channel         string   `json:"channel" enum:"app,pwa" doc:"Where the token may live"`
	Profile         string   `json:"profile" minLength:"1" maxLength:"64" doc:"Name of a configured profile, e.g. offline-60"`
	Uses            []string `json:"uses" minItems:"1" maxItems:"16" doc:"What its passwords are good for, e.g. second-pin"`
	DeviceKeySHA256 string   `json:"device_key_sha256,omitempty" pattern:"^[0-9a-f]{64}$" doc:"Pin: SHA-256 (hex) of the only device key (DER SubjectPublicKeyInfo) it may be activated for"`
}

// Activation is an activation code that waits for the courier.
type Activation struct {
	ID        string    `json:"id" doc:"Give this to the courier, who collects the code with it"`
	ExpiresAt time.Time `json:"expires_at"`
}

// IssueAnswer is an issued token.
type IssueAnswer struct {
	Serial     string     `json:"serial" doc:"12 digits, the last a Luhn check digit"`
	Status     string     `json:"status"`
	Activation Activation `json:"activation"`
}

// CodeAnswer is a code on its way to the customer (POST /v1/codes/{id}/collection).
type CodeAnswer struct {
	Kind      string    `json:"kind" enum:"activation"`
	Serial    string    `json:"serial"`
	Code      string    `json:"code"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Device is a phone that asks to hold a token.
type Device struct {
	ID        string `json:"id" minLength:"1" maxLength:"128" doc:"The bank's name for the device"`
	Channel   string `json:"channel" enum:"app,pwa"`
	PublicKey []byte `json:"public_key" doc:"Base64 of the DER SubjectPublicKeyInfo; RSA, 2048 to 4096 bits"`
}

// ActivationRequest activates a token on one device (POST /v1/tokens/{serial}/activation).
type ActivationRequest struct {
	Subject        string `json:"subject,omitempty" maxLength:"64" doc:"Required for cards"`
	ActivationCode string `json:"activation_code" pattern:"^[0-9]{8}$"`
	Device         Device `json:"device"`
}

// WrappedSeed is a seed only the device can open.
type WrappedSeed struct {
	Alg     string `json:"alg" enum:"RSA-OAEP" doc:"RSA-OAEP with SHA-1, MGF1-SHA-1 and no label"`
	Wrapped []byte `json:"wrapped" doc:"Base64 ciphertext"`
}

// OTP is what the device needs to make passwords.
type OTP struct {
	Type   string `json:"type" enum:"totp,hotp"`
	Hash   string `json:"hash" enum:"SHA1,SHA256,SHA512"`
	Digits int    `json:"digits"`
	Period int    `json:"period,omitempty" doc:"Seconds; TOTP only"`
}

// ActivationAnswer carries the seed to the device.
type ActivationAnswer struct {
	Serial     string      `json:"serial"`
	Status     string      `json:"status"`
	Seed       WrappedSeed `json:"seed"`
	OTP        OTP         `json:"otp"`
	ServerTime time.Time   `json:"server_time"`
}

// ConfirmationRequest proves that the device has the seed (POST /v1/tokens/{serial}/confirmation).
type ConfirmationRequest struct {
	Proof []byte `json:"proof" doc:"Base64 of HMAC(seed, \"ramzban/confirm/1\" 0x00 serial 0x00 SHA-256(public_key)) with the token's hash"`
}

// StatusAnswer says what became of a token.
type StatusAnswer struct {
	Serial string `json:"serial"`
	Status string `json:"status" enum:"issued,pending,active,suspended,deactivated"`
}

// TokenAnswer is what an issuer may see of a token.
type TokenAnswer struct {
	Serial       string    `json:"serial"`
	Class        string    `json:"class"`
	Subject      string    `json:"subject" doc:"Masked: the last four characters"`
	Channel      string    `json:"channel"`
	Profile      string    `json:"profile"`
	Uses         []string  `json:"uses"`
	Status       string    `json:"status"`
	DriftSeconds int       `json:"drift_seconds" doc:"Learnt clock drift of the device"`
	DeviceID     string    `json:"device_id,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
}

// VerificationRequest asks whether a password is genuine and unused (POST /v1/verifications).
type VerificationRequest struct {
	Serial string `json:"serial" minLength:"12" maxLength:"12" pattern:"^[0-9]{12}$"`
	Use    string `json:"use" minLength:"1" maxLength:"64" doc:"What the customer is doing, e.g. second-pin"`
	OTP    string `json:"otp" maxLength:"16" doc:"The password as typed: digits only, exactly the token's length"`
}

// Audit points into the audit log.
type Audit struct {
	Index uint64 `json:"index"`
}

// VerificationAnswer is the verdict. A refused password is not an HTTP error.
type VerificationAnswer struct {
	Result            string `json:"result" enum:"accepted,refused"`
	Reason            string `json:"reason,omitempty" enum:"mismatch,already_used,not_connected,not_active,throttled,locked" doc:"Why it was refused"`
	Serial            string `json:"serial"`
	Kind              string `json:"kind,omitempty" doc:"What matched: offline"`
	Bound             bool   `json:"bound" doc:"Whether the password was bound to a transaction"`
	RetryAfterSeconds int    `json:"retry_after_seconds,omitempty" doc:"When throttled or locked"`
	Audit             Audit  `json:"audit"`
}

// TimeAnswer is the server's clock (GET /v1/time).
type TimeAnswer struct {
	Time time.Time `json:"time"`
}

// AuditEntry is one decision.
type AuditEntry struct {
	Index      uint64    `json:"index"`
	Time       time.Time `json:"time"`
	Node       string    `json:"node"`
	Actor      string    `json:"actor"`
	Action     string    `json:"action"`
	Outcome    string    `json:"outcome"`
	Reason     string    `json:"reason,omitempty"`
	Serial     string    `json:"serial,omitempty"`
	Use        string    `json:"use,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	Commitment []byte    `json:"commitment,omitempty" doc:"Salted commitment of the subject"`
	Revision   uint64    `json:"revision,omitempty"`
	Next       uint64    `json:"next,omitempty"`
	Budget     uint64    `json:"budget,omitempty"`
}

// AuditAnswer is a page of the audit log (GET /v1/audit/entries?from=0&limit=100).
type AuditAnswer struct {
	Entries []AuditEntry `json:"entries"`
	Next    uint64       `json:"next" doc:"Give as from to read on"`
}

// Discrepancy is a row older than the audit log says it must be.
type Discrepancy struct {
	Serial string `json:"serial"`
	What   string `json:"what"`
	Logged uint64 `json:"logged"`
	Stored uint64 `json:"stored"`
}

// ComparisonAnswer compares the log with the stored state (GET /v1/audit/comparison).
type ComparisonAnswer struct {
	Discrepancies []Discrepancy `json:"discrepancies"`
}

// Problem is an error (RFC 9457, application/problem+json).
type Problem struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Code      string   `json:"code" doc:"Stable name of the error, for programs"`
	Detail    string   `json:"detail,omitempty" doc:"What to do, for people"`
	Errors    []string `json:"errors,omitempty" doc:"Where the request is wrong; never the values"`
	RequestID string   `json:"request_id,omitempty"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }
