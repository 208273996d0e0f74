package keyservice

import (
	"time"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// Status of a token: issued → pending → active ⇄ suspended → deactivated.
type Status string

// The statuses.
const (
	Issued      Status = "issued"      // its activation code waits for the customer
	Pending     Status = "pending"     // a device has the seed but has not proved it
	Active      Status = "active"      // its passwords are accepted
	Suspended   Status = "suspended"   // its passwords are refused for a while
	Deactivated Status = "deactivated" // for ever; its seed is gone
)

// record is everything of a token that is not state. On disk it is CBOR with these integer keys, core deterministic
// encoding, in an envelope with its HSM seal.
type record struct {
	Schema    uint8           `cbor:"0,keyasint"`
	Revision  uint64          `cbor:"1,keyasint"` // grows with every change of the record; the state row repeats it
	Serial    string          `cbor:"2,keyasint"`
	Class     string          `cbor:"3,keyasint"` // card, account
	Channel   string          `cbor:"4,keyasint"` // app, pwa, hardware, sms
	Uses      []string        `cbor:"5,keyasint"`
	Status    Status          `cbor:"6,keyasint"`
	Subject   seed.MACed      `cbor:"7,keyasint"` // pseudonym; none of a deactivated token whose lookup key was rotated
	LastFour  seed.Encrypted  `cbor:"8,keyasint"` // the subject's last four characters
	Salt      []byte          `cbor:"9,keyasint"` // of the subject's commitment in audit entries, 16 bytes
	Profile   string          `cbor:"10,keyasint"`
	Policy    otp.Policy      `cbor:"11,keyasint"`
	KeyPin    []byte          `cbor:"12,keyasint,omitempty"` // SHA-256 of the only device key, or maker's blob, allowed
	Code      *codeRecord     `cbor:"13,keyasint,omitempty"` // until the token is confirmed
	Device    *deviceRecord   `cbor:"14,keyasint,omitempty"` // from activation on
	Derive    *seed.KeyRef    `cbor:"15,keyasint,omitempty"` // the derivation master key of the seed
	Seed      *seed.Wrapped   `cbor:"16,keyasint,omitempty"` // until deactivation
	Delivery  []byte          `cbor:"17,keyasint,omitempty"` // the seed wrapped to the device, until it is confirmed
	CreatedAt int64           `cbor:"18,keyasint"`           // Unix milliseconds
	Guess     GuessLimits     `cbor:"19,keyasint"`           // throttling of the profile
	Mobile    *seed.Encrypted `cbor:"20,keyasint,omitempty"` // the customer's mobile number
	PIN       *seed.Encrypted `cbor:"21,keyasint,omitempty"` // digest of the customer's PIN, as the suite wants it
	Maker     *makerRecord    `cbor:"22,keyasint,omitempty"` // of hardware tokens, from activation on
}

// keys are the versions of master keys without which something of the record could not be read any more. Its seal's is not
// among them: it is made anew with every change. Nor is that which the seed was derived with: it is wrapped under another.
func (r record) keys() (keys []seed.KeyRef) {
	keys = append(keys, r.LastFour.Key)
	if r.Subject.Sum != nil {
		keys = append(keys, r.Subject.Key)
	}
	if r.Seed != nil {
		keys = append(keys, r.Seed.Key)
	}
	if r.Code != nil {
		keys = append(keys, r.Code.Key)
	}
	for _, e := range []*seed.Encrypted{r.Mobile, r.PIN} {
		if e != nil {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// keys are the same of the state; that of its MAC is not among them.
func (st state) keys() (keys []seed.KeyRef) {
	for _, ch := range st.Challenges {
		if ch.Transaction != nil {
			keys = append(keys, ch.Transaction.Key)
		}
	}
	if st.Answered != nil && st.Answered.Transaction != nil {
		keys = append(keys, st.Answered.Transaction.Key)
	}
	return keys
}

// kind of passwords the token makes; a subject has at most one live token per class and kind.
func (r record) kind() string { return kindOf(r.Channel) }

func kindOf(channel string) string {
	if channel == ChannelSMS {
		return KindSMS
	}
	return KindOffline
}

// codeRecord is an activation code without the code: what it takes to make it again in the HSM.
type codeRecord struct {
	ID        string      `cbor:"1,keyasint"`
	Nonce     []byte      `cbor:"2,keyasint"`
	Key       seed.KeyRef `cbor:"3,keyasint"`
	ExpiresAt int64       `cbor:"4,keyasint"` // Unix milliseconds
	Subject   []byte      `cbor:"5,keyasint"` // the pseudonym that it is bound to: the one of that time
}

// deviceRecord is the one device a token lives on. Hardware has no id but the token's serial.
type deviceRecord struct {
	ID        string `cbor:"1,keyasint"`
	KeySHA256 []byte `cbor:"2,keyasint"` // of its SubjectPublicKeyInfo, DER; of hardware, of the seed as its maker wrapped it
}

// state is the small part of a token that changes with each password. On disk it is CBOR with these integer keys under
// the state MAC.
type state struct {
	Schema    uint8         `cbor:"0,keyasint"`
	Revision  uint64        `cbor:"1,keyasint"` // of the record it belongs to
	Next      uint64        `cbor:"2,keyasint"` // lowest acceptable moving factor: the watermark plus one
	Drift     time.Duration `cbor:"3,keyasint"` // learnt clock drift of the device
	CodeTries int           `cbor:"4,keyasint"` // wrong activation codes so far
	Sequence  uint64        `cbor:"5,keyasint"` // grows with every change of the state

	Challenges []challenge `cbor:"6,keyasint,omitempty"` // SMS passwords that were asked for, oldest first; at most three
	Answered   *challenge  `cbor:"7,keyasint,omitempty"` // the one whose password was accepted last
	Asked      []ask       `cbor:"8,keyasint,omitempty"` // by whom they were asked for, and how often

	Astray int `cbor:"9,keyasint,omitempty"` // how many pairs of passwords must find its counter before it is known again
}

// challenge is an SMS password without the password: what it takes to make it again in the HSM.
type challenge struct {
	ID          string          `cbor:"1,keyasint"` // of its code, for the courier
	Use         string          `cbor:"2,keyasint"`
	Nonce       []byte          `cbor:"3,keyasint"`
	ExpiresAt   int64           `cbor:"4,keyasint"`           // Unix milliseconds
	Tries       int             `cbor:"5,keyasint"`           // wrong passwords while it waited
	Caller      string          `cbor:"6,keyasint"`           // who asked
	Transaction *seed.Encrypted `cbor:"7,keyasint,omitempty"` // what it is for, if it is bound …
	For         []byte          `cbor:"8,keyasint,omitempty"` // … and a keyed digest of that
	Subject     []byte          `cbor:"9,keyasint"`           // the pseudonym that it is bound to: the one of that time
}

// pointer is a row that names a token: the live token of a subject, or the token of a code.
type pointer struct {
	Schema uint8  `cbor:"0,keyasint"`
	Serial string `cbor:"1,keyasint"`
}

const schema = 1
