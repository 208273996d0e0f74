package keyservice

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// What was decided after a backup is known from the entries alone. They tell of every token its status, its watermark and
// its numbers, and of each guess whether it missed. They do not tell what else was written into its record: so what they
// cannot tell is not guessed at.

// replay is what entries after a backup say.
type replay struct {
	tokens  map[string]*tokenReplay
	seeds   map[store.Key]holder // makers' seeds that were given to a token: their rows
	control controlReplay
	ring    uint64 // the highest revision of the key ring
	latest  int64  // time of the latest one, Unix milliseconds
}

// tokenReplay is what they say of one token.
type tokenReplay struct {
	revision, state, next uint64 // the highest ones
	states                uint64 // how many entries tell of a new state: each has a number of its own
	status                Status // after the last entry that changes it …
	statusAt              uint64 // … which is of this revision; 0: none does
	activated             bool   // on a device, whose seed is not in the backup
	confirmed             bool
	pin, mobile           bool             // set to another one
	maker                 *audit.MakerSeed // that it was given
	unknown               string           // an action that changed the record in a way that its entry does not tell
	guesses               []guess
}

// guess is a change of a guess budget.
type guess struct {
	use    string
	number uint64 // sequence number of the budget, after
	missed bool   // else the run of misses ended
	at     time.Time
}

func newReplay() *replay {
	return &replay{tokens: map[string]*tokenReplay{}, seeds: map[store.Key]holder{}, control: controlReplay{proposals: map[string]*proposalReplay{}, restores: map[string]bool{}}}
}

// noneMissing looks whether the entries tell of every change of every token: changes are numbered, whichever node makes them.
// Where one is missing that no anchor tells of, so is the log of a node, and nobody knows what else it decided.
func (r *restoring) noneMissing(ctx context.Context) error {
	if !r.complete {
		return nil
	}
	return r.file.Range(ctx, stateRowKey(""), "", func(row store.Put) error {
		serial := strings.TrimPrefix(string(row.Key), string(stateRowKey("")))
		since := r.replay.tokens[serial]
		if since == nil || since.state == 0 {
			return nil
		}
		was, err := unmac[state](r.service, itemOf(row), "token state")
		if unreadable(err) || err == nil && was.Sequence+since.states == since.state {
			return nil
		}
		if err != nil {
			return err
		}
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("something was decided about token %s that no log tells of: that of a node is missing; "+
			"restore with its archive and anchor, or name it with `ramzban restore parameters --node`, and every token starts suspended", serial), Err: audit.ErrTampered}
	})
}

// add takes note of one entry. They may come in any order.
func (r *replay) add(e audit.Entry) {
	r.latest = max(r.latest, e.Time)
	r.control.add(e)
	if e.Serial == "" && e.Action != string(beginOfficers) && e.Action != ActionOfficers {
		r.ring = max(r.ring, e.Revision)
	}
	r.about(e)
	for _, p := range e.Also {
		r.about(audit.Entry{
			Serial: p.Serial, Revision: p.Revision, Next: p.Next, State: p.State, Action: e.Action, Outcome: e.Outcome, Time: e.Time,
		})
	}
}

func (r *replay) about(e audit.Entry) {
	if e.Serial == "" || e.Revision+e.State+e.Budget == 0 {
		return
	}
	t, known := r.tokens[e.Serial]
	if !known {
		t = &tokenReplay{}
		r.tokens[e.Serial] = t
	}
	t.revision, t.state, t.next = max(t.revision, e.Revision), max(t.state, e.State), max(t.next, e.Next)
	if e.State > 0 {
		t.states++
	}
	if e.Maker != nil {
		t.maker = e.Maker
		r.given(e.Serial, *e.Maker)
	}
	if e.Budget > 0 {
		t.guesses = append(t.guesses, guess{e.Use, e.Budget, e.Outcome == audit.Refused, time.UnixMilli(e.Time)})
	}
	if e.Revision > 0 {
		t.changed(authz.Action(e.Action), e.Revision)
	}
}

// changed takes note of a new revision of the record.
func (t *tokenReplay) changed(action authz.Action, revision uint64) {
	switch action {
	case authz.SuspendToken:
		t.becomes(Suspended, revision)
	case authz.ResumeToken:
		t.becomes(Active, revision)
	case authz.DeactivateToken, authz.RemoveToken, authz.EndSubject:
		t.becomes(Deactivated, revision)
	case authz.ConfirmToken:
		t.confirmed = true
		t.becomes(Active, revision)
	case authz.ActivateToken:
		t.activated = true
	case authz.SetPIN:
		t.pin = true
	case authz.SetMobile:
		t.mobile = true
	case renewKeys, moveSubject: // the same under other keys
	case authz.RenewCode, authz.IssueToken: // codes die, and tokens issued since are gone, whatever the entry says
	default:
		t.unknown = string(action)
	}
}

func (t *tokenReplay) becomes(status Status, revision uint64) {
	if revision > t.statusAt {
		t.status, t.statusAt = status, revision
	}
}

// fate is what becomes of a token.
type fate struct {
	token
	why  string // it is not what it was; empty if it is
	gone bool   // it can never make a password again, though it lived when the log ended
}

// Reasons why a token is not what it was.
const (
	fateSeedLost   = "activated after the backup: its seed is lost"
	fateUnfinished = "not yet activated, and what came after the backup is not known"
	fateUnknown    = "what came after the backup is not known"
	fateAstray     = "what came after the backup is not known: resynchronise it twice"
	fateNoPIN      = "its PIN was set after the backup: set it again"
	fateNoMobile   = "its mobile number was set after the backup: set it again"
)

// fateOf decides what a token of the backup becomes, by what entries say of it since (nil: nothing). complete: all entries
// are there; else it may have become anything. No password of a step before the fence is good afterwards.
func fateOf(t token, since *tokenReplay, complete bool, fence func(*token)) fate {
	if since == nil {
		since = &tokenReplay{}
	}
	f := fate{token: t}
	lived := t.Status != Deactivated
	f.replayed(since)
	if lived {
		f.bury(since)
	}
	if lived && !complete && f.Status != Deactivated {
		f.doubt()
	}
	if !complete && f.Maker != nil { // the device may have been used since, for another token, too
		f.state.Astray = astrayPairs
	}
	fence(&f.token)
	if f.Status == Deactivated && lived {
		f.forget()
	}
	return f
}

// replayed brings status and numbers up to what the entries say.
func (f *fate) replayed(since *tokenReplay) {
	f.Revision = max(f.Revision, since.revision)
	f.state.Sequence, f.state.Next = max(f.state.Sequence, since.state), max(f.state.Next, since.next)
	if since.statusAt > 0 {
		f.Status = since.status
	}
	if since.confirmed {
		f.token = f.confirmedAs(f.Status)
	}
	if since.maker != nil { // its device counts on from here, whoever has it next
		f.Maker = &makerRecord{Fingerprint: since.maker.Digest, Holder: since.maker.Holder}
	}
}

// confirmedAs is confirmed, of a token that may have become something else since.
func (t token) confirmedAs(status Status) token {
	t = t.confirmed()
	t.Status = status
	return t
}

// bury ends what cannot be told, or must not live: codes, challenges, secrets that were replaced.
func (f *fate) bury(since *tokenReplay) {
	f.state.Challenges, f.state.Answered = nil, nil
	if f.Code != nil {
		dead := *f.Code
		dead.ExpiresAt = 0
		f.Code = &dead
	}
	switch {
	case f.Status == Deactivated:
		return
	case f.Seed == nil && (since.activated || f.Status != Issued):
		f.Status, f.why, f.gone = Deactivated, fateSeedLost, true
		return
	case since.unknown != "":
		f.suspend("changed by " + since.unknown + " after the backup: look at it before it is resumed")
	}
	if since.pin {
		f.PIN = nil
		f.suspend(fateNoPIN)
	}
	if since.mobile {
		f.Mobile = nil
		f.suspend(fateNoMobile)
	}
}

// suspend lets an issuer look at the token before it is used again.
func (f *fate) suspend(why string) {
	if f.Status == Active {
		f.Status = Suspended
	}
	f.why = cmp.Or(f.why, why)
}

// doubt: the token may have ended since. One without a confirmed device has nothing that is worth keeping.
func (f *fate) doubt() {
	if f.Status == Issued || f.Status == Pending {
		f.Status, f.why, f.gone = Deactivated, fateUnfinished, true
		return
	}
	why := fateUnknown
	if f.Policy.Counted() {
		f.state.Astray, why = astrayPairs, fateAstray
	}
	f.suspend(why)
}

// later applies guesses to a budget: each miss counts, and none is forgiven but by a success. What an issuer forgave since is
// counted again: so the budget is no larger than it was.
func (b budget) later(all []guess) budget {
	slices.SortFunc(all, func(x, y guess) int { return cmp.Compare(x.number, y.number) })
	for _, g := range all {
		if g.number <= b.Sequence {
			continue
		}
		if g.missed {
			b = b.miss(g.at)
		} else {
			b = b.success()
		}
		b.Sequence = g.number
	}
	return b
}

// guessesAt gathers the guesses of all tokens by the rows of their budgets.
type guessesAt map[store.Key][]guess

func (g guessesAt) add(subject seed.MACed, all []guess) {
	for _, one := range all {
		key := budgetKey(subject, one.use)
		g[key] = append(g[key], one)
	}
}
