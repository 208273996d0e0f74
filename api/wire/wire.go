// Package wire is the JSON that travels: request and answer types of /v1 and the problem document. The OpenAPI document
// is generated from these types.
//
// It must not know how anything is done: it imports the standard library only.
package wire

import "time"

// IssueRequest asks for a token (POST /v1/tokens).
type IssueRequest struct {
	Class           string   `json:"class" enum:"card,account" doc:"Kind of subject" example:"card"`
	Subject         string   `json:"subject" minLength:"1" maxLength:"64" doc:"Card number (16 to 19 digits) or account id" example:"6037991234567893"`
	Channel         string   `json:"channel" enum:"app,pwa" doc:"Where the token may live" example:"app"`
	Profile         string   `json:"profile" minLength:"1" maxLength:"64" doc:"Name of a configured profile" example:"offline-60"`
	Uses            []string `json:"uses" minItems:"1" maxItems:"16" doc:"What its passwords are good for" example:"[\"second-pin\"]"`
	DeviceKeySHA256 string   `json:"device_key_sha256,omitempty" pattern:"^[0-9a-f]{64}$" doc:"Pin: SHA-256 (hex) of the only device key (DER SubjectPublicKeyInfo) it may be activated for"`
}

// Activation is an activation code that waits for the courier.
type Activation struct {
	ID        string    `json:"id" doc:"Give this to the courier, who collects the code with it" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	ExpiresAt time.Time `json:"expires_at" doc:"The code dies at this moment"`
}

// IssueAnswer is an issued token.
type IssueAnswer struct {
	Serial     string     `json:"serial" doc:"12 digits, the last a Luhn check digit" example:"402519938461"`
	Status     string     `json:"status" enum:"issued" doc:"Nothing can be verified yet"`
	Activation Activation `json:"activation" doc:"Where the activation code waits"`
}

// CodeAnswer is a code on its way to the customer (POST /v1/codes/{id}/collection).
type CodeAnswer struct {
	Kind      string    `json:"kind" enum:"activation" doc:"What the code is for"`
	Serial    string    `json:"serial" doc:"The token it belongs to" example:"402519938461"`
	Code      string    `json:"code" doc:"8 digits: send it to the customer's registered number and keep no copy" example:"83920174"`
	ExpiresAt time.Time `json:"expires_at" doc:"The code dies at this moment"`
}

// Device is a phone that asks to hold a token.
type Device struct {
	ID        string `json:"id" minLength:"1" maxLength:"128" doc:"The bank's name for the device" example:"a1b2"`
	Channel   string `json:"channel" enum:"app,pwa" doc:"Must be the channel the token was issued for" example:"app"`
	PublicKey []byte `json:"public_key" minLength:"1" maxLength:"4096" doc:"Base64 of the DER SubjectPublicKeyInfo; RSA, 2048 to 4096 bits"`
}

// ActivationRequest activates a token on one device (POST /v1/tokens/{serial}/activation).
type ActivationRequest struct {
	Subject        string `json:"subject,omitempty" maxLength:"64" doc:"Card number or account id the token was issued for; required for cards" example:"6037991234567893"`
	ActivationCode string `json:"activation_code" pattern:"^[0-9]{8}$" doc:"The code the customer received" example:"83920174"`
	Device         Device `json:"device" doc:"The one device that will hold the token"`
}

// WrappedSeed is a seed only the device can open.
type WrappedSeed struct {
	Alg     string `json:"alg" enum:"RSA-OAEP" doc:"RSA-OAEP with SHA-1, MGF1-SHA-1 and no label"`
	Wrapped []byte `json:"wrapped" doc:"Base64 ciphertext"`
}

// OTP is what the device needs to make passwords.
type OTP struct {
	Type   string `json:"type" enum:"totp,hotp" doc:"RFC 6238 or RFC 4226"`
	Hash   string `json:"hash" enum:"SHA1,SHA256,SHA512" doc:"Hash of the HMAC"`
	Digits int    `json:"digits" doc:"Length of a password, 6 to 8" example:"6"`
	Period int    `json:"period,omitempty" doc:"Length of a time step in seconds; TOTP only" example:"60"`
}

// ActivationAnswer carries the seed to the device.
type ActivationAnswer struct {
	Serial     string      `json:"serial" doc:"The token" example:"402519938461"`
	Status     string      `json:"status" enum:"pending" doc:"Pending until the device proves that it has the seed"`
	Seed       WrappedSeed `json:"seed" doc:"The token's seed, for this device only"`
	OTP        OTP         `json:"otp" doc:"How the device makes passwords"`
	ServerTime time.Time   `json:"server_time" doc:"The server's clock, for a device whose own is wrong"`
}

// ConfirmationRequest proves that the device has the seed (POST /v1/tokens/{serial}/confirmation).
type ConfirmationRequest struct {
	Proof []byte `json:"proof" minLength:"1" maxLength:"128" doc:"Base64 of HMAC(seed, \"ramzban/confirm/1\" 0x00 serial 0x00 SHA-256(public_key)) with the token's hash"`
}

// StatusAnswer says what became of a token.
type StatusAnswer struct {
	Serial string `json:"serial" doc:"The token" example:"402519938461"`
	Status string `json:"status" enum:"issued,pending,active,suspended,deactivated" doc:"What it is now" example:"active"`
}

// TokenAnswer is what an issuer may see of a token.
type TokenAnswer struct {
	Serial       string    `json:"serial" doc:"The token" example:"402519938461"`
	Class        string    `json:"class" enum:"card,account" doc:"Kind of subject"`
	Subject      string    `json:"subject" doc:"Masked: at most the last four characters" example:"****7893"`
	Channel      string    `json:"channel" enum:"app,pwa" doc:"Where it lives"`
	Profile      string    `json:"profile" doc:"Name of the profile it was issued with" example:"offline-60"`
	Uses         []string  `json:"uses" doc:"What its passwords are good for" example:"[\"second-pin\"]"`
	Status       string    `json:"status" enum:"issued,pending,active,suspended,deactivated" doc:"What it is now"`
	DriftSeconds int       `json:"drift_seconds" doc:"Learnt clock drift of the device, in seconds; positive: its clock is ahead"`
	DeviceID     string    `json:"device_id,omitempty" doc:"The device that holds it, once activated" example:"a1b2"`
	CreatedAt    time.Time `json:"created_at" doc:"When it was issued"`
}

// VerificationRequest asks whether a password is genuine and unused (POST /v1/verifications).
type VerificationRequest struct {
	Serial string `json:"serial" maxLength:"64" doc:"The token: 12 digits" example:"402519938461"`
	Use    string `json:"use" minLength:"1" maxLength:"64" doc:"What the customer is doing: a configured use, and one of the token's" example:"second-pin"`
	OTP    string `json:"otp" maxLength:"64" doc:"The password as typed: digits only, exactly the token's length" example:"492039"`
}

// Audit points into the audit log.
type Audit struct {
	Index uint64 `json:"index" doc:"Index of the decision's entry" example:"1842"`
}

// VerificationAnswer is the verdict. A refused password is not an HTTP error.
type VerificationAnswer struct {
	Result            string `json:"result" enum:"accepted,refused" doc:"The verdict"`
	Reason            string `json:"reason,omitempty" enum:"mismatch,already_used,not_connected,not_active,throttled,locked" doc:"Why it was refused"`
	Serial            string `json:"serial" doc:"The token" example:"402519938461"`
	Kind              string `json:"kind,omitempty" enum:"offline" doc:"What matched, when accepted"`
	Bound             bool   `json:"bound" doc:"Whether the password was bound to a transaction"`
	RetryAfterSeconds int    `json:"retry_after_seconds,omitempty" minimum:"0" doc:"When throttled or locked: how long no password of this use is looked at"`
	Audit             Audit  `json:"audit" doc:"Where the decision stands in the audit log"`
}

// TimeAnswer is the server's clock (GET /v1/time).
type TimeAnswer struct {
	Time time.Time `json:"time" doc:"The server's clock, UTC"`
}

// AuditEntry is one decision.
type AuditEntry struct {
	Index      uint64    `json:"index" doc:"Dense, counted from 0"`
	Time       time.Time `json:"time" doc:"Clock of the deciding node"`
	Node       string    `json:"node" doc:"The deciding node"`
	Actor      string    `json:"actor" doc:"Who asked"`
	Action     string    `json:"action" doc:"What was asked" example:"otp.verify"`
	Outcome    string    `json:"outcome" enum:"done,accepted,refused,denied,tampered,resumed" doc:"How it ended; an entry that was changed or removed in the database stands as tampered"`
	Reason     string    `json:"reason,omitempty" doc:"Why it was refused"`
	Serial     string    `json:"serial,omitempty" doc:"The token, if one was named" example:"402519938461"`
	Use        string    `json:"use,omitempty" doc:"The use a password was checked for"`
	RequestID  string    `json:"request_id,omitempty" doc:"The request, as in answers and logs"`
	Commitment []byte    `json:"commitment,omitempty" doc:"Salted commitment of the subject"`
	Revision   uint64    `json:"revision,omitempty" doc:"Of the token's record, afterwards"`
	Next       uint64    `json:"next,omitempty" doc:"Lowest moving factor still acceptable, afterwards"`
	Budget     uint64    `json:"budget,omitempty" doc:"Sequence number of the guess budget, afterwards"`
	State      uint64    `json:"state,omitempty" doc:"Sequence number of the token's state, afterwards"`
}

// AuditAnswer is a page of the audit log (GET /v1/audit/entries?from=0&limit=100).
type AuditAnswer struct {
	Entries []AuditEntry `json:"entries" doc:"In the order of their indexes"`
	Next    uint64       `json:"next" doc:"Give as from to read on"`
}

// Discrepancy is a place where the database is not what the audit log says it must be.
type Discrepancy struct {
	Serial string `json:"serial,omitempty" doc:"The token; none for entries of the log itself" example:"402519938461"`
	What   string `json:"what" enum:"record revision,next moving factor,state sequence,guess budget,live token,audit entry changed,audit entry missing" doc:"Which value went back, or what became of an entry"`
	Logged uint64 `json:"logged" doc:"What the log says it was; for an entry, its index"`
	Stored uint64 `json:"stored" doc:"What is stored now; 0 when the row is missing"`
}

// ComparisonAnswer compares the log with the stored state (GET /v1/audit/comparison).
type ComparisonAnswer struct {
	Discrepancies []Discrepancy `json:"discrepancies" doc:"Empty when database and log agree"`
}

// Problem is an error (RFC 9457, application/problem+json).
type Problem struct {
	Type      string   `json:"type" doc:"URI reference of the code's description" example:"/docs#token_not_found"`
	Title     string   `json:"title" doc:"The same for every problem of this code" example:"No such token"`
	Status    int      `json:"status" doc:"The HTTP status" example:"404"`
	Code      string   `json:"code" doc:"Stable name of the problem, for programs" example:"token_not_found"`
	Detail    string   `json:"detail,omitempty" doc:"What to do, for people" example:"no token has this serial"`
	Errors    []string `json:"errors,omitempty" doc:"Where the request is wrong; never the values"`
	RequestID string   `json:"request_id,omitempty" doc:"Name it when you ask the operator" example:"K7QXN3W5ZB2MHT4YLCRD6VJPAE"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }
