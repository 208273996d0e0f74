package keyservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A rotation begins with a change of the key ring: from then on new things are made under another version of a master key,
// on every node, and the version before is readable. What was stored before is brought to the new version by a job (see
// renew.go), as far as it can be, while everything goes on. A rotation is done when a count of the whole database finds
// nothing any more that needs the old version. What that means for each label:
//
//   - wrap, data, seal: the job renews every token, and the MAC of every other row. Counters, drift, waiting codes and guess
//     budgets stay as they are.
//   - lookup: who only has the database cannot move a subject: it moves when it is seen next, or fed by officers (see
//     lookup.go). The job lets go what is of no more use: the pseudonym of tokens that have ended, and guess budgets
//     without a live token and without a miss in the longest window.
//   - digest: activation codes and idempotency rows name their version. They cannot be made anew; they go by themselves
//     within three days, and the rotation waits for that.
//   - derive: nothing stored needs the old version: a seed is at rest under the wrapping key, and is never derived again.
//   - audit: the next checkpoint of each node is signed by the new key; the rotation waits until that has been. Older
//     ones are checked with the old key's public half, which the export keeps.
//   - import: makers wrap to the new key from now on. A file that was wrapped to the old one needs it until it is imported.
//   - backup: the next backup is under the new key. Those made before need the old one as long as they are kept, and no
//     count finds them, because they are not in the database.

// RotationState says how far a rotation has come.
type RotationState string

// The states of a rotation.
const (
	RotationRunning RotationState = "running" // a node works on it
	RotationPaused  RotationState = "paused"  // by an officer
	RotationWaiting RotationState = "waiting" // all was renewed that can be; the rest is tried again after a while
	RotationDone    RotationState = "done"    // nothing needs the old version any more
)

// The stages of a pass.
const (
	stageTokens = "tokens"
	stageRows   = "rows"
	stageRing   = "ring"
	stageCount  = "count"
)

const rotationRows store.Key = "j/" // begins the keys of all of them

func rotationKey(id string) store.Key { return rotationRows + store.Key(id) }

const rotationRow = "rotation" // as errors name it

// rotation is the row of one. On disk it is CBOR with these integer keys under the state MAC.
type rotation struct {
	Schema   uint8         `cbor:"0,keyasint"`
	Label    string        `cbor:"1,keyasint"`
	From     uint32        `cbor:"2,keyasint"`
	To       uint32        `cbor:"3,keyasint"`
	State    RotationState `cbor:"4,keyasint"`
	Stage    string        `cbor:"5,keyasint"`           // of this pass
	Cursor   []byte        `cbor:"6,keyasint,omitempty"` // the key after which the stage goes on
	Tokens   int           `cbor:"7,keyasint"`           // when the pass began
	Seen     int           `cbor:"8,keyasint"`           // of those, in this pass
	Renewed  int           `cbor:"9,keyasint"`           // tokens and other rows, in all passes
	Failures int           `cbor:"10,keyasint"`          // tokens and rows that could not be renewed in this pass
	Failed   []string      `cbor:"11,keyasint,omitempty"`
	Left     Dependents    `cbor:"12,keyasint,omitempty"` // what needed the old version when it was counted last
	BegunAt  int64         `cbor:"13,keyasint"`           // Unix milliseconds, as are the others
	SavedAt  int64         `cbor:"14,keyasint"`
	EndedAt  int64         `cbor:"15,keyasint,omitempty"`
	Passes   int           `cbor:"16,keyasint,omitempty"` // that came to their end
	PausedBy string        `cbor:"17,keyasint,omitempty"` // who paused it last
	PauseEnd int64         `cbor:"18,keyasint,omitempty"` // of that pause
	Accepted int           `cbor:"19,keyasint,omitempty"` // damaged rows that may be left
}

// MaxPause is how long a rotation rests at most when it is paused; then it goes on by itself. Who paused it last cannot pause
// it again: so one officer alone delays a rotation by this much, and no more.
const MaxPause = 24 * time.Hour

// maxFailedShown is how many serials of tokens that cannot be renewed a rotation names.
const maxFailedShown = 100

func (r rotation) from() seed.KeyRef { return seed.KeyRef{Label: r.Label, Version: r.From} }
func (r rotation) to() seed.KeyRef   { return seed.KeyRef{Label: r.Label, Version: r.To} }

// again begins a pass.
func (r rotation) again() rotation {
	r.State, r.Stage, r.Cursor, r.Seen, r.Failures, r.Failed = RotationRunning, stageTokens, nil, 0, 0, nil
	return r
}

// RotationView is a rotation as officers see it; it holds no customer's data but serials.
type RotationView struct {
	ID       string
	From, To seed.KeyRef
	State    RotationState
	Stage    string // of the pass: "tokens", "rows", "ring" or "count"
	Tokens   int    // when the pass began
	Seen     int    // of those, in this pass
	Renewed  int    // tokens and other rows, so far
	Failures int    // tokens and rows that cannot be renewed
	Failed   []string
	Left     Dependents // what needed the old version when it was counted last; nil before
	BegunAt  time.Time
	SavedAt  time.Time
	EndedAt  time.Time // zero until it is done
	PausedBy string    // empty unless it is paused, and so is the next
	PauseEnd time.Time // when it goes on by itself
}

// rests says whether an officer's pause is not over yet.
func (r rotation) rests(now time.Time) bool {
	return r.State == RotationPaused && now.UnixMilli() < r.PauseEnd
}

// state is the rotation's at a time: a pause that is over is none.
func (r rotation) state(now time.Time) RotationState {
	if r.State == RotationPaused && !r.rests(now) {
		return RotationRunning
	}
	return r.State
}

func (r rotation) view(id string, now time.Time) RotationView {
	v := RotationView{
		ID: id, From: r.from(), To: r.to(), State: r.state(now), Stage: r.Stage, Tokens: r.Tokens, Seen: r.Seen, Renewed: r.Renewed,
		Failures: r.Failures, Failed: r.Failed, Left: r.Left, BegunAt: time.UnixMilli(r.BegunAt).UTC(), SavedAt: time.UnixMilli(r.SavedAt).UTC(),
	}
	if r.EndedAt != 0 {
		v.EndedAt = time.UnixMilli(r.EndedAt).UTC()
	}
	if r.rests(now) {
		v.PausedBy, v.PauseEnd = r.PausedBy, time.UnixMilli(r.PauseEnd).UTC()
	}
	return v
}

// progress says in words how far it has come, for the log.
func (r rotation) progress() string {
	what := fmt.Sprintf("%s/%d to %d %s", r.Label, r.From, r.To, r.State)
	if r.Stage == stageTokens {
		what += fmt.Sprintf(": %d of %d tokens seen", r.Seen, r.Tokens)
	}
	if len(r.Left) > 0 {
		what += "; left: " + r.Left.String()
	}
	return what
}

// storedRotation is a row as loaded.
type storedRotation struct {
	rotation
	id      string
	require store.Require
}

var rotationID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// loadRotation reads and checks one row.
func (s *Service) loadRotation(ctx context.Context, id string) (storedRotation, error) {
	unknown := &Error{Code: CodeRotationNotFound, Detail: "no rotation has this id"}
	if !rotationID.MatchString(id) {
		return storedRotation{}, unknown
	}
	items, err := s.Store.Get(ctx, rotationKey(id))
	if err != nil {
		return storedRotation{}, storeError(err)
	}
	if items[0].Version == 0 {
		return storedRotation{}, unknown
	}
	return s.openRotation(items[0])
}

func (s *Service) openRotation(it store.Item) (storedRotation, error) {
	row, err := unmac[rotation](s, it, rotationRow)
	if err == nil && row.Schema != schema {
		err = &tampered{what: rotationRow, err: errors.New("not a row of this version")}
	}
	id := strings.TrimPrefix(string(it.Key), string(rotationRows))
	return storedRotation{row, id, requireItems([]store.Item{it})[0]}, err
}

// writeRotation adds the row of a rotation to a decision that was made on it.
func (s *Service) writeRotation(r storedRotation, d *decision) error {
	r.Schema, r.SavedAt = schema, s.Clock().UnixMilli()
	row, err := s.mac(rotationKey(r.id), r.rotation)
	d.change.Require = append(d.change.Require, r.require)
	d.change.Put = append(d.change.Put, row)
	return err
}

// rotations are those whose rows can be read, the newest first. Of a row that cannot be, the service knows nothing: what it
// was to renew is found by counts, and another rotation renews it.
func (s *Service) rotations(ctx context.Context) ([]storedRotation, error) {
	all, _, err := s.readRotations(ctx)
	return all, err
}

// readRotations reads every row. One that was tampered with is alarmed once, and the others go on.
func (s *Service) readRotations(ctx context.Context) (all []storedRotation, damaged []string, err error) {
	items, err := s.rowsOf(ctx, rotationRows)
	if err != nil {
		return nil, nil, err
	}
	for _, it := range items {
		if _, err := s.ringOf(ctx, it); err != nil {
			return nil, nil, err
		}
		r, err := s.openRotation(it)
		if err == nil {
			all = append(all, r)
			continue
		}
		damaged = append(damaged, idIn(it.Key, rotationRows))
		if err := s.alarmOnce(ctx, renewKeys, it, err); err != nil {
			return nil, nil, err
		}
	}
	slices.SortFunc(all, func(a, b storedRotation) int {
		return cmp.Or(cmp.Compare(b.BegunAt, a.BegunAt), strings.Compare(a.id, b.id))
	})
	return all, damaged, nil
}

// RotationList is what there is of rotations.
type RotationList struct {
	Rotations []RotationView // the newest first
	Damaged   []string       // ids of rotations whose rows were changed outside the service; "" of what has no id any more
}

// Rotations shows every rotation.
func (s *Service) Rotations(ctx context.Context, c authz.Caller) (RotationList, error) {
	var list RotationList
	err := s.asOfficer(ctx, c, authz.ReadRotations, func() (decision, error) {
		now, err := s.latest(ctx)
		if err != nil {
			return decision{}, err
		}
		all, damaged, err := s.readRotations(ctx)
		list = RotationList{Rotations: []RotationView{}, Damaged: damaged}
		for _, r := range all {
			list.Rotations = append(list.Rotations, r.view(r.id, now))
		}
		return decision{entry: audit.Entry{Outcome: audit.Done}}, err
	})
	return list, err
}

// Rotation shows one of them.
func (s *Service) Rotation(ctx context.Context, c authz.Caller, id string) (RotationView, error) {
	return s.onRotation(ctx, c, authz.ReadRotations, id, func(*storedRotation, time.Time) *Error { return nil })
}

// PauseRotation lets the job rest until an officer resumes it, MaxPause at most. What is under way is finished. Asked again by
// the same officer while it rests, it changes nothing; by another one, the pause begins anew.
func (s *Service) PauseRotation(ctx context.Context, c authz.Caller, id string) (RotationView, error) {
	return s.onRotation(ctx, c, authz.PauseRotation, id, func(r *storedRotation, now time.Time) *Error {
		switch {
		case r.State == RotationDone:
			return &Error{Code: CodeTransition, Detail: "the rotation is done: there is nothing to pause"}
		case r.PausedBy == c.Name && r.rests(now):
			return nil
		case r.PausedBy == c.Name:
			return &Error{Code: CodeTransition, Detail: "you paused it last: only another officer can pause it again"}
		}
		r.State, r.PausedBy, r.PauseEnd = RotationPaused, c.Name, now.Add(MaxPause).UnixMilli()
		return nil
	})
}

// ResumeRotation lets the job go on where it was paused, or try at once what it waits to try again.
func (s *Service) ResumeRotation(ctx context.Context, c authz.Caller, id string) (RotationView, error) {
	return s.onRotation(ctx, c, authz.ResumeRotation, id, func(r *storedRotation, _ time.Time) *Error {
		switch r.State {
		case RotationDone:
			return &Error{Code: CodeTransition, Detail: "the rotation is done: there is nothing to resume"}
		case RotationWaiting:
			r.rotation = r.again()
		}
		r.State = RotationRunning
		return nil
	})
}

// onRotation shows one rotation to an officer, after fn changed it or said why not.
func (s *Service) onRotation(ctx context.Context, c authz.Caller, a authz.Action, id string, fn func(*storedRotation, time.Time) *Error) (RotationView, error) {
	var v RotationView
	err := s.asOfficer(ctx, c, a, func() (decision, error) {
		r, err := s.loadRotation(ctx, id)
		if CodeOf(err) == CodeRotationNotFound {
			return refuse(CodeRotationNotFound, "no rotation has this id"), nil
		}
		if err != nil {
			return decision{}, err
		}
		now, err := s.latest(ctx)
		if err != nil {
			return decision{}, err
		}
		before := r.rotation
		if refusal := fn(&r, now); refusal != nil {
			return refuse(refusal.Code, refusal.Detail), nil
		}
		v = r.view(r.id, now)
		d := decision{entry: audit.Entry{Outcome: audit.Done, Proposal: r.id}}
		if r.State == before.State && r.PausedBy == before.PausedBy {
			return d, nil
		}
		if r.rests(now) {
			d.entry.Detail = "until " + v.PauseEnd.Format(time.RFC3339) + " at most"
		}
		return d, s.writeRotation(r, &d)
	})
	if err != nil {
		return RotationView{}, err
	}
	return v, nil
}

// asOfficer authorises and decides, if the caller stands in the row of officers, too, and still does when it is decided: whom
// two officers have removed has nothing left of it but a role.
func (s *Service) asOfficer(ctx context.Context, c authz.Caller, a authz.Action, fn func() (decision, error)) error {
	if err := s.authorise(ctx, c, a, ""); err != nil {
		return err
	}
	_, err := s.decide(ctx, c, a, "", func() (decision, error) {
		o, officersNow, err := s.loadOfficers(ctx)
		if err != nil {
			return decision{}, err
		}
		if !slices.Contains(o.Names, c.Name) {
			return refuse(CodeNotOfficer, "this takes an officer of this installation, and you are not one of them"), nil
		}
		d, err := fn()
		d.change.Require = append(d.change.Require, officersNow)
		return d, err
	})
	return err
}
