package wire

import "time"

// Key is one version of a master key.
type Key struct {
	Label      string      `json:"label" doc:"What it is for" example:"wrap"`
	Version    uint32      `json:"version" doc:"Counted from 1" example:"2"`
	Status     string      `json:"status" enum:"active,readable,retired,destroyed,unused" doc:"active: new things are made under it; readable: what is stored may name it; retired: nothing that names it is written any more; destroyed; unused: the HSM has it, and it was never in use"`
	KCV        string      `json:"kcv" doc:"Key check value, hexadecimal" example:"3f92c1"`
	Since      *time.Time  `json:"since,omitempty" doc:"When it got this status"`
	InHSM      bool        `json:"in_hsm" doc:"The HSM of the node that answers has it"`
	Dependents int         `json:"dependents" doc:"How many rows of the database depend on it" example:"50000"`
	Kinds      []KindOfRow `json:"kinds" doc:"Of those, how many of each kind"`
	NotErased  string      `json:"not_erased,omitempty" doc:"Of a destroyed version: why the HSM of the node that answers still has it; it is tried again"`
}

// KindOfRow says how many rows are of one kind.
type KindOfRow struct {
	Kind string `json:"kind" doc:"What the rows are" example:"token record"`
	Rows int    `json:"rows" doc:"How many" example:"50000"`
}

// KeysAnswer lists the master keys (GET /v1/keys).
type KeysAnswer struct {
	Keys []Key `json:"keys" doc:"By label and version"`
}

// Rotation is how far a rotation has come.
type Rotation struct {
	ID         string      `json:"id" doc:"That of the proposal" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	Label      string      `json:"label" doc:"Of the master key" example:"wrap"`
	From       uint32      `json:"from" doc:"The version that was active before" example:"1"`
	To         uint32      `json:"to" doc:"The version that is active in its place" example:"2"`
	Status     string      `json:"status" enum:"running,paused,waiting,done" doc:"waiting: all was renewed that can be; what is left is tried again after a while. done: nothing depends on the old version any more"`
	Stage      string      `json:"stage" enum:"tokens,rows,ring,count" doc:"What the pass is at: tokens, then all other rows, the key ring itself, and a count of what is left"`
	Tokens     int         `json:"tokens" doc:"How many there were when the pass began" example:"50000"`
	Seen       int         `json:"seen" doc:"Of those, how many the pass has looked at" example:"12800"`
	Renewed    int         `json:"renewed" doc:"Tokens and other rows that were renewed so far" example:"12800"`
	Failures   int         `json:"failures" doc:"Tokens and rows that cannot be renewed; they keep the rotation from being done" example:"0"`
	Failed     []string    `json:"failed" doc:"Serials of the first 100 of those tokens, or what the row is" example:"[]"`
	Left       int         `json:"left" doc:"How many rows depended on the old version when it was counted last" example:"0"`
	Kinds      []KindOfRow `json:"kinds" doc:"Of those, how many of each kind"`
	BegunAt    time.Time   `json:"begun_at" doc:"When the new version became active"`
	ProgressAt time.Time   `json:"progress_at" doc:"When this was written down"`
	EndedAt    *time.Time  `json:"ended_at,omitempty" doc:"When it was done"`

	PausedBy    string     `json:"paused_by,omitempty" doc:"Which officer paused it, if it is paused" example:"officer-1"`
	PauseEndsAt *time.Time `json:"pause_ends_at,omitempty" doc:"When it goes on by itself, if it is paused"`
}

// RotationsAnswer lists rotations (GET /v1/rotations).
type RotationsAnswer struct {
	Rotations []Rotation `json:"rotations" doc:"The newest first"`
	Damaged   []string   `json:"damaged" doc:"Rotations whose rows were changed outside the service, by id; empty where no id is left. They are alarmed, and not gone on with" example:"[]"`
}

// FeedRequest hands over customers, to be moved to the active version of the lookup key.
type FeedRequest struct {
	Subjects []FedSubject `json:"subjects" minItems:"1" maxItems:"500" doc:"At most 500"`
}

// FedSubject is one customer.
type FedSubject struct {
	Class   string `json:"class" enum:"card,account" doc:"What the subject is"`
	Subject string `json:"subject" minLength:"1" maxLength:"64" doc:"Card number or account id" example:"6037991234567893"`
}

// FeedAnswer says what became of them.
type FeedAnswer struct {
	Fed       int   `json:"fed" doc:"How many stand under the active version now, if anything is stored of them" example:"499"`
	Malformed []int `json:"malformed" doc:"Places in the list, from 0, of what is no card number or account id; the others were fed all the same" example:"[17]"`
}
