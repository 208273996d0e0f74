package keyservice

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"slices"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// notInThisPass are the rows that the pass over rows leaves out: those of tokens come before, the key ring after. The logs'
// rows are never written again: entries are under a key that no rotation changes, and a checkpoint under an older version of
// the audit key gives way to the node's next one.
var notInThisPass = append([]string{"t/", "s/", "k/"}, logRows...)

// rows renews the next rows after the cursor that need it: those whose MAC is under another version of the seal key than the
// active one get it anew; and of the guess budgets under another version of the lookup key than the active one, those go
// that nobody needs. The others stay until their subject is seen.
func (r *renewal) rows(ctx context.Context) (int, error) {
	old, last, err := r.oldRows(ctx)
	if err != nil {
		return 0, err
	}
	if len(old) == 0 {
		return r.next(stageRing), nil
	}
	before := r.fresh
	err = r.under(ctx, func() (decision, error) { return r.rowsRenewed(ctx, old) })
	if hopeless(err) { // one of them; so each for itself
		for _, key := range old {
			err = r.under(ctx, func() (decision, error) { return r.rowsRenewed(ctx, []store.Key{key}) })
			if err = r.noted(ctx, nameOf(key), 1, err); err != nil {
				return 0, err
			}
		}
	} else if err = r.noted(ctx, "", len(old), err); err != nil {
		return 0, err
	}
	r.row.Cursor = []byte(last)
	return max(r.fresh-before, 1), nil
}

// nameOf names a row in a report, without anything of a customer.
func nameOf(key store.Key) string {
	if kind := kindsOfRows[string(key[:min(2, len(key))])]; kind != "" {
		return kind
	}
	return "other row"
}

// oldRows finds rows that need renewal, and where it stopped.
func (r *renewal) oldRows(ctx context.Context) (old []store.Key, last store.Key, err error) {
	snap, err := r.Store.Snapshot(ctx)
	if err != nil {
		return nil, "", storeError(err)
	}
	defer snap.Close()
	from := store.Key("")
	if r.row.Cursor != nil {
		from = store.Key(r.row.Cursor) + "\x00"
	}
	err = scanBut(ctx, snap, notInThisPass, from, func(it store.Item) error {
		if last = it.Key; r.isOld(it) {
			old = append(old, it.Key)
		}
		if len(old) == r.chunk() {
			return errChunkFull
		}
		return nil
	})
	if err != nil && !errors.Is(err, errChunkFull) {
		return nil, "", storeError(err)
	}
	return old, last, nil
}

// scanBut scans all rows but those that begin like these; it does not read through them.
func scanBut(ctx context.Context, snap store.Snapshot, without []string, from store.Key, fn func(store.Item) error) error {
	errJump := errors.New("jump")
	for {
		err := snap.Scan(ctx, "", from, func(it store.Item) error {
			begins := string(it.Key[:min(2, len(it.Key))])
			if slices.Contains(without, begins) {
				from = store.Key(begins[:1] + "0") // "0" follows "/"
				return errJump
			}
			return fn(it)
		})
		if !errors.Is(err, errJump) {
			return err
		}
	}
}

// isOld says whether there is something to do for a row.
func (s *Service) isOld(it store.Item) bool {
	e, err := store.Decode[envelope](it.Value)
	ring := s.ring.Load()
	return err == nil && e.Seal == nil && (e.By != ring.sealing || namedOld(ring, it.Key))
}

// namedOld says whether a row is a guess budget under an older version of the lookup key.
func namedOld(ring *keyring, key store.Key) bool {
	if len(key) < 6 || key[:2] != "b/" {
		return false
	}
	return binary.BigEndian.Uint32([]byte(key[2:6])) != ring.activeOf(lookupLabel).Version
}

// rowsRenewed makes the decision that renews these rows, as they are now.
func (s *Service) rowsRenewed(ctx context.Context, keys []store.Key) (decision, error) {
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return decision{}, storeError(err)
	}
	d := decision{entry: audit.Entry{Outcome: audit.Done, Detail: "row MACs"}}
	for _, it := range items {
		if it.Version == 0 || !s.isOld(it) {
			continue
		}
		if err := s.rowRenewed(ctx, it, &d); err != nil {
			return decision{}, err
		}
	}
	if len(d.change.Put)+len(d.change.Delete) == 0 {
		return decision{}, errNothingToRenew
	}
	return d, nil
}

func (s *Service) rowRenewed(ctx context.Context, it store.Item, d *decision) error {
	ring := s.ring.Load()
	row, err := s.remac(it)
	if err != nil {
		return err
	}
	require := requireItems([]store.Item{it})
	if namedOld(ring, it.Key) {
		unneeded, err := s.unneededBudget(ctx, it)
		if err != nil {
			return err
		}
		if unneeded != nil {
			d.change.Delete = append(d.change.Delete, it.Key)
			d.require(append(require, unneeded...))
			return nil
		}
	}
	if e, err := store.Decode[envelope](it.Value); err != nil || e.By == ring.sealing {
		return err
	}
	d.change.Put = append(d.change.Put, row)
	d.require(require)
	return nil
}

// require adds preconditions, each once.
func (d *decision) require(more []store.Require) {
	for _, r := range more {
		if !slices.ContainsFunc(d.change.Require, func(had store.Require) bool { return had.Key == r.Key }) {
			d.change.Require = append(d.change.Require, r)
		}
	}
}

// remac makes a row anew: the same body under the active MAC key. A row whose MAC is not right is *tampered.
func (s *Service) remac(it store.Item) (store.Put, error) {
	e, err := store.Decode[envelope](it.Value)
	if err != nil {
		return store.Put{}, &tampered{what: nameOf(it.Key), err: err}
	}
	bound, err := bind(it.Key, e.Body)
	if err != nil {
		return store.Put{}, err
	}
	by, err := s.stateKey(e.By)
	if err != nil {
		return store.Put{}, err
	}
	if !hmac.Equal(sum(by, bound), e.MAC) {
		return store.Put{}, &tampered{what: nameOf(it.Key), err: errors.New("the MAC is wrong")}
	}
	k := s.ring.Load()
	value, err := store.Encode(envelope{Body: e.Body, MAC: sum(k.state[k.sealing], bound), By: k.sealing})
	return store.Put{Key: it.Key, Value: value}, err
}

// unneededBudget returns the conditions under which a guess budget may go; none if it must stay. It may go when no live
// token is its subject's and it has no miss within the longest window there may be: then a new one would say the same.
func (s *Service) unneededBudget(ctx context.Context, it store.Item) ([]store.Require, error) {
	b, err := unmac[budget](s, it, "guess budget")
	if err != nil {
		return nil, err
	}
	if b.misses(GuessLimits{WindowDays: maxWindow}, s.Clock()) > 0 {
		return nil, nil //nolint:nilnil // nothing: it stays
	}
	of := nameIn(it.Key)
	var live []store.Key
	for _, class := range []string{ClassCard, ClassAccount} {
		live = append(live, liveKeys(class, of)...)
	}
	items, err := s.Store.Get(ctx, live...)
	if err != nil {
		return nil, storeError(err)
	}
	if slices.ContainsFunc(items, func(it store.Item) bool { return it.Version != 0 }) {
		return nil, nil //nolint:nilnil // nothing: it stays
	}
	return requireItems(items), nil
}

// nameIn reads the pseudonym in a guess budget's key.
func nameIn(key store.Key) seed.MACed {
	name := string(key[2:min(len(key), 2+4+pseudonymLength)])
	return seed.MACed{Key: seed.KeyRef{Label: lookupLabel, Version: binary.BigEndian.Uint32([]byte(name))}, Sum: []byte(name[4:])}
}

const pseudonymLength = 32

// ownRow brings the key ring itself under the active keys: its seal, and the host's key in it.
func (r *renewal) ownRow(ctx context.Context) error {
	err := r.under(ctx, func() (decision, error) { return r.ringRenewed(ctx) })
	if errors.Is(err, errNothingToRenew) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.followRing(ctx)
}

// ringRenewed makes the decision that writes the key ring anew.
func (s *Service) ringRenewed(ctx context.Context) (decision, error) {
	k := s.ring.Load()
	items, err := s.Store.Get(ctx, ringKey)
	if err != nil {
		return decision{}, storeError(err)
	}
	e, err := store.Decode[envelope](items[0].Value)
	if err != nil || e.Seal == nil {
		return decision{}, &tampered{what: ringRow, err: errors.Join(errors.New("no sealed envelope"), err)}
	}
	host := &k.Host
	if err := s.renewSecret(ctx, &host, []byte(hostKeyAAD)); err != nil {
		return decision{}, err
	}
	if e.Seal.Key == k.activeOf(sealLabel) && host == &k.Host {
		return decision{}, errNothingToRenew
	}
	return s.changedRing(ctx, k, func(r *ring) error {
		r.Host = *host
		return nil
	})
}
