// Package transfer moves a database to another one, of either engine, so that at no time two can be served from.
//
// It must not know any engine, nor what rows mean beyond the letter that says their kind.
//
// # Order
//
// The destination is fenced first (store.Filling, with the origin's identity), then the origin (store.Copying, with the
// destination's). Only then rows are read, so that nothing is written any more that the copy would lack. When all of the
// destination, read again, has the origin's digest, the destination is released (store.Serving), and then the origin's
// fence says where it went (store.Moved). Each of these steps is one durable write. Whatever was cut short is found out
// from the two fences, and Copy begins again or finishes.
//
// Every write names the fence that it is made under, which holds a number of this run's own: of two processes that copy
// between the same databases, the one that began last goes on.
//
// A copy can be given up as long as the destination is not released: see Abandon. Afterwards the way back is a copy in
// the other direction: a database that was moved to the one it is now filled from holds nothing that is not superseded.
package transfer

import (
	"context"
	"errors"
	"fmt"

	"ramzban/keyservice/store"
)

// Errors of Copy and Abandon, tested with errors.Is. Their messages say what to do.
var (
	// ErrRefused: one of the databases is not in a state in which this can be done. Nothing was changed in it.
	ErrRefused = errors.New("the copy is refused")
	// ErrDiffers: what is in the destination is not what was written there. It stays fenced.
	ErrDiffers = errors.New("the copy is not the same as its original")
)

// Database is one engine's database, opened for a copy.
type Database interface {
	// Name says where it is, on one line and without secrets.
	Name() string
	// Fence returns the fence as it is kept now.
	Fence(ctx context.Context) (store.Fence, error)
	// SetFence replaces the fence if it is still as it was, else it returns store.ErrConflict. With a fence that keeps
	// nodes out it also stops those that run: nothing is written by them after it has returned.
	SetFence(ctx context.Context, was, now store.Fence) error
	// Count returns how many rows there are.
	Count(ctx context.Context) (uint64, error)
	// Logs returns the index of the next change of each node's log.
	Logs(ctx context.Context) (map[string]uint64, error)
	// Snapshot is that of store.Store.
	Snapshot(ctx context.Context) (store.Snapshot, error)

	// These write if the fence is still as given, else they return store.ErrConflict. What was cut short may be there.

	// Clear removes all rows and logs.
	Clear(ctx context.Context, under store.Fence) error
	// Load writes rows that are not there yet: at most batchRows, and little more than batchBytes.
	Load(ctx context.Context, under store.Fence, rows []store.Put) error
	// SetLogs writes the logs of a cleared database.
	SetLogs(ctx context.Context, under store.Fence, next map[string]uint64) error
}

// Result is what Copy did.
type Result struct {
	Summary        // of both databases; empty if Already
	Already   bool // an earlier run had copied everything; at most the origin's fence was still to be set
	Restarted bool // what an earlier run had copied was cleared
}

// Copy moves from to to, or finishes that. After an error it can be run again with the same databases.
func Copy(ctx context.Context, from, to Database, report Report) (Result, error) {
	c := &copying{from: from, to: to, report: report}
	if err := c.identify(ctx); err != nil {
		return Result{}, err
	}
	finished, err := c.check(ctx)
	if err != nil {
		return Result{}, err
	}
	if finished {
		return Result{Already: true}, c.retire(ctx)
	}
	if err := c.fence(ctx); err != nil {
		return Result{}, err
	}
	result, err := c.copy(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := c.release(ctx); err != nil {
		return Result{}, err
	}
	return result, c.retire(ctx)
}

// copying is a copy in the making. origin and target are the fences as last read or set.
type copying struct {
	from, to       Database
	origin, target store.Fence
	report         Report
}

// identify reads the fences. The origin gets its identity, which shows whether both are the same database.
func (c *copying) identify(ctx context.Context) (err error) {
	if c.origin, err = c.from.Fence(ctx); err != nil {
		return err
	}
	if c.origin.State == store.Serving && c.origin.Own == (store.ID{}) {
		if err := requireContent(ctx, c.from); err != nil {
			return err
		}
		own := c.origin
		own.Own = store.NewID()
		if err := set(ctx, c.from, &c.origin, own); err != nil {
			return err
		}
	}
	if c.target, err = c.to.Fence(ctx); err != nil {
		return err
	}
	if c.origin.Own == c.target.Own {
		return refuse("%s cannot be copied to itself", c.from.Name())
	}
	return nil
}

func requireContent(ctx context.Context, d Database) error {
	empty, err := isEmpty(ctx, d)
	if err != nil {
		return err
	}
	if empty {
		return refuse("%s holds nothing to copy", d.Name())
	}
	return nil
}

func isEmpty(ctx context.Context, d Database) (bool, error) {
	rows, err := d.Count(ctx)
	if err != nil || rows > 0 {
		return false, err
	}
	logs, err := d.Logs(ctx)
	return len(logs) == 0, err
}

// check refuses unless the fences allow the copy. finished: the destination has been released already.
func (c *copying) check(ctx context.Context) (finished bool, err error) {
	switch c.origin.State {
	case store.Serving:
		return false, c.checkTarget(ctx)
	case store.Copying, store.Moved:
		if c.origin.Peer != c.target.Own {
			return false, c.elsewhere()
		}
	default:
		return false, refuse("%s is not whole: %s", c.from.Name(), c.origin)
	}
	switch {
	case c.target.State == store.Serving:
		return true, nil
	case c.begunFrom(c.origin.Own): // also if it was moved: a failover of the destination's server took the release back
		return false, nil
	}
	return false, refuse("%s: %s", c.to.Name(), c.target)
}

// elsewhere refuses an origin that was, or is being, copied to another destination.
func (c *copying) elsewhere() error {
	if c.origin.State == store.Moved {
		return refuse("%s was moved to %s: copy from the database that nodes serve from now", c.from.Name(), c.origin.Where)
	}
	return refuse("%s: %s", c.from.Name(), c.origin)
}

// checkTarget refuses a destination of which something would be lost, or that another copy is being made into.
func (c *copying) checkTarget(ctx context.Context) error {
	unused := c.target.State == store.Abandoned && c.target.Peer == (store.ID{})
	superseded := c.target.State == store.Moved && c.target.Peer == c.origin.Own
	switch {
	case unused, superseded, c.begunFrom(c.origin.Own):
		return nil
	case c.target.State == store.Moved:
		return refuse("%s was moved to %s, not to %s: name an empty destination, or copy to the one that it was moved to first",
			c.to.Name(), c.target.Where, c.from.Name())
	case c.target.State != store.Serving:
		return refuse("%s: %s", c.to.Name(), c.target)
	}
	empty, err := isEmpty(ctx, c.to)
	if err == nil && !empty {
		err = refuse("%s holds a database already: name an empty one", c.to.Name())
	}
	return err
}

// begunFrom tells whether the destination holds part of a copy from the database with this identity.
func (c *copying) begunFrom(origin store.ID) bool {
	return (c.target.State == store.Filling || c.target.State == store.Abandoned) && c.target.Peer == origin
}

// fence keeps nodes out of both databases, the destination first: a fenced origin's destination can always be found.
func (c *copying) fence(ctx context.Context) error {
	own := c.target.Own
	if own == (store.ID{}) {
		own = store.NewID()
	}
	run := store.NewID()
	filling := store.Fence{Own: own, State: store.Filling, Peer: c.origin.Own, Where: c.from.Name(), Run: run}
	if err := set(ctx, c.to, &c.target, filling); err != nil {
		return err
	}
	copying := store.Fence{Own: c.origin.Own, State: store.Copying, Peer: own, Where: c.to.Name(), Run: run}
	return set(ctx, c.from, &c.origin, copying)
}

// release lets nodes into the destination.
func (c *copying) release(ctx context.Context) error {
	return set(ctx, c.to, &c.target, store.Fence{Own: c.target.Own})
}

// retire says for good where the origin went.
func (c *copying) retire(ctx context.Context) error {
	if c.origin.State == store.Moved {
		return nil
	}
	return set(ctx, c.from, &c.origin, store.Fence{Own: c.origin.Own, State: store.Moved, Peer: c.target.Own, Where: c.to.Name()})
}

// set replaces a fence, and is what was read of it.
func set(ctx context.Context, d Database, was *store.Fence, now store.Fence) error {
	if err := d.SetFence(ctx, *was, now); err != nil {
		return failed(d, err)
	}
	*was = now
	return nil
}

// failed says of a lost fence what it means.
func failed(d Database, err error) error {
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%s: another copy was begun meanwhile: %w", d.Name(), err)
	}
	return fmt.Errorf("%s: %w", d.Name(), err)
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRefused}, args...)...)
}
