package keyservice

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// turn is whose turn it is to read the whole database: one reader of a node at a time.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// try takes the turn if nobody has it.
func (t turn) try() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// wait takes the turn when it is free, and calls alive as often until then.
func (t turn) wait(ctx context.Context, often time.Duration, alive func(context.Context) error) error {
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case t <- struct{}{}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := alive(ctx); err != nil {
				return err
			}
		}
	}
}

func (t turn) done() { <-t }

// counting says what a count of the whole database is for.
type counting struct {
	key   seed.KeyRef                 // the rows that depend on it are noted by their keys, and the unreadable ones …
	limit int                         // … at most so many
	alive func(context.Context) error // called now and then: who counts under a lease keeps it by this. nil: nobody does
}

// census is what a whole database depends on, as of one moment.
type census struct {
	dependents map[seed.KeyRef]Dependents
	rows       int         // that were read
	unreadable int         // rows of which nobody can say what they depend on
	noted      []store.Key // see counting
}

// of returns what depends on a version. Rows that cannot be read may depend on any.
func (c census) of(key seed.KeyRef) Dependents {
	all := maps.Clone(c.dependents[key])
	if c.unreadable > 0 {
		if all == nil {
			all = Dependents{}
		}
		all["damaged row"] += c.unreadable
	}
	return all
}

// census counts, in a snapshot taken now, the rows that depend on each version. Whoever calls it has the turn.
func (s *Service) census(ctx context.Context, how counting) (census, error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return census{}, storeError(err)
	}
	defer snap.Close()
	return s.countIn(ctx, snap, how)
}

// countedAsOf waits for its turn, counts what depends on the keys, and says as of which signed checkpoint of this node's log:
// the newest one of the same moment.
func (s *Service) countedAsOf(ctx context.Context, how counting) (found census, asOf string, err error) {
	if err := s.scan.wait(ctx, s.leaseTerm/4, how.alive); err != nil {
		return census{}, "", err
	}
	defer s.scan.done()
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return census{}, "", storeError(err)
	}
	defer snap.Close()
	signed, err := s.storedCheckpoint(ctx, snap, s.Node, nil)
	if err != nil {
		return census{}, "", err
	}
	asOf = "no checkpoint of " + s.Node + " was signed before"
	if signed.row.Version != 0 {
		asOf = fmt.Sprintf("as of checkpoint %d of %s, %s", signed.Tree.N, s.Node, signed.Tree.Hash)
	}
	found, err = s.countIn(ctx, snap, how)
	return found, asOf, err
}

func (s *Service) countIn(ctx context.Context, snap store.Snapshot, how counting) (census, error) {
	c := census{dependents: map[seed.KeyRef]Dependents{}}
	signers, err := s.versionedAuditKeys(ctx)
	if err != nil {
		return census{}, err
	}
	alive := s.nowAndThen(how.alive)
	err = scanBut(ctx, snap, []string{string(audit.Prefix), string(audit.TreePrefix)}, "", func(it store.Item) error {
		if node, is := strings.CutPrefix(string(it.Key), string(audit.CheckpointPrefix)); is {
			c.count(it.Key, checkpointRow, signedBy(it.Value, s.origin(node), signers), how)
		} else {
			c.add(it, how)
		}
		return alive(ctx)
	})
	if err != nil {
		return census{}, storeError(err)
	}
	return c, nil
}

// nowAndThen makes a call for each row one for each quarter of a lease's term, so that no count outlasts the lease that it is
// taken under: else several nodes would take it from each other, and begin to count again, for ever.
func (s *Service) nowAndThen(call func(context.Context) error) func(context.Context) error {
	if call == nil {
		return func(context.Context) error { return nil }
	}
	last := time.Now()
	return func(ctx context.Context) error {
		if time.Since(last) < s.leaseTerm/4 {
			return nil
		}
		last = time.Now()
		return call(ctx)
	}
}

// add counts one row.
func (c *census) add(it store.Item, how counting) {
	c.rows++
	kind, keys, err := dependsOn(it)
	if err == nil {
		c.count(it.Key, kind, keys, how)
		return
	}
	c.unreadable++
	c.note(it.Key, how)
}

// note keeps which row it was.
func (c *census) note(row store.Key, how counting) {
	if len(c.noted) < how.limit {
		c.noted = append(c.noted, row)
	}
}

// count counts a row that depends on these versions.
func (c *census) count(row store.Key, kind string, keys []seed.KeyRef, how counting) {
	if slices.Contains(keys, how.key) {
		c.note(row, how)
	}
	seen := map[seed.KeyRef]bool{}
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		if c.dependents[key] == nil {
			c.dependents[key] = Dependents{}
		}
		c.dependents[key][kind]++
	}
}
