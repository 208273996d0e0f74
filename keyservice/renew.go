package keyservice

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// The job of rotations. One node does it, under a lease, in passes over the whole database: every token, every other row,
// the key ring itself, and then a count of what still needs the old version. Each token is one commit on condition that the
// token is as it was, so that a verification at the same time makes the job look again, never the customer wait for
// more than one commit. A cursor is kept in the rotation's row: after a crash or restart, whichever node does the job goes
// on there, and what it sees twice needs nothing any more.
//
// The job leaves the others their latency in two ways. It renews at most Renewal.PerSecond tokens a second, a tenth of that
// at a time. And while its own commits, which share batches with those of the requests, take longer than
// Renewal.SlowCommit, it rests before the next tenth: at first as long as its commits take, then twice as long each time,
// up to maxRest.

const renewKeys authz.Action = "keys.renew"

const (
	rotationJob = "rotation"

	renewChunk   = 64              // tokens, or rows, that are looked at together, at most
	renewWorkers = 4               // tokens that are renewed at once
	saveEvery    = time.Second     // the cursor
	maxRest      = 5 * time.Second // while commits are slow
)

// renewal is a rotation that this node works on.
type renewal struct {
	*Service
	lease lease
	row   storedRotation
	limit Renewal
	saved time.Time     // when the cursor was
	rest  time.Duration // before the next chunk, because commits are slow

	mu    sync.Mutex // guards what follows
	took  time.Duration
	made  int // commits, which took this long together
	fresh int // renewed since the row was saved
}

// Renew works on the rotations that run until each is done, paused, or has to wait; it returns at once if there is none, or
// another node does it. It may be ended at any moment. An outage of the HSM or the database ends it with an error: the next
// call goes on.
func (s *Service) Renew(ctx context.Context) error {
	if err := s.followRing(ctx); err != nil {
		return hsmError(err)
	}
	if err := s.dropDestroyed(ctx); err != nil {
		return hsmError(err)
	}
	due, err := s.dueRotations(ctx)
	if err != nil || len(due) == 0 {
		return err
	}
	l, err := s.lease(ctx, rotationJob)
	if errors.Is(err, errLeaseHeld) {
		return nil
	}
	for i := 0; err == nil && i < len(due); i++ {
		r := &renewal{Service: s, lease: l, row: due[i], limit: s.Renewal.withDefaults()}
		err = r.run(ctx)
		l = r.lease
	}
	if errors.Is(err, errLeaseLost) || errors.Is(err, errLeaseHeld) {
		return nil // it goes on there
	}
	if err != nil {
		return s.failed(ctx, itself, renewKeys, "", err)
	}
	return nil
}

// followRing loads the key ring if it was changed. A node that decides nothing else keeps up with the others by it.
func (s *Service) followRing(ctx context.Context) error {
	ring := s.ring.Load()
	items, err := s.Store.Get(ctx, ringKey)
	if err != nil {
		return storeError(err)
	}
	if items[0].Version == ring.version {
		return nil
	}
	_, err = s.refreshRing(ctx, ring)
	return err
}

// dueRotations are those that there is something to do for.
func (s *Service) dueRotations(ctx context.Context) (due []storedRotation, err error) {
	now, err := s.latest(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.rotations(ctx)
	if err != nil {
		return nil, s.failed(ctx, itself, renewKeys, "", err)
	}
	for _, r := range all {
		waited := s.Clock().Sub(time.UnixMilli(r.SavedAt))
		if r.state(now) == RotationRunning || r.State == RotationWaiting && waited >= s.Renewal.withDefaults().Retry {
			due = append(due, r)
		}
	}
	return due, nil
}

// run works on one rotation until there is nothing to do for it now.
func (r *renewal) run(ctx context.Context) error {
	switch r.row.State {
	case RotationWaiting:
		r.row.rotation = r.row.again()
	case RotationPaused: // and the pause is over
		r.row.State = RotationRunning
	}
	for r.row.State == RotationRunning {
		if err := r.hold(ctx); err != nil {
			return err
		}
		begun := time.Now()
		n, err := r.step(ctx)
		if err == nil && (r.row.State != RotationRunning || n < 0 || time.Since(r.saved) >= saveEvery) {
			err = r.save(ctx)
		}
		if err == nil && n > 0 {
			err = r.pause(ctx, n, time.Since(begun))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hold renews the lease before it is over.
func (r *renewal) hold(ctx context.Context) (err error) {
	now, err := r.Store.Now(ctx)
	if err != nil {
		return storeError(err)
	}
	if r.lease.until().Sub(now) < r.leaseTerm/2 {
		r.lease, err = r.Service.lease(ctx, rotationJob)
	}
	return err
}

const stageEnded = -1

// step does one chunk of the stage, and says how many rows it renewed; stageEnded if another stage begins.
func (r *renewal) step(ctx context.Context) (renewed int, err error) {
	switch r.row.Stage {
	case stageTokens:
		return r.tokens(ctx)
	case stageRows:
		return r.rows(ctx)
	case stageRing:
		return r.next(stageCount), r.ownRow(ctx)
	}
	return stageEnded, r.count(ctx)
}

func (r *renewal) next(stage string) int {
	r.row.Stage, r.row.Cursor = stage, nil
	return stageEnded
}

// tokens renews the next tokens after the cursor.
func (r *renewal) tokens(ctx context.Context) (int, error) {
	if r.row.Cursor == nil {
		if err := r.countTokens(ctx); err != nil {
			return 0, err
		}
	}
	serials, seen, last, err := r.oldTokens(ctx)
	if err != nil {
		return 0, err
	}
	if seen == 0 {
		return r.next(stageRows), nil
	}
	before := r.fresh
	var workers errgroup.Group
	workers.SetLimit(renewWorkers)
	for _, serial := range serials {
		workers.Go(func() error { return r.token(ctx, serial) })
	}
	if err := workers.Wait(); err != nil {
		return 0, err
	}
	r.row.Seen += seen
	r.row.Cursor = []byte(last)
	return r.fresh - before, nil
}

// oldTokens looks at the next tokens after the cursor, and returns the serials of those that need renewal, how many it
// looked at, and the row of the last one.
func (r *renewal) oldTokens(ctx context.Context) (old []string, seen int, last store.Key, err error) {
	records, err := r.nextRecords(ctx)
	if err != nil || len(records) == 0 {
		return nil, 0, "", err
	}
	var keys []store.Key
	for _, it := range records {
		keys = append(keys, stateRowKey(serialOf(it)))
	}
	states, err := r.Store.Get(ctx, keys...)
	if err != nil {
		return nil, 0, "", storeError(err)
	}
	for i, it := range records {
		seen, last = i+1, it.Key
		if r.needsRenewal(it, states[i]) {
			if old = append(old, serialOf(it)); len(old) == r.chunk() {
				break
			}
		}
	}
	return old, seen, last, nil
}

func (r *renewal) nextRecords(ctx context.Context) (records []store.Item, err error) {
	prefix := recordKey("")
	from := prefix
	if r.row.Cursor != nil {
		from = store.Key(r.row.Cursor) + "\x00"
	}
	err = r.scanFrom(ctx, prefix, from, func(it store.Item) error {
		if records = append(records, it); len(records) == renewChunk {
			return errChunkFull
		}
		return nil
	})
	return records, err
}

func serialOf(it store.Item) string { return string(it.Key[len(recordKey("")):]) }

// needsRenewal says whether one of a token's rows names a version that is not active, or cannot be read.
func (s *Service) needsRenewal(rows ...store.Item) bool {
	ring := s.ring.Load()
	for _, it := range rows {
		_, keys, err := dependsOn(it)
		if err != nil || slices.ContainsFunc(keys, func(key seed.KeyRef) bool { return key != ring.activeOf(key.Label) }) {
			return true
		}
	}
	return false
}

// scanFrom calls fn for rows of a snapshot taken now, until fn has enough.
func (s *Service) scanFrom(ctx context.Context, prefix, from store.Key, fn func(store.Item) error) error {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return storeError(err)
	}
	defer snap.Close()
	if err = snap.Scan(ctx, prefix, from, fn); err != nil && !errors.Is(err, errChunkFull) {
		return storeError(err)
	}
	return nil
}

func (r *renewal) countTokens(ctx context.Context) error {
	r.row.Tokens, r.row.Seen = 0, 0
	err := r.scanFrom(ctx, recordKey(""), recordKey(""), func(store.Item) error { r.row.Tokens++; return nil })
	if err != nil {
		return err
	}
	return r.hold(ctx) // the scan may have taken longer than the lease
}

// token renews one token, or notes that it cannot be.
func (r *renewal) token(ctx context.Context, serial string) error {
	unlock, err := r.locks.lock(ctx, serial)
	if err != nil {
		return err
	}
	defer unlock()
	err = r.under(ctx, func() (decision, error) { return r.renewed(ctx, serial) })
	return r.noted(ctx, serial, 1, err)
}

// noted counts what became of n tokens or rows. What cannot be renewed is reported and does not stop the rest; an outage does.
func (r *renewal) noted(ctx context.Context, what string, n int, err error) error {
	if errors.Is(err, errNothingToRenew) {
		return nil
	}
	if err != nil && !hopeless(err) {
		return err
	}
	if isTampered(err) {
		serial := what
		if checkSerial(serial) != nil {
			serial = ""
		}
		if aerr := r.failed(ctx, itself, renewKeys, serial, err); CodeOf(aerr) != CodeTampered && CodeOf(aerr) != CodeKeyDestroyed {
			return aerr
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.fresh += n
		r.row.Renewed += n
		return nil
	}
	r.Log.WarnContext(ctx, "this cannot be brought to the active keys", "what", what, "rotation", r.row.id, "error", err)
	if r.row.Failures++; len(r.row.Failed) < maxFailedShown {
		r.row.Failed = append(r.row.Failed, what)
	}
	return nil
}

// under commits what decide makes under the lease, and decides again when something else came first.
func (r *renewal) under(ctx context.Context, decide func() (decision, error)) error {
	looked := false
	for range maxConflicts {
		ring := r.ring.Load()
		d, err := decide()
		if err != nil {
			if later, lerr := r.later(ctx, ring, err); lerr != nil || later {
				if lerr != nil {
					return lerr
				}
				continue
			}
			if isTampered(err) && !looked { // rows that were read one after another may not fit
				looked = true
				continue
			}
			return err
		}
		d.ring = ring
		begun := time.Now()
		if err = r.commitUnder(ctx, r.lease, renewKeys, d); !errors.Is(err, errLeaseLost) {
			r.measure(time.Since(begun))
			return err
		}
		if err := r.holds(ctx); err != nil {
			return err
		}
	}
	return &Error{Code: CodeBusy, Detail: "too many changes at once"}
}

// holds tells a lost lease from anything else that came first.
func (r *renewal) holds(ctx context.Context) error {
	items, err := r.Store.Get(ctx, r.lease.token.Key)
	if err != nil {
		return storeError(err)
	}
	now, err := r.Store.Now(ctx)
	if err != nil {
		return storeError(err)
	}
	if items[0].Version != r.lease.token.Version || !now.Before(r.lease.until()) {
		return errLeaseLost
	}
	return nil
}
