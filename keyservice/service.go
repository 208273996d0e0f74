// Package keyservice is Ramzban's use cases: issue a token, hand out its codes, activate it on a phone, confirm it, verify
// its passwords, have one sent by SMS, find it again when its clock went astray. Each use case authorises in its first
// line and writes its audit entry in the commit that changes the state, so that no transport can go round either. What one
// officer alone must not do (rotate a master key, change the officers …) is proposed, approved by another one, and carried
// out by CarryOut; execute.go says how an action is put under dual control.
//
// It must not know HTTP, PKCS#11 or a storage engine: it declares what it needs of an HSM and takes a store.Store.
package keyservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// Observer is told what was decided, for metrics. Its methods must not block.
type Observer interface {
	// Decided is called once per committed decision. outcome audit.Tampered is an alarm.
	Decided(action authz.Action, outcome audit.Outcome, reason string)
}

// Config is what a Service is made of. Every field is required but Persons and Observer.
type Config struct {
	HSM            HSM
	Store          store.Store        // its Sequencer is Audit.Sequence
	Audit          *audit.Log         // gets its key from the key ring
	Node           string             // this node's name in audit entries; that of Audit's log
	Profiles       map[string]Profile // by name
	Uses           []string           // the uses a token may be connected to
	FailedSubjects int                // different subjects one caller may fail for within an hour
	Guess          GuessLimits        // for subjects that have no token of the use, and for codes without a serial
	Clock          func() time.Time
	Log            *slog.Logger
	Persons        Persons  // whose signatures count for dual control; without it nothing can be proposed
	Renewal        Renewal  // how fast stored data is brought to the active keys
	Observer       Observer // may be nil
}

// Service carries out the use cases. It is safe for concurrent use.
type Service struct {
	Config
	ring      atomic.Pointer[keyring] // that decisions are taken under now
	reloading sync.Mutex              // held while the ring is loaded again
	lacks     lack                    // why it could not be
	locks     serialLocks
	failing   failingSubjects
	sealed    *lru.Cache[[sha256.Size]byte, struct{}] // rows whose HSM seal was found right, by digest of key and value
	subjects  *lru.Cache[string, seed.MACed]          // pseudonyms, by serial: a hint of what to read
	erasures  erasures                                // destroyed keys, and what this node's HSM says to that
	stalled   atomic.Bool                             // the last commit was not written: nothing is looked at before one is
	scan      turn                                    // of the one comparison or count that may run
	looks     looks                                   // counts for the sake of proposals
	backingUp sync.Mutex                              // held by the one backup that may be taken
	importing sync.Mutex                              // held by the one file of seeds in clear that may be imported
	receipts  chan struct{}                           // holds one for each receipt that is being signed
	leaseTerm time.Duration
	actions   map[string]executor // under dual control, by name
	approved  chan struct{}       // see Approved
	newest    seenRows            // of proposals, as far as this node knows
	officers  atomic.Uint64       // the highest revision of their row that this process knows of
	alarmed   sync.Map            // rows whose tampering was alarmed, by store.Require
	head      atomic.Uint64       // what is committed from now on has this index in this node's log or a higher one
}

// checkedSeals bounds the memory of rows whose seal was checked: about 150 bytes each. A row that fell out is checked
// again, which costs one HMAC.
const checkedSeals = 1 << 16

// maxConflicts is how often a decision is taken anew after another one came first. Locks make conflicts rare.
const maxConflicts = 16

// New checks the configuration, opens the key ring and finds the end of the audit log.
func New(ctx context.Context, c Config) (*Service, error) {
	if c.HSM == nil || c.Store == nil || c.Audit == nil || c.Clock == nil || c.Log == nil || c.Node == "" || len(c.Uses) == 0 || c.FailedSubjects < 1 {
		return nil, errors.New("keyservice: HSM, Store, Audit, Clock, Log, Node, Uses and FailedSubjects are required")
	}
	for name, p := range c.Profiles {
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("profile %q: %w", name, err)
		}
	}
	for _, use := range c.Uses {
		if use == "" || strings.Contains(use, "/") {
			return nil, fmt.Errorf("use %q is empty or has a slash", use) // a slash begins the names of our own budgets
		}
	}
	if err := c.Guess.Validate(); err != nil {
		return nil, fmt.Errorf("guess limits: %w", err)
	}
	s := &Service{Config: c, failing: failingSubjects{limit: c.FailedSubjects}, leaseTerm: leaseTerm}
	s.approved, s.actions = make(chan struct{}, 1), s.executors()
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.openRing(ctx); err != nil {
		return nil, fmt.Errorf("opening the key ring: %w", err)
	}
	if err := s.requireOpenLog(ctx); err != nil {
		return nil, err
	}
	if err := s.findHead(ctx); err != nil {
		return nil, fmt.Errorf("finding the end of the audit log: %w", err)
	}
	if err := s.beginOfficers(ctx); err != nil {
		return nil, fmt.Errorf("naming the first officers: %w", err)
	}
	return s, nil
}

// prepare makes the caches.
func (s *Service) prepare() (err error) {
	s.scan, s.receipts = newTurn(), make(chan struct{}, receiptsAtOnce)
	if s.sealed, err = lru.New[[sha256.Size]byte, struct{}](checkedSeals); err != nil {
		return fmt.Errorf("making the cache of checked seals: %w", err)
	}
	if s.subjects, err = lru.New[string, seed.MACed](rememberedSubjects); err != nil {
		return fmt.Errorf("making the cache of subjects: %w", err)
	}
	return nil
}

// findHead finds where this node's log goes on.
func (s *Service) findHead(ctx context.Context) error {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snap.Close()
	end, err := s.logEnd(ctx, snap, s.Node)
	if b, _, berr := s.beginningOf(ctx, s.Node); berr == nil {
		end = max(end, b.First) // all that was there may have been removed
	}
	s.head.Store(end)
	return err
}

// position is that of an entry of this node's log.
func (s *Service) position(index uint64) audit.Position {
	return audit.Position{Node: s.Node, Index: index}
}

// decision is what one use case wants to become durable: rows, and the entry that says why.
type decision struct {
	ring    *keyring // that the rows were made under; nil: whichever is in use, which only a decision without rows may leave open
	change  store.Change
	entry   audit.Entry
	refusal *Error // answered after the entry is durable; nil if the request was carried out

	unsettled bool // nothing was looked at, for now: a repeat under the same idempotency key is decided anew
}

// refuse makes a decision that changes nothing but the log.
func refuse(code Code, detail string) decision {
	return decision{entry: audit.Entry{Outcome: audit.Refused, Reason: string(code)}, refusal: &Error{Code: code, Detail: detail}}
}

// authorise is the first line of every use case. A denial is written to the log; if that fails, so does the call.
func (s *Service) authorise(ctx context.Context, c authz.Caller, a authz.Action, serial string) error {
	denied := authz.Check(c, a)
	if denied == nil {
		return nil
	}
	if checkSerial(serial) != nil {
		serial = "" // not a serial: it may be anything, so it does not go into the log
	}
	d := decision{entry: audit.Entry{Outcome: audit.Denied, Serial: serial}}
	if _, err := s.commit(ctx, c, a, d); err != nil {
		return err
	}
	return &Error{Code: CodeDenied, Detail: "this client's roles do not allow it", Err: denied}
}

// decide runs one use case until its decision is durable, and returns the index of its entry. A decision that lost a
// precondition to another one is taken anew from the store. A row without its seal is logged and alarmed.
func (s *Service) decide(ctx context.Context, c authz.Caller, a authz.Action, serial string, fn func() (decision, error)) (uint64, error) {
	if err := s.probe(ctx, c, a); err != nil {
		return 0, err
	}
	suspicious := false
	for range maxConflicts {
		ring := s.ring.Load()
		d, err := fn()
		if err != nil {
			later, lerr := s.later(ctx, ring, err)
			if lerr != nil {
				return 0, s.failed(ctx, c, a, serial, lerr)
			}
			if later || !suspicious && isTampered(err) { // rows that were read one after another may not fit: look again
				suspicious = isTampered(err)
				continue
			}
			return 0, s.failed(ctx, c, a, serial, err)
		}
		d.ring = ring
		if d.entry.Serial == "" {
			d.entry.Serial = serial
		}
		index, err := s.commit(ctx, c, a, d)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err == nil && d.refusal != nil {
			return index, d.refusal
		}
		return index, err
	}
	return 0, &Error{Code: CodeBusy, Detail: "too many requests for this token at once; try again"}
}

// commit makes one decision durable with its audit entry. A conflict is returned as it is.
func (s *Service) commit(ctx context.Context, c authz.Caller, a authz.Action, d decision) (uint64, error) {
	e := d.entry
	e.Time, e.Node, e.Actor, e.Action = s.Clock().UnixMilli(), s.Node, c.Name, string(a)
	e.RequestID = RequestID(ctx)
	body, err := audit.Encode(e)
	if err != nil {
		return 0, &Error{Code: CodeInternal, Detail: "the decision could not be logged, so it was not taken", Err: err}
	}
	d.change.Entry = body
	index, err := s.commitChange(ctx, d)
	if errors.Is(err, store.ErrConflict) {
		return 0, err
	}
	if err != nil {
		return 0, storeError(err)
	}
	s.raise(index)
	if s.Observer != nil {
		s.Observer.Decided(a, e.Outcome, e.Reason)
	}
	return index, nil
}

// commitChange hands a change to the store, on condition that the key ring is still the one it was made under. Where it
// is not, the one in use is loaded.
func (s *Service) commitChange(ctx context.Context, d decision) (index uint64, err error) {
	free := d.ring == nil
	if free && len(d.change.Put) > 0 {
		return 0, fmt.Errorf("%w: its rows were made under no key ring", store.ErrFailed)
	}
	if free {
		d.ring = s.ring.Load()
	}
	required := slices.Clip(d.change.Require)
	for range maxConflicts {
		d.change.Require = append(required, d.ring.require())
		index, err = s.Store.Commit(ctx, d.change)
		s.stalled.Store(errors.Is(err, store.ErrFailed))
		if !errors.Is(err, store.ErrConflict) || d.ring.version == 0 {
			return index, err
		}
		now, lerr := s.refreshRing(ctx, d.ring)
		if lerr != nil {
			return 0, hsmError(lerr)
		}
		if !free || now == d.ring {
			return 0, err
		}
		d.ring = now
	}
	return 0, err
}

// probe makes sure, once a commit has failed, that the store can write again before anything is looked at: what cannot be
// counted must not be evaluated, or a full disk would make guesses free.
func (s *Service) probe(ctx context.Context, c authz.Caller, a authz.Action) error {
	if !s.stalled.Load() {
		return nil
	}
	_, err := s.commit(ctx, c, a, decision{entry: audit.Entry{Outcome: audit.Resumed}})
	return err
}

// failed turns what stopped a use case into its answer. A tampered row, and one whose key was destroyed, is written to the
// log first.
func (s *Service) failed(ctx context.Context, c authz.Caller, a authz.Action, serial string, err error) error {
	var t *tampered
	if errors.As(err, &t) && t.serial != "" {
		serial = t.serial
	}
	explained := s.explainKey(err)
	d := decision{entry: audit.Entry{Outcome: audit.Refused, Reason: string(CodeOf(explained)), Serial: serial}}
	if CodeOf(explained) != CodeKeyDestroyed {
		if explained != err || t == nil {
			return hsmError(explained)
		}
		s.Log.ErrorContext(ctx, "a stored row does not carry its seal", "row", t.what, "serial", serial, "request_id", RequestID(ctx))
		d.entry.Outcome, d.entry.Reason = audit.Tampered, t.what
		explained = &Error{Code: CodeTampered, Detail: "this token's stored data was changed outside the service; it is refused until the bank has looked into it", Err: err}
	}
	if _, cerr := s.commit(ctx, c, a, d); cerr != nil {
		return cerr
	}
	return explained
}

func isTampered(err error) bool {
	var t *tampered
	return errors.As(err, &t)
}

// storeError names what the store could not do; errors that already have a code keep it.
func storeError(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, store.ErrUnknown):
		return &Error{Code: CodeOutcomeUnknown, Detail: "it is not known whether this was decided; the password may be used up", Err: err}
	case outOfTime(err):
		return tooLate(err)
	case errors.Is(err, store.ErrNoSpace):
		return &Error{Code: CodeStorageFull, Detail: "the database's disk is nearly full: nothing can be decided until there is space", Err: err}
	}
	return &Error{Code: CodeStorageUnavailable, Detail: "the database cannot be used: nothing was decided", Err: err}
}

// hsmError names what the HSM could not do; errors that already have a code keep it. A blob that the HSM refuses
// although its record's seal is right is a fault of the HSM or its keys, never a verdict.
func hsmError(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case outOfTime(err):
		return tooLate(err)
	case errors.Is(err, seed.ErrUnavailable), errors.Is(err, seed.ErrBadBlob), errors.Is(err, seed.ErrKeyNotFound):
		return &Error{Code: CodeHSMUnavailable, Detail: "the HSM cannot be used: nothing was decided", Err: err}
	}
	return &Error{Code: CodeInternal, Detail: "nothing was decided; the operator's log says why", Err: err}
}

func outOfTime(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func tooLate(err error) error {
	return &Error{Code: CodeBusy, Detail: "the request's time ran out before anything was decided; try again", Err: err}
}
