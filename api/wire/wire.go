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
	Channel         string   `json:"channel" enum:"app,pwa,hardware,sms" doc:"Where the token may live; hardware: a device whose maker knows its seed; sms: on no device, each password is sent" example:"app"`
	Mobile          string   `json:"mobile,omitempty" pattern:"^\\+?[0-9]{10,15}$" doc:"Where the courier sends codes; kept encrypted, shown masked" example:"09121234567"`
	Profile         string   `json:"profile" minLength:"1" maxLength:"64" doc:"Name of a configured profile" example:"offline-60"`
	Uses            []string `json:"uses" maxItems:"16" doc:"What its passwords are good for; none until it is connected" example:"[\"second-pin\"]"`
	DeviceKeySHA256 string   `json:"device_key_sha256,omitempty" pattern:"^[0-9a-f]{64}$" doc:"Pin: SHA-256 (hex) of the only device key (DER SubjectPublicKeyInfo) it may be activated for; of hardware tokens: of the only maker_seed, as its bytes are before base64"`
}

// Activation is an activation code that waits for the courier.
type Activation struct {
	ID        string    `json:"id" doc:"Give this to the courier, who collects the code with it" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	ExpiresAt time.Time `json:"expires_at" doc:"The code dies at this moment"`
}

// IssueAnswer is an issued token.
type IssueAnswer struct {
	Serial     string      `json:"serial" doc:"12 digits, the last a Luhn check digit" example:"402519938466"`
	Status     string      `json:"status" enum:"issued,active" doc:"issued: nothing can be verified yet; active: an SMS token, which nobody has to activate"`
	Activation *Activation `json:"activation,omitempty" doc:"Where the activation code waits; none for an SMS token"`
}

// CodeAnswer is a code on its way to the customer (POST /v1/codes/{id}/collection).
type CodeAnswer struct {
	Kind        string       `json:"kind" enum:"activation,sms" doc:"An activation code, or an SMS password"`
	Serial      string       `json:"serial" doc:"The token it belongs to" example:"402519938466"`
	Mobile      string       `json:"mobile,omitempty" doc:"Where to send it, if a number was given" example:"09121234567"`
	Code        string       `json:"code" doc:"Digits: send it to the customer's registered number and keep no copy" example:"83920174"`
	ExpiresAt   time.Time    `json:"expires_at" doc:"The code dies at this moment"`
	Transaction *Transaction `json:"transaction,omitempty" doc:"What the password is for: say it in the message"`
}

// Transaction is what a password is bound to.
type Transaction struct {
	Amount   string `json:"amount" pattern:"^[1-9][0-9]{0,17}$" doc:"In the currency's smallest unit" example:"1500000"`
	Currency string `json:"currency" pattern:"^[A-Z]{3}$" doc:"ISO 4217" example:"IRR"`
	Payee    string `json:"payee" pattern:"^[A-Za-z0-9._-]{1,64}$" doc:"Card number or account id" example:"6037997551493324"`
}

// Device is a phone that asks to hold a token.
type Device struct {
	ID        string `json:"id" minLength:"1" maxLength:"128" doc:"The bank's name for the device" example:"a1b2"`
	Channel   string `json:"channel" enum:"app,pwa" doc:"Must be the channel the token was issued for" example:"app"`
	PublicKey []byte `json:"public_key" minLength:"1" maxLength:"4096" doc:"Base64 of the DER SubjectPublicKeyInfo; RSA, 2048 to 4096 bits"`
}

// ActivationRequest activates a token on one device (POST /v1/tokens/{serial}/activation).
type ActivationRequest struct {
	Subject        string  `json:"subject,omitempty" maxLength:"64" doc:"Card number or account id the token was issued for; required for cards" example:"6037991234567893"`
	ActivationCode string  `json:"activation_code" pattern:"^[0-9]{8}$" doc:"The code the customer received" example:"83920174"`
	Device         *Device `json:"device,omitempty" doc:"The one device that will hold the token; required unless it is hardware"`
	MakerSeed      []byte  `json:"maker_seed,omitempty" maxLength:"4096" doc:"Of hardware tokens: base64 of the seed as its maker wrapped it to the key of GET /v1/import-key (RSA-OAEP with SHA-1, MGF1-SHA-1, no label)"`
}

// SubjectActivationRequest activates a token on one device by its subject (POST /v1/activations).
type SubjectActivationRequest struct {
	Class          string  `json:"class" enum:"card,account" doc:"Kind of subject" example:"card"`
	Subject        string  `json:"subject" minLength:"1" maxLength:"64" doc:"Card number or account id the token was issued for" example:"6037991234567893"`
	ActivationCode string  `json:"activation_code" pattern:"^[0-9]{8}$" doc:"The code the customer received" example:"83920174"`
	Device         *Device `json:"device,omitempty" doc:"The one device that will hold the token; required unless it is hardware"`
	MakerSeed      []byte  `json:"maker_seed,omitempty" maxLength:"4096" doc:"Of hardware tokens: as in POST /v1/tokens/{serial}/activation"`
}

// WrappedSeed is a seed only the device can open.
type WrappedSeed struct {
	Alg     string `json:"alg" enum:"RSA-OAEP" doc:"RSA-OAEP with SHA-1, MGF1-SHA-1 and no label"`
	Wrapped []byte `json:"wrapped" doc:"Base64 ciphertext"`
}

// OTP is what the device needs to make passwords.
type OTP struct {
	Type   string `json:"type" enum:"totp,hotp,ocra" doc:"RFC 6238, RFC 4226 or RFC 6287"`
	Hash   string `json:"hash" enum:"SHA1,SHA256,SHA512" doc:"Hash of the HMAC"`
	Digits int    `json:"digits" doc:"Length of a password, 6 to 8" example:"6"`
	Period int    `json:"period,omitempty" doc:"Length of a time step in seconds; 0 for counters" example:"60"`

	Suite     string `json:"suite,omitempty" doc:"OCRA suite" example:"OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M"`
	PINDigits int    `json:"pin_digits,omitempty" doc:"The device asks for a PIN of this many digits for each password; OCRA only" example:"8"`
	Signs     bool   `json:"signs,omitempty" doc:"Each password is for one transaction, whose digest is the question; OCRA only"`
}

// ActivationAnswer carries the seed to the device.
type ActivationAnswer struct {
	Serial     string       `json:"serial" doc:"The token" example:"402519938466"`
	Status     string       `json:"status" enum:"pending" doc:"Pending until the device proves that it has the seed"`
	Seed       *WrappedSeed `json:"seed,omitempty" doc:"The token's seed, for this device only; none for hardware, which has it"`
	OTP        OTP          `json:"otp" doc:"How the device makes passwords"`
	ServerTime time.Time    `json:"server_time" doc:"The server's clock, for a device whose own is wrong"`
}

// ConfirmationRequest proves that the device has the seed (POST /v1/tokens/{serial}/confirmation).
type ConfirmationRequest struct {
	Proof []byte `json:"proof,omitempty" maxLength:"128" doc:"Base64 of HMAC(seed, \"ramzban/confirm/1\" 0x00 serial 0x00 SHA-256(public_key)) with the token's hash"`
	OTP   string `json:"otp,omitempty" maxLength:"64" doc:"Of hardware tokens, instead of a proof: a password, which is used up" example:"492039"`
}

// RemovalRequest proves that the phone which holds a token gives it up (POST /v1/tokens/{serial}/removal).
type RemovalRequest struct {
	Proof []byte `json:"proof" minLength:"1" maxLength:"128" doc:"Base64 of HMAC(seed, \"ramzban/remove/1\" 0x00 serial 0x00 SHA-256(public_key)) with the token's hash"`
}

// StatusAnswer says what became of a token.
type StatusAnswer struct {
	Serial string `json:"serial" doc:"The token" example:"402519938466"`
	Status string `json:"status" enum:"issued,pending,active,suspended,deactivated" doc:"What it is now" example:"active"`
}

// UseGuesses says how one use of a token stands.
type UseGuesses struct {
	Use               string `json:"use" doc:"The use" example:"second-pin"`
	Misses            int    `json:"misses" doc:"Wrong passwords in the window, over all the customer's tokens"`
	Held              string `json:"held,omitempty" enum:"throttled,locked" doc:"Passwords are not looked at now: wait, or unlock the token"`
	RetryAfterSeconds int    `json:"retry_after_seconds,omitempty" minimum:"0" doc:"Until they are again"`
}

// TokenAnswer is what an issuer may see of a token.
type TokenAnswer struct {
	Serial       string    `json:"serial" doc:"The token" example:"402519938466"`
	Class        string    `json:"class" enum:"card,account" doc:"Kind of subject"`
	Subject      string    `json:"subject" doc:"Masked: at most the last four characters" example:"****7893"`
	Mobile       string    `json:"mobile,omitempty" doc:"Masked: the first and last four digits" example:"0912***4567"`
	Channel      string    `json:"channel" enum:"app,pwa,hardware,sms" doc:"Where it lives"`
	Profile      string    `json:"profile" doc:"Name of the profile it was issued with" example:"offline-60"`
	Uses         []string  `json:"uses" doc:"What its passwords are good for" example:"[\"second-pin\"]"`
	Status       string    `json:"status" enum:"issued,pending,active,suspended,deactivated" doc:"What it is now"`
	DriftSeconds int       `json:"drift_seconds" doc:"Learnt clock drift of the device, in seconds; positive: its clock is ahead"`
	DeviceID     string    `json:"device_id,omitempty" doc:"The device that holds it, once activated" example:"a1b2"`
	CreatedAt    time.Time `json:"created_at" doc:"When it was issued"`
	PINSet       bool      `json:"pin_set" doc:"Whether the customer's PIN, if the passwords take one, is set"`

	Guesses []UseGuesses `json:"guesses" doc:"How each of its uses stands"`
}

// VerificationRequest asks whether a password is genuine and unused (POST /v1/verifications).
type VerificationRequest struct {
	Serial  string `json:"serial,omitempty" maxLength:"64" doc:"The token: 12 digits; or else class and subject" example:"402519938466"`
	Class   string `json:"class,omitempty" enum:"card,account" doc:"Kind of subject, instead of a serial" example:"card"`
	Subject string `json:"subject,omitempty" maxLength:"64" doc:"Whose password it is: whatever the subject has for the use is tried" example:"6037991234567893"`

	Use string `json:"use" minLength:"1" maxLength:"64" doc:"What the customer is doing: a configured use, and one of the token's" example:"second-pin"`
	OTP string `json:"otp" maxLength:"64" doc:"The password as typed: digits only, exactly the token's length" example:"492039"`

	Transaction *Transaction `json:"transaction,omitempty" doc:"What the customer is paying: a password bound to another is refused"`

	Receipt bool `json:"receipt,omitempty" doc:"The answer shall carry a signed receipt; a repeat may ask for one though the first request did not"`
}

// Receipt is what a caller may keep of a verdict. Who has only the public audit key can check it, with the command
// "ramzban audit receipt".
type Receipt struct {
	Note            string `json:"note,omitempty" doc:"Signed note (c2sp.org/signed-note) of the audit key: the log with the decision's entry, its index and hash, time, serial, salted commitment of the subject, use, salted digest of the transaction, outcome, reason"`
	TransactionSalt []byte `json:"transaction_salt,omitempty" doc:"Whoever is given this too can check which transaction it was: keep it as secret as the payee"`
	Missing         string `json:"missing,omitempty" enum:"hsm_unavailable,storage_unavailable,busy,internal" doc:"There is no receipt, for this reason; the verdict stands. Repeat the request with the same Idempotency-Key to get one"`
}

// Audit points into the audit log of the node that decided.
type Audit struct {
	Node  string `json:"node" doc:"The deciding node, in whose log the entry is" example:"node-1"`
	Index uint64 `json:"index" doc:"Index of the decision's entry" example:"1842"`
}

// VerificationAnswer is the verdict. A refused password is not an HTTP error.
type VerificationAnswer struct {
	Result            string `json:"result" enum:"accepted,refused" doc:"The verdict"`
	Reason            string `json:"reason,omitempty" enum:"mismatch,already_used,not_connected,not_active,not_bound,transaction_missing,resync_needed,throttled,locked" doc:"Why it was refused"`
	Serial            string `json:"serial,omitempty" doc:"The token; none when a subject was named and nothing matched" example:"402519938466"`
	Kind              string `json:"kind,omitempty" enum:"offline,sms" doc:"What matched"`
	Bound             bool   `json:"bound" doc:"Whether the password was bound to a transaction"`
	RetryAfterSeconds int    `json:"retry_after_seconds,omitempty" minimum:"0" doc:"When throttled or locked: how long no password of this use is looked at"`
	Audit             Audit  `json:"audit" doc:"Where the decision stands in the audit log"`

	Receipt *Receipt `json:"receipt,omitempty" doc:"If one was asked for"`
}

// ChallengeRequest asks for an SMS password (POST /v1/challenges).
type ChallengeRequest struct {
	Class       string       `json:"class" enum:"card,account" doc:"Kind of subject" example:"card"`
	Subject     string       `json:"subject" minLength:"1" maxLength:"64" doc:"Card number or account id" example:"6037991234567893"`
	Use         string       `json:"use" minLength:"1" maxLength:"64" doc:"What the customer is doing" example:"second-pin"`
	Transaction *Transaction `json:"transaction,omitempty" doc:"What the password will be good for, and nothing else"`
}

// ChallengeAnswer is an SMS password that waits for the courier.
type ChallengeAnswer struct {
	ID        string    `json:"id" doc:"Give this to the courier, who collects the password with it" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	ExpiresAt time.Time `json:"expires_at" doc:"The password dies at this moment"`
}

// ResyncRequest proves possession with two consecutive passwords (POST /v1/tokens/{serial}/resync).
type ResyncRequest struct {
	OTP1 string `json:"otp1" maxLength:"64" doc:"A password" example:"492039"`
	OTP2 string `json:"otp2" maxLength:"64" doc:"The next one the device made" example:"170284"`
}

// ResyncAnswer says whether the token was found. A refusal is not an HTTP error.
type ResyncAnswer struct {
	Serial            string `json:"serial" doc:"The token" example:"402519938466"`
	Result            string `json:"result" enum:"accepted,refused" doc:"accepted: clock or counter are known again, and the token's uses are unlocked"`
	Reason            string `json:"reason,omitempty" enum:"mismatch,not_active,resync_needed,throttled,locked" doc:"Why it was refused"`
	DriftSeconds      int    `json:"drift_seconds" doc:"Learnt clock drift of the device, in seconds; positive: its clock is ahead"`
	RetryAfterSeconds int    `json:"retry_after_seconds,omitempty" minimum:"0" doc:"When throttled or locked: how long no passwords are looked at here"`
	Audit             Audit  `json:"audit" doc:"Where the decision stands in the audit log"`
}

// UsesRequest connects a token to uses (PUT /v1/tokens/{serial}/uses).
type UsesRequest struct {
	Uses []string `json:"uses" maxItems:"16" doc:"All of them: those not named are disconnected" example:"[\"login\",\"account-pin\"]"`
}

// UsesAnswer says what a token is connected to.
type UsesAnswer struct {
	Serial string   `json:"serial" doc:"The token" example:"402519938466"`
	Uses   []string `json:"uses" doc:"What its passwords are good for" example:"[\"login\",\"account-pin\"]"`
}

// PINRequest sets the PIN a customer types for each password (PUT /v1/tokens/{serial}/pin).
type PINRequest struct {
	PIN string `json:"pin" pattern:"^[0-9]{4,12}$" doc:"As many digits as the token's profile wants; only its digest is kept, encrypted" example:"27182818"`
}

// MobileRequest says where the courier sends a token's codes from now on (PUT /v1/tokens/{serial}/mobile).
type MobileRequest struct {
	Mobile string `json:"mobile" pattern:"^\\+?[0-9]{10,15}$" doc:"The customer's new number; kept encrypted, shown masked" example:"09121234567"`
}

// SubjectRequest names a customer in a body, since card numbers never stand in a URL (POST /v1/subjects/tokens and
// /v1/subjects/deactivations).
type SubjectRequest struct {
	Class   string `json:"class" enum:"card,account" doc:"Kind of subject" example:"card"`
	Subject string `json:"subject" minLength:"1" maxLength:"64" doc:"Card number or account id" example:"6037991234567893"`
}

// SubjectTokensAnswer shows a customer's live tokens.
type SubjectTokensAnswer struct {
	Tokens []TokenAnswer `json:"tokens" doc:"At most one of each kind; empty when the subject has no live token"`
}

// SubjectDeactivationAnswer names the tokens that ended.
type SubjectDeactivationAnswer struct {
	Serials []string `json:"serials" doc:"Empty when the subject had no live token"`
}

// ImportKeyAnswer is the key for makers of hardware tokens (GET /v1/import-key).
type ImportKeyAnswer struct {
	PublicKey []byte `json:"public_key" doc:"Base64 of the DER SubjectPublicKeyInfo, RSA; its private half never leaves the HSM"`
}

// TimeAnswer is the server's clock (GET /v1/time).
type TimeAnswer struct {
	Time time.Time `json:"time" doc:"The server's clock, UTC"`
}

// AuditEntry is one decision.
type AuditEntry struct {
	Index      uint64    `json:"index" doc:"In the node's log: dense, counted from 0"`
	Time       time.Time `json:"time" doc:"Clock of the deciding node"`
	Node       string    `json:"node" doc:"The deciding node, in whose log this is"`
	Actor      string    `json:"actor" doc:"Who asked"`
	Action     string    `json:"action" doc:"What was asked" example:"otp.verify"`
	Outcome    string    `json:"outcome" enum:"done,accepted,refused,denied,tampered,resumed,repeated,begun,failed" doc:"How it ended; repeated: a retry got the answer of an earlier decision; begun and failed: of what two officers agreed on; an entry that was changed or removed in the database stands as tampered"`
	Reason     string    `json:"reason,omitempty" doc:"Why it was refused"`
	Serial     string    `json:"serial,omitempty" doc:"The token, if one was named" example:"402519938466"`
	Use        string    `json:"use,omitempty" doc:"The use a password was checked for"`
	RequestID  string    `json:"request_id,omitempty" doc:"The request, as in answers and logs"`
	Commitment []byte    `json:"commitment,omitempty" doc:"Salted commitment of the subject"`
	Revision   uint64    `json:"revision,omitempty" doc:"Of the token's record, afterwards"`
	Next       uint64    `json:"next,omitempty" doc:"Lowest moving factor still acceptable, afterwards"`
	Budget     uint64    `json:"budget,omitempty" doc:"Sequence number of the guess budget, afterwards"`
	State      uint64    `json:"state,omitempty" doc:"Sequence number of the token's state, afterwards"`
	Key        []byte    `json:"key,omitempty" doc:"Keyed digest of the caller and its Idempotency-Key: a repeated answer has that of the first"`

	Also []AuditPart `json:"also,omitempty" doc:"Further tokens of the same decision"`
	Leaf []byte      `json:"leaf,omitempty" doc:"If leaves were asked for: the entry as it is stored (CBOR), whose hash is in the Merkle tree"`
	Tree *AuditTree  `json:"tree,omitempty" doc:"Of a checkpoint's entry: what was signed; of one that tells of a changed log: the tree before the entry that is wrong"`

	Detail      string `json:"detail,omitempty" doc:"What was done, in words" example:"wrap/1 readable, wrap/2 active"`
	Proposal    string `json:"proposal,omitempty" doc:"The officers' proposal that it belongs to" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	Document    string `json:"document,omitempty" doc:"An officer's proposal or approval, exactly as it was signed"`
	Signature   []byte `json:"signature,omitempty" doc:"Base64 of the document's detached signature"`
	Certificate []byte `json:"certificate,omitempty" doc:"Base64 of the signer's certificate (DER), those of intermediate authorities after it"`

	Maker *AuditMakerSeed `json:"maker_seed,omitempty" doc:"The seed that a hardware token was given"`
}

// AuditMakerSeed names the seed of a hardware token, which outlives the token.
type AuditMakerSeed struct {
	Digest []byte `json:"digest" doc:"Keyed digest of the seed: the same whichever token has it"`
	Holder uint64 `json:"holder" doc:"How many tokens have had it, this one included" example:"1"`
}

// AuditTree is a Merkle tree over the first entries of a log.
type AuditTree struct {
	Size uint64 `json:"size" doc:"How many entries" example:"1842"`
	Root []byte `json:"root" doc:"The root hash, 32 bytes"`
}

// AuditPart is what a decision made of a token besides the first one.
type AuditPart struct {
	Serial     string `json:"serial" doc:"The token" example:"402519938466"`
	Commitment []byte `json:"commitment,omitempty" doc:"Salted commitment of the subject"`
	Revision   uint64 `json:"revision,omitempty" doc:"Of the token's record, afterwards"`
	Next       uint64 `json:"next,omitempty" doc:"Lowest moving factor still acceptable, afterwards"`
	State      uint64 `json:"state,omitempty" doc:"Sequence number of the token's state, afterwards"`
}

// AuditLog is the log of one node.
type AuditLog struct {
	Node    string `json:"node" doc:"The node" example:"node-1"`
	First   uint64 `json:"first" doc:"Older entries were removed from the database on purpose: they are in the archive"`
	Entries uint64 `json:"entries" doc:"How many there are: their indexes are below"`
}

// AuditLogsAnswer is the logs there are (GET /v1/audit/logs).
type AuditLogsAnswer struct {
	Logs []AuditLog `json:"logs" doc:"In the order of the nodes' names"`
}

// AuditAnswer is a page of a node's audit log (GET /v1/audit/entries?node=node-1&from=0&limit=100).
type AuditAnswer struct {
	Entries []AuditEntry `json:"entries" doc:"In the order of their indexes; with filters there may be none, and more later"`
	Next    uint64       `json:"next" doc:"Give as from to read on"`
	End     uint64       `json:"end" doc:"How many entries the log had: at next = end there are no more" example:"1843"`
}

// AuditStreamEnd is the last line of a stream of entries. Without it, the answer was cut.
type AuditStreamEnd struct {
	Summary AuditSummary `json:"summary" doc:"What the stream was"`
}

// AuditSummary counts what a stream of entries told.
type AuditSummary struct {
	Entries  int      `json:"entries" doc:"How many lines came before this one" example:"1842"`
	Next     uint64   `json:"next" doc:"Give as from to read on, after a complete stream what is decided from now on" example:"1843"`
	Complete bool     `json:"complete" doc:"Whether these are all that were asked for"`
	Problem  *Problem `json:"problem,omitempty" doc:"Why they are not; read on from next"`
}

// CheckpointAnswer is the newest checkpoint of a node's log (GET /v1/audit/checkpoint?node=node-1).
type CheckpointAnswer struct {
	Node   string    `json:"node" doc:"Whose log" example:"node-1"`
	Origin string    `json:"origin" doc:"The identity that signs the log: first line of the note, and name of its signature" example:"ramzban/5d0f6f3c1b7e49a2/node-1"`
	Size   uint64    `json:"size" doc:"How many entries are in the tree" example:"1842"`
	Root   []byte    `json:"root" doc:"The tree's root hash (RFC 6962), 32 bytes"`
	Time   time.Time `json:"time" doc:"When it was signed, by the node's clock"`
	Note   string    `json:"note" doc:"The signed note (c2sp.org/tlog-checkpoint): the text, an empty line, signatures of ECDSA P-256 with SHA-256"`
}

// InclusionAnswer proves that an entry is in a node's log (GET /v1/audit/proofs/inclusion?node=node-1&index=7&size=1842).
type InclusionAnswer struct {
	Node     string   `json:"node" doc:"Whose log" example:"node-1"`
	Index    uint64   `json:"index" doc:"Of the entry" example:"7"`
	LeafHash []byte   `json:"leaf_hash" doc:"SHA-256 of a zero byte and the entry's bytes"`
	Size     uint64   `json:"size" doc:"Of the tree that it is proven to be in" example:"1842"`
	Root     []byte   `json:"root" doc:"That tree's root hash"`
	Proof    [][]byte `json:"proof" doc:"The audit path, from the leaf up (RFC 6962 section 2.1.1), 32 bytes each"`
}

// ConsistencyAnswer proves that a node's log only grew (GET /v1/audit/proofs/consistency?node=node-1&from=900&to=1842).
type ConsistencyAnswer struct {
	Node  string    `json:"node" doc:"Whose log" example:"node-1"`
	From  AuditTree `json:"from" doc:"The earlier tree"`
	To    AuditTree `json:"to" doc:"The later tree"`
	Proof [][]byte  `json:"proof" doc:"That the later one begins with the earlier one (RFC 6962 section 2.1.2), 32 bytes each"`
}

// AuditKey is the public half of one version of the key that signs checkpoints.
type AuditKey struct {
	Version   uint32 `json:"version" doc:"Of the audit key" example:"1"`
	ID        string `json:"id" doc:"As it begins a checkpoint's signature: the first four bytes of the SHA-256 of public_key, in hexadecimal" example:"4c1b8f02"`
	PublicKey []byte `json:"public_key" doc:"Base64 of the DER SubjectPublicKeyInfo, P-256"`
}

// AuditKeysAnswer lists them (GET /v1/audit/keys).
type AuditKeysAnswer struct {
	Keys []AuditKey `json:"keys" doc:"In the order of their versions"`
}

// Discrepancy is a place where the database is not what the audit logs say it must be, or where they contradict each other.
type Discrepancy struct {
	Serial string `json:"serial,omitempty" doc:"The token; none for the logs' own entries" example:"402519938466"`
	What   string `json:"what" enum:"record revision,next moving factor,state sequence,guess budget,live token,maker seed,logged twice,not logged,watermark went back,audit entry changed,audit entry missing,officers,proposal" doc:"Which value went back, or what became of an entry"`
	Node   string `json:"node,omitempty" doc:"In whose log the entry is, if one is meant" example:"node-1"`
	Logged uint64 `json:"logged" doc:"What the logs say it was; for an entry, its index; of writes that are not logged, the last one before them"`
	Stored uint64 `json:"stored" doc:"What is stored now; 0 when the row is missing; of writes that are not logged, the last one of them"`

	Proposal string `json:"proposal,omitempty" doc:"The officers' proposal, if one is meant"`
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
