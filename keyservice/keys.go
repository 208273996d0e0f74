package keyservice

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// KeyView is one version of a master key as officers see it.
type KeyView struct {
	Key        seed.KeyRef
	Status     KeyStatus // empty: the HSM has the key, and it was never in use
	KCV        []byte    // key check value; nothing about the key's value
	Since      time.Time // when it got the status; zero without one
	Present    bool      // the HSM of the answering node has it
	Dependents Dependents
	NotErased  string // of a destroyed version: why the HSM of the answering node still has it; empty if it has not
}

// Dependents says how many rows need a version of a master key to be read, or to be known for what the service wrote, by
// what they are: "token record", "guess budget" …
type Dependents map[string]int

// Total is the number of rows.
func (d Dependents) Total() (n int) {
	for _, of := range d {
		n += of
	}
	return n
}

// String lists them, as "3 token record, 1 guess budget".
func (d Dependents) String() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(d)) {
		parts = append(parts, fmt.Sprintf("%d %s", d[kind], kind))
	}
	return strings.Join(parts, ", ")
}

// Keys shows every version of every master key, with what depends on it. It reads the whole database as of one moment; one
// such scan runs at a time, else CodeBusy.
func (s *Service) Keys(ctx context.Context, c authz.Caller) ([]KeyView, error) {
	asked := func() (decision, error) { return decision{entry: audit.Entry{Outcome: audit.Done}}, nil }
	if err := s.asOfficer(ctx, c, authz.ReadKeys, asked); err != nil {
		return nil, err
	}
	if !s.scan.try() {
		return nil, &Error{Code: CodeBusy, Detail: "the database is being read as a whole already; one at a time"}
	}
	defer s.scan.done()
	found, err := s.census(ctx, counting{})
	if err != nil {
		return nil, hsmError(err)
	}
	views, err := s.keyViews(ctx, found)
	if err != nil {
		return nil, hsmError(err)
	}
	return views, nil
}

// keyViews joins the key ring, what the HSM has and what depends on it.
func (s *Service) keyViews(ctx context.Context, found census) ([]KeyView, error) {
	if err := s.findKeys(ctx); err != nil { // a key ceremony may have made some
		return nil, err
	}
	inHSM, err := s.HSM.Keys(ctx)
	if err != nil {
		return nil, err
	}
	views := map[seed.KeyRef]KeyView{}
	for _, v := range s.ring.Load().Versions {
		views[v.Key] = KeyView{
			Key: v.Key, Status: v.Status, KCV: v.KCV, Since: time.UnixMilli(v.Since).UTC(), NotErased: s.erasures.pending(v.Key),
		}
	}
	for _, m := range inHSM {
		v := views[m.Key]
		v.Key, v.KCV, v.Present = m.Key, m.KCV, true
		views[m.Key] = v
	}
	for key, dependents := range found.dependents {
		v := views[key]
		v.Key, v.Dependents = key, dependents
		views[key] = v
	}
	return slices.SortedFunc(maps.Values(views), func(a, b KeyView) int {
		return cmp.Or(cmp.Compare(a.Key.Label, b.Key.Label), cmp.Compare(a.Key.Version, b.Key.Version))
	}), nil
}

// kindsOfRows names the rows by how their keys begin. Those that are not named here are under the state MAC, like most.
var kindsOfRows = map[string]string{
	"t/": recordRow, "s/": stateRowName, "b/": "guess budget", "l/": "live token", "c/": "code", "i/": idempotencyRow,
	"h/": makerSeedRow, "w/": leaseRow, "k/": ringRow, "j/": rotationRow, "d/": restoredRow, "u/": feedRow, "q/": clearImportRow, "p/": proposalRow, "o/": officersRow, "f/": beginningRow, "e/": keptRow,
	string(audit.CheckpointPrefix): checkpointRow,
}

const (
	recordRow    = "token record"
	stateRowName = "token state"

	checkpointRow = "checkpoint"
)

// signedBy says which version of the audit key signed a node's newest checkpoint: whoever looks where that node's log ended
// needs its public half.
func signedBy(note []byte, origin string, signers []AuditKey) []seed.KeyRef {
	for _, k := range signers {
		if _, err := audit.OpenCheckpoint(note, origin, []audit.PublicKey{k.PublicKey}); err == nil {
			return []seed.KeyRef{{Label: auditLabel, Version: k.Version}}
		}
	}
	return nil
}

// The logs' own rows carry no seal and no state MAC: entries are under a key that no rotation changes, and checkpoints are
// signed.
var logRows = []string{string(audit.Prefix), string(audit.TreePrefix), string(audit.CheckpointPrefix)}

// dependsOn says what a row is, and which versions of master keys it needs. It does not check the row: one that was
// changed depends on what it says.
func dependsOn(it store.Item) (kind string, keys []seed.KeyRef, err error) {
	begins := string(it.Key[:min(2, len(it.Key))])
	if kind = kindsOfRows[begins]; kind == "" {
		kind = "other row"
	}
	e, err := store.Decode[envelope](it.Value)
	if err != nil {
		return kind, nil, err
	}
	if e.Seal != nil {
		keys = append(keys, e.Seal.Key)
	} else {
		keys = append(keys, seed.KeyRef{Label: sealLabel, Version: e.By})
	}
	within, err := bodyKeys(begins, it.Key, e.Body)
	return kind, append(keys, within...), err
}

// bodyKeys are the versions that a row's body names, and its key.
func bodyKeys(begins string, key store.Key, body []byte) ([]seed.KeyRef, error) {
	switch begins {
	case "t/":
		r, err := store.Decode[record](body)
		return r.keys(), err
	case "s/":
		st, err := store.Decode[state](body)
		return st.keys(), err
	case "i/":
		o, err := store.Decode[outcome](body)
		return []seed.KeyRef{o.Request.Key}, err
	case "k/":
		r, err := store.Decode[ring](body)
		return []seed.KeyRef{r.Host.Key}, err
	case "b/", "l/":
		lookup, err := lookupOf(begins, key)
		return []seed.KeyRef{lookup}, err
	}
	return nil, nil
}

var errNoPseudonym = errors.New("the row's key has no pseudonym")

// lookupOf reads from a row's key which version of the lookup key made the pseudonym in it.
func lookupOf(begins string, key store.Key) (seed.KeyRef, error) {
	rest := string(key[len(begins):])
	if begins == "l/" { // class and kind come first
		_, rest, _ = strings.Cut(rest, "/")
		_, rest, _ = strings.Cut(rest, "/")
	}
	if len(rest) < 4 {
		return seed.KeyRef{}, errNoPseudonym
	}
	return seed.KeyRef{Label: lookupLabel, Version: binary.BigEndian.Uint32([]byte(rest))}, nil
}
