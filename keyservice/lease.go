package keyservice

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// Work that nobody asked for is done by one node at a time, under a lease: a row that names its holder and until when, by
// the store's clock. Taking a lease, and each renewal, writes the row. What is done under it is committed on condition
// that the row is still the one that the holder wrote (its version is the fencing token) and that its time is not over,
// both checked in the commit's own transaction. So a node that was held up and lost its lease can write nothing under it.

// leaseTerm is how long a lease is good for. Whoever died holding one keeps its work waiting that long.
const leaseTerm = time.Minute

const takeLease authz.Action = "lease.take"

// errLeaseHeld: another node has the lease.
var errLeaseHeld = errors.New("another node does this work now")

// errLeaseLost: the lease ended, or another node took it, before the work was written.
var errLeaseLost = errors.New("the lease was lost: another node may be doing this work")

func leaseKey(job string) store.Key { return store.Key("w/" + job) }

const leaseRow = "lease" // as errors name it

// leased is the row of a lease. On disk it is CBOR with these integer keys under the state MAC.
type leased struct {
	Schema uint8  `cbor:"0,keyasint"`
	Holder string `cbor:"1,keyasint"` // the node
	Until  int64  `cbor:"2,keyasint"` // Unix milliseconds, the store's clock
	Takes  uint64 `cbor:"3,keyasint"` // how often it was taken or renewed
}

// lease is one that this node holds.
type lease struct {
	job   string
	row   leased
	token store.Require // the row as this node wrote it
	ring  *keyring      // that it was taken under
}

// until is when the lease ends by the store's clock.
func (l lease) until() time.Time { return time.UnixMilli(l.row.Until) }

// lease takes or renews the lease of a job; errLeaseHeld if another node has it. A node that was started anew takes its own
// over at once: two processes never write as one node.
func (s *Service) lease(ctx context.Context, job string) (lease, error) {
	items, err := s.Store.Get(ctx, leaseKey(job))
	if err != nil {
		return lease{}, storeError(err)
	}
	now, err := s.Store.Now(ctx)
	if err != nil {
		return lease{}, storeError(err)
	}
	l := lease{job: job}
	if l.ring, err = s.ringOf(ctx, items[0]); err != nil {
		return lease{}, err
	}
	if items[0].Version != 0 {
		if l.row, err = unmac[leased](s, items[0], leaseRow); err != nil {
			return lease{}, err
		}
	}
	if l.row.Holder != s.Node && now.Before(l.until()) {
		return lease{}, fmt.Errorf("%w: %s, until %v", errLeaseHeld, l.row.Holder, l.until().UTC())
	}
	l.row = leased{Schema: schema, Holder: s.Node, Until: now.Add(s.leaseTerm).UnixMilli(), Takes: l.row.Takes + 1}
	return s.writeLease(ctx, l, items[0])
}

// writeLease writes the row in place of the one that was read, and learns its version.
func (s *Service) writeLease(ctx context.Context, l lease, before store.Item) (lease, error) {
	row, err := s.mac(before.Key, l.row)
	if err != nil {
		return lease{}, err
	}
	d := decision{
		ring:   l.ring,
		change: store.Change{Require: requireItems([]store.Item{before}), Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Done, Reason: l.job},
	}
	if _, err := s.commit(ctx, itself, takeLease, d); err != nil {
		if errors.Is(err, store.ErrConflict) {
			err = fmt.Errorf("%w: it came first", errLeaseHeld)
		}
		return lease{}, err
	}
	items, err := s.Store.Get(ctx, row.Key)
	if err != nil {
		return lease{}, storeError(err)
	}
	now, err := unmac[leased](s, items[0], leaseRow)
	if err == nil && now != l.row {
		err = errLeaseLost
	}
	l.token = requireItems(items)[0]
	return l, err
}

// commitUnder makes a decision durable if the lease is still held then; else errLeaseLost, and nothing is written. The zero
// lease is none.
func (s *Service) commitUnder(ctx context.Context, l lease, a authz.Action, d decision) error {
	if l.job == "" {
		return errLeaseLost
	}
	if d.ring == nil {
		d.ring = l.ring
	}
	d.change.Require = append(d.change.Require, l.token)
	d.change.Until = l.until()
	_, err := s.commit(ctx, itself, a, d)
	if errors.Is(err, store.ErrConflict) {
		return errLeaseLost
	}
	return err
}
