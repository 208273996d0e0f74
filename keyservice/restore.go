package keyservice

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/audit/archive"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A restored backup must not revive anything. Whatever was used or ended after it was taken stays used or ended: by the
// fence, for passwords that count time; by the entries of the archive, for everything else; and where entries are missing
// that a witness has seen, by suspending whatever they may have been about.
//
// Everything is looked at before anything is written. What is written is a new database, fenced until it is whole
// (store.Restoring): if it is cut short at any moment, nobody can serve from what is there, and a restore begins anew.

// RestoreParameters are the parameters of a proposal to restore.
type RestoreParameters struct {
	Anchor []Anchor `json:"anchor"` // of each node: the newest checkpoint that a witness has
	Backup string   `json:"backup"` // SHA-256 of the file, in hexadecimal
	Nodes  []string `json:"nodes"`  // all that wrote to the database until it was lost, as the officers know: see everyNode

	Without []string `json:"without,omitempty"` // versions of master keys that are gone: what needs them is given up, and they are destroyed for ever
}

// RestoreTarget is a database that nobody serves from, as transfer.Database.
type RestoreTarget interface {
	Name() string
	Fence(ctx context.Context) (store.Fence, error)
	SetFence(ctx context.Context, was, now store.Fence) error
	Count(ctx context.Context) (uint64, error)
	Logs(ctx context.Context) (map[string]uint64, error)
	Clear(ctx context.Context, under store.Fence) error
	Load(ctx context.Context, under store.Fence, rows []store.Put) error
	SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error
}

// Restore is what is restored, where to, and who wants it. Every field is required but Archive and Report.
type Restore struct {
	HSM                HSM // that of the installation, or one with the same keys
	File               io.ReaderAt
	Size               int64           // of the file
	Archive            *archive.Reader // the audit log's; nil: there is none
	Proposal, Approval approval.Signed // of two officers
	Persons            Persons         // whose signatures count
	Node               string          // that will serve: it writes the restore's entries to its log
	Into               RestoreTarget
	Clock              func() time.Time
	Report             func(done uint64) // is told how many rows were written, from time to time
}

// Restored is what a restore has done.
type Restored struct {
	Installation string
	Proposal     string      // id
	TakenAt      time.Time   // when the backup was taken
	Now          time.Time   // what the fence is counted from
	Complete     bool        // all entries up to the anchor are there
	Rows         uint64      // in the new database
	Entries      uint64      // of the archive, put back into their logs
	Tokens       int         // that were written anew
	Suspended    int         // … of which were suspended by the restore
	Gone         int         // tokens that lived when the log ended, and can make no password any more
	Unreadable   int         // tokens whose rows fail their check: they stand as they were
	Changed      []TokenFate // tokens that are not what they were, in no order
	Closed       []ClosedLog // logs that do not go on
}

// ClosedLog is a log of which signed entries are lost: a node must go on under another name.
type ClosedLog struct {
	Node    string `json:"node"`
	Entries uint64 `json:"entries"`          // that are there
	Signed  uint64 `json:"signed,omitempty"` // that a witness has seen; 0: nobody can say
}

// restoring is a restore under way.
type restoring struct {
	Restore
	service    *Service // without a store
	file       *backup.File
	digest     string        // SHA-256 of the file, in hexadecimal
	ring       ring          // as it will be
	missing    []seed.KeyRef // versions of the backup's ring that the HSM has no more
	before     restored
	officers   officers // as they will be
	parameters RestoreParameters
	proposal   approval.Proposal
	auditKeys  []audit.PublicKey

	logs     []*nodeLog
	replay   *replay
	now      time.Time
	complete bool

	out     *loading
	dropped map[store.Key]bool // rows of live tokens that ended
	guesses guessesAt
	parts   []audit.Part
	ended   []audit.Entry // about proposals that will not be carried out
	result  Restored
}

// Run restores. After an error nothing can be served from the target.
func (o Restore) Run(ctx context.Context) (Restored, error) {
	r := &restoring{
		Restore: o, replay: newReplay(), dropped: map[store.Key]bool{}, guesses: guessesAt{},
		service: &Service{Config: Config{
			HSM: o.HSM, Audit: audit.NewLog(o.Node), Node: o.Node, Clock: o.Clock, Log: slog.New(slog.DiscardHandler), Persons: o.Persons,
		}},
	}
	if err := r.look(ctx); err != nil {
		return Restored{}, err
	}
	if err := r.fill(ctx); err != nil {
		return Restored{}, err
	}
	return r.result, nil
}

// look finds out whether all this can and may be restored. It writes nothing.
func (r *restoring) look(ctx context.Context) error {
	steps := []func(context.Context) error{r.openFile, r.openKeys, r.openLast, r.approved, r.keysThere, r.findLogs, r.readLogs, r.officersNow, r.numberOfficers, r.keepAbsent, r.noneMissing}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return r.namely(err)
		}
	}
	return r.openLog()
}

// openFile reads all of the backup.
func (r *restoring) openFile(ctx context.Context) (err error) {
	if r.file, err = backup.OpenFile(ctx, r.File, r.Size, r.HSM); err != nil {
		return err
	}
	if _, err := r.file.Check(ctx); err != nil {
		return err
	}
	r.digest = hex.EncodeToString(r.file.Digest[:])
	return r.knownKinds(ctx)
}

// restoredKinds are the rows of the key service, and what becomes of them: those that are kept, and those that die. A row of
// another kind is of a later version, which alone knows what must not be revived.
var restoredKinds = map[string]bool{
	"a": true, "b": true, "c": false, "d": true, "e": true, "f": true, "h": true, "i": false, "j": true, "k": true, "l": true, "m": true, "n": true, "o": true,
	"p": true, "q": false, "s": true, "t": true, "u": true, "w": false,
}

func (r *restoring) knownKinds(ctx context.Context) error {
	return r.file.Each(ctx, "", func(row store.Put) error {
		kind, _, _ := strings.Cut(string(row.Key), "/")
		if _, known := restoredKinds[kind]; !known {
			return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("the backup has rows of a kind that this version does not know (%q): restore it with the version that took it", kind)}
		}
		return nil
	})
}

// openKeys takes the backup's key ring into use.
func (r *restoring) openKeys(ctx context.Context) error {
	if err := r.service.prepare(); err != nil {
		return err
	}
	row, err := r.row(ctx, ringKey)
	if err != nil {
		return err
	}
	was, err := r.service.unsealRing(ctx, row)
	if errors.Is(err, seed.ErrKeyNotFound) {
		r.missing = sealedUnder(row)
	}
	if err != nil {
		return err
	}
	if h := r.file.Header; was.Installation != h.Installation || was.Revision != h.Ring {
		return fmt.Errorf("%w: its key ring is not the one that its header tells of", backup.ErrDamaged)
	}
	have, err := r.HSM.Keys(ctx)
	if err != nil {
		return err
	}
	r.missing = was.lackedBy(have)
	if r.ring, err = r.service.adopt(was, have, r.Clock().UnixMilli()); err != nil {
		return err
	}
	if err := r.service.useRing(ctx, &keyring{ring: r.ring, version: 1}); err != nil {
		return err
	}
	r.auditKeys, err = r.service.PublicAuditKeys(ctx)
	return err
}

// openLast reads what an earlier restore has left.
func (r *restoring) openLast(ctx context.Context) error {
	row, err := r.row(ctx, restoredKey)
	if err == nil {
		r.before, err = r.service.openRestored(row)
	}
	return err
}

// approved looks whether two officers want this backup restored, with this anchor.
func (r *restoring) approved(ctx context.Context) error {
	row, err := r.row(ctx, officersKey)
	if err != nil {
		return err
	}
	o, err := unmac[officers](r.service, row, officersRow)
	if err != nil {
		return err
	}
	p, _, err := r.service.verifier().Approved(r.Proposal, r.Approval, r.service.rules(o, r.Clock()))
	if err != nil {
		return r.paperwork(err)
	}
	r.proposal, r.officers = p, o
	if p.Action != ActionRestore {
		return &Error{Code: CodeDocumentInvalid, Detail: "the officers have agreed on " + p.Action + ", not on a restore"}
	}
	if err := p.Into(&r.parameters); err != nil {
		return &Error{Code: CodeDocumentInvalid, Detail: "the parameters of a restore are anchor and backup", Err: err}
	}
	switch {
	case r.parameters.Backup != r.digest:
		return &Error{Code: CodeDocumentInvalid, Detail: "the officers have agreed on another backup: this file's SHA-256 is " + r.digest}
	case p.ExpiresAt.Sub(p.CreatedAt) > MaxRestoreLife:
		return &Error{Code: CodeDocumentInvalid, Detail: fmt.Sprintf("a proposal to restore may be good for %v at most: sign one with --expires 1h", MaxRestoreLife)}
	}
	return r.checkAnchors()
}

// paperwork is a refusal. What depends on the time depends on this machine's clock.
func (r *restoring) paperwork(err error) *Error {
	refusal := paperwork(err)
	if errors.Is(err, approval.ErrExpired) || errors.Is(err, approval.ErrNotYet) {
		refusal.Detail += ", by this machine's clock: " + r.Clock().UTC().Format(time.RFC3339)
	}
	return refusal
}

func (r *restoring) checkAnchors() error {
	named := map[string]bool{}
	for _, a := range r.parameters.Anchor {
		if named[a.Node] || store.CheckNode(a.Node) != nil || a.Size == 0 || a.Time.IsZero() {
			return &Error{Code: CodeDocumentInvalid, Detail: "an anchor names a node, once, a size that is not 0, and when it was signed"}
		}
		named[a.Node] = true
		if _, err := a.root(); err != nil {
			return err
		}
	}
	return nil
}

// readLogs reads what was decided after the backup, and holds all logs against their anchors.
func (r *restoring) readLogs(ctx context.Context) error {
	err := r.grow(ctx, func(node string, _ uint64, leaf []byte) error {
		e, err := audit.Decode(leaf)
		if err == nil && e.Node != node {
			err = fmt.Errorf("%w: it names another node", audit.ErrTampered)
		}
		if err == nil {
			r.replay.add(e)
		}
		return err
	})
	if err != nil {
		return err
	}
	r.complete = len(r.parameters.Nodes) > 0
	for _, l := range r.logs {
		r.complete = r.complete && (l.complete() || r.wasClosed(l))
	}
	r.replay.lose(r.complete)
	r.numberRing()
	latest := r.latestTime()
	if r.now, err = r.fromThen(latest); err != nil {
		return err
	}
	return r.notUsed(latest)
}

// numberRing gives the key ring a revision that no ring has had which the logs and their checkpoints tell of.
func (r *restoring) numberRing() {
	last := r.replay.ring
	for _, l := range r.logs {
		last = max(last, l.newest.Ring, l.stored.Ring)
	}
	r.ring.Revision = max(r.ring.Revision, last+1)
}

// wasClosed says whether an earlier restore has declared all that is missing of a log.
func (r *restoring) wasClosed(l *nodeLog) bool {
	c, closed := r.before.closed(l.node)
	return closed && (l.anchor == nil || l.anchor.Size <= max(c.Signed, c.Entries))
}

// openLog refuses to go on with a log that is closed.
func (r *restoring) openLog() error {
	_, closed := r.before.closed(r.Node)
	for _, l := range r.logs {
		closed = closed || l.node == r.Node && !l.complete()
	}
	if !closed {
		return nil
	}
	return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("the log of node %s cannot go on, for entries of it are lost or nobody can say where it ended: "+
		"give the node a new name in the configuration, or restore with the archive that has them", r.Node), Err: ErrLogClosed}
}

// fill makes the database.
func (r *restoring) fill(ctx context.Context) error {
	under, err := r.fence(ctx)
	if err != nil {
		return err
	}
	r.out = &loading{into: r.Into, under: under, told: r.Report}
	for _, step := range []func(context.Context) error{r.tokens, r.others, r.seeds, r.budgets, r.officersRow, r.laterProposals, r.entries} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := r.out.flush(ctx); err != nil {
		return err
	}
	if err := r.compare(ctx); err != nil {
		return err
	}
	return r.Into.SetFence(ctx, under, store.Fence{Own: under.Own})
}

// fence keeps nodes out of the database while it is filled. Only an empty one will do, or what an earlier restore has left.
func (r *restoring) fence(ctx context.Context) (store.Fence, error) {
	was, err := r.Into.Fence(ctx)
	if err != nil {
		return was, err
	}
	rows, err := r.Into.Count(ctx)
	if err != nil {
		return was, err
	}
	logs, err := r.Into.Logs(ctx)
	if err != nil {
		return was, err
	}
	used := rows > 0 || len(logs) > 0
	switch {
	case was.State == store.Restoring:
	case was.State == store.Serving && !used, was.State == store.Abandoned && was.Peer == (store.ID{}) && !used:
	case was.State == store.Serving:
		return was, &Error{Code: CodeInvalid, Detail: r.Into.Name() + " holds a database already: name an empty one"}
	default:
		return was, &Error{Code: CodeInvalid, Detail: r.Into.Name() + ": " + was.String()}
	}
	now := store.Fence{Own: was.Own, State: store.Restoring, Where: "a backup of " + time.UnixMilli(r.file.Header.Time).UTC().Format(time.RFC3339), Run: store.NewID()}
	if now.Own == (store.ID{}) {
		now.Own = store.NewID()
	}
	if err := r.Into.SetFence(ctx, was, now); err != nil || !used {
		return now, err
	}
	return now, r.Into.Clear(ctx, now)
}

// compare looks whether all is there that was written.
func (r *restoring) compare(ctx context.Context) error {
	rows, err := r.Into.Count(ctx)
	if err != nil {
		return err
	}
	if rows != r.out.rows {
		return fmt.Errorf("%s has %d rows, and %d were written: run the same command again, and look at its disk if it happens again", r.Into.Name(), rows, r.out.rows)
	}
	r.result.Rows = rows
	return nil
}
