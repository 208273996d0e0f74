package keyservice

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// restoredParts is how many tokens one entry of a restore tells of: 1,000 take about 120 KiB.
const restoredParts = 1000

// TokenFate is a token that is not what it was.
type TokenFate struct {
	Serial string `json:"serial"`
	Status Status `json:"status"`
	Why    string `json:"why"`
}

// fenceAt raises the watermark of tokens that count time over every password that may have been accepted until now.
func fenceAt(now time.Time) func(*token) {
	return func(t *token) {
		if t.Policy.Counted() || t.Policy.Type == otp.SMS || t.Status == Deactivated {
			return
		}
		t.state.Next = max(t.state.Next, t.Policy.Fence(now))
	}
}

// tokens writes what has become of every token. Both kinds of rows come in the order of serials.
func (r *restoring) tokens(ctx context.Context) error {
	next, stop := iter.Pull2(r.rows(ctx, stateRowKey("")))
	defer stop()
	state, err, more := next()
	err = errors.Join(err, r.file.Range(ctx, recordKey(""), "", func(row store.Put) error {
		serial := strings.TrimPrefix(string(row.Key), string(recordKey("")))
		var own *store.Put
		for ; more && err == nil && state.Key <= stateRowKey(serial); state, err, more = next() {
			if state.Key == stateRowKey(serial) {
				one := state
				own = &one
				continue
			}
			if err := r.out.add(ctx, state); err != nil { // nobody's, as it was
				return err
			}
		}
		if err != nil {
			return err
		}
		return r.token(ctx, serial, row, own)
	}))
	for ; more && err == nil; state, err, more = next() {
		err = r.out.add(ctx, state)
	}
	return err
}

// rows are the rows of the backup with a prefix. An error is the last that comes.
func (r *restoring) rows(ctx context.Context, prefix store.Key) iter.Seq2[store.Put, error] {
	return func(yield func(store.Put, error) bool) {
		err := r.file.Range(ctx, prefix, "", func(row store.Put) error {
			if !yield(row, nil) {
				return errFound
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFound) {
			yield(store.Put{}, err)
		}
	}
}

// token writes one token. Rows that fail their check, or whose keys were destroyed, are written as they are: the service
// refuses them as it did before.
func (r *restoring) token(ctx context.Context, serial string, row store.Put, state *store.Put) error {
	since := r.replay.tokens[serial]
	delete(r.replay.tokens, serial) // who is left is gone
	t, err := r.open(ctx, row, state)
	if unreadable(err) {
		return r.asItIs(ctx, serial, "its rows fail their check, or their keys were destroyed", row, state)
	}
	if err != nil {
		return err
	}
	if since != nil {
		r.guesses.add(t.Subject, since.guesses)
	}
	f := fateOf(t, since, r.complete, fenceAt(r.now))
	d, err := r.service.save(ctx, f.token)
	if CodeOf(err) == CodeKeyRetired { // of its seed, or something else that only a live token needs
		f.Status, f.why, f.gone = Deactivated, "a key that it needs was destroyed", true
		f.forget()
		d, err = r.service.save(ctx, f.token)
	}
	switch {
	case CodeOf(err) == CodeKeyRetired:
		return r.asItIs(ctx, serial, "keys that its record needs were destroyed", row, state)
	case err != nil:
		return err
	case reflect.DeepEqual(f.token, t):
		return r.out.add(ctx, row, *state)
	}
	r.became(t, f)
	r.replay.found(serial, f.Maker)
	e := d.entry
	r.parts = append(r.parts, audit.Part{Serial: serial, Commitment: e.Commitment, Revision: e.Revision, Next: e.Next, State: e.State})
	return r.out.add(ctx, d.change.Put...)
}

// unreadable tells rows that cannot be trusted from an HSM that cannot be asked.
func unreadable(err error) bool {
	var tam *tampered
	var unknown *unknownKey
	return errors.As(err, &tam) || errors.As(err, &unknown)
}

// asItIs writes rows that nobody can read, and lists them.
func (r *restoring) asItIs(ctx context.Context, serial, why string, row store.Put, state *store.Put) error {
	r.result.Unreadable++
	r.result.Changed = append(r.result.Changed, TokenFate{Serial: serial, Why: why})
	if state == nil {
		return r.out.add(ctx, row)
	}
	return r.out.add(ctx, row, *state)
}

// open checks both rows of a token.
func (r *restoring) open(ctx context.Context, row store.Put, state *store.Put) (token, error) {
	record, err := r.service.unseal(ctx, itemOf(row), false)
	if err != nil {
		return token{}, err
	}
	if state == nil {
		return token{}, &tampered{what: "token state", err: errors.New("the row is missing")}
	}
	return r.service.tokenOf(record, itemOf(*state))
}

func itemOf(p store.Put) store.Item { return store.Item{Key: p.Key, Value: p.Value, Version: 1} }

// became takes note of what a token is now.
func (r *restoring) became(was token, f fate) {
	if f.Status == Deactivated && was.Status != Deactivated {
		r.dropped[liveKey(was.Class, was.kind(), was.Subject)] = true
	}
	r.result.Tokens++
	switch {
	case f.gone:
		r.result.Gone++
	case f.Status == Suspended && was.Status != Suspended:
		r.result.Suspended++
	}
	if f.why != "" {
		r.result.Changed = append(r.result.Changed, TokenFate{Serial: f.Serial, Status: f.Status, Why: f.why})
	}
}

// gone lists the tokens that only the entries know of.
func (r *restoring) gone() []string {
	var serials []string
	for serial, t := range r.replay.tokens {
		if t.revision+t.state > 0 {
			serials = append(serials, serial)
		}
	}
	slices.Sort(serials)
	for _, serial := range serials {
		r.result.Gone++
		r.result.Changed = append(r.result.Changed, TokenFate{Serial: serial, Why: "issued after the backup: it is not there any more"})
	}
	return serials
}

// budgets writes the budgets that were made after the backup.
func (r *restoring) budgets(ctx context.Context) error {
	for key, all := range r.guesses {
		if err := r.budget(ctx, store.Item{Key: key}, all); err != nil {
			return err
		}
	}
	return nil
}

// budget writes a guess budget with the guesses that came after the backup. One that fails its check stays as it is.
func (r *restoring) budget(ctx context.Context, it store.Item, all []guess) error {
	b := budget{Schema: schema}
	if it.Version != 0 {
		was, err := unmac[budget](r.service, it, "guess budget")
		if unreadable(err) {
			return r.out.add(ctx, store.Put{Key: it.Key, Value: it.Value})
		}
		if err != nil {
			return err
		}
		b = was
	}
	row, err := r.service.mac(it.Key, b.later(all))
	if err != nil {
		return err
	}
	return r.out.add(ctx, row)
}

// adopt takes the ring of a backup over to what the HSM has now. While the restore is at work, versions that the HSM lacks are
// as good as destroyed (see keepAbsent); those that were retired are needed again, for what is restored is under them. New
// things are made under the versions of the backup, or where those are gone under the highest.
func (s *Service) adopt(r ring, have []seed.MasterKey, now int64) (ring, error) {
	r = r.clone()
	byRef := map[seed.KeyRef]seed.MasterKey{}
	for _, k := range have {
		byRef[k.Key] = k
		if r.find(k.Key) == nil {
			r.Versions = append(r.Versions, keyVersion{Key: k.Key, Status: KeyReadable, KCV: k.KCV, Since: now})
		}
	}
	for i := range r.Versions {
		if err := r.Versions[i].adopt(byRef, now); err != nil {
			return ring{}, err
		}
	}
	slices.SortFunc(r.Versions, func(a, b keyVersion) int {
		return cmpKeys(a.Key, b.Key)
	})
	r.activate(now)
	r.Revision++
	return r, nil
}

func (v *keyVersion) adopt(have map[seed.KeyRef]seed.MasterKey, now int64) error {
	key, there := have[v.Key]
	switch {
	case !there && v.Status != KeyDestroyed:
		v.Status, v.Since = KeyDestroyed, now
	case there && v.Status == KeyDestroyed:
		return &Error{Code: CodeInvalid, Detail: v.Key.String() + " was destroyed when the backup was taken, and is in this HSM: use the installation's own HSM"}
	case there && !slices.Equal(v.KCV, key.KCV):
		return &Error{Code: CodeInvalid, Detail: v.Key.String() + " of this HSM is another key than the backup's: use the installation's own HSM"}
	case v.Status == KeyRetired:
		v.Status, v.Since = KeyReadable, now
	}
	return nil
}

// activate gives each label an active version.
func (r *ring) activate(now int64) {
	for i := range slices.Backward(r.Versions) {
		v := &r.Versions[i]
		if v.Status != KeyDestroyed && r.activeOf(v.Key.Label).Version == 0 {
			v.Status, v.Since = KeyActive, now
		}
	}
}

func cmpKeys(a, b seed.KeyRef) int {
	if c := strings.Compare(a.Label, b.Label); c != 0 {
		return c
	}
	return int(a.Version) - int(b.Version)
}
