package keyservice

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// The key ring is one row that says which versions of the master keys are in use, and how. Every commit requires the
// version of the row that it was decided under: a node that has not seen the last change of the ring writes nothing until
// it has, on no engine. So from the moment a change is durable nothing is written under a key that it forbids.

// KeyStatus is how a version of a master key may be used.
type KeyStatus string

// The statuses of a version, in the order of its life.
const (
	KeyActive    KeyStatus = "active"    // new things are made under it; one version of each label
	KeyReadable  KeyStatus = "readable"  // what is stored may name it, and may be written again as it is
	KeyRetired   KeyStatus = "retired"   // what is stored may name it, but nothing that does is written any more
	KeyDestroyed KeyStatus = "destroyed" // it is gone, and nothing named it then
)

const ringKey store.Key = "k/ring"

const ringPurpose = "key-ring"

const (
	ringRow                 = "key ring" // as errors name it
	beginRing  authz.Action = "keys.begin"
	hostKeyAAD              = "ramzban/host-key/1"
)

const hostKeyLength = 32

// ring is the row. On disk it is CBOR with these integer keys in an envelope with its HSM seal.
type ring struct {
	Schema       uint8          `cbor:"0,keyasint"`
	Revision     uint64         `cbor:"1,keyasint"` // grows with every change
	Installation string         `cbor:"2,keyasint"` // made when the database was: 16 hexadecimal digits
	Versions     []keyVersion   `cbor:"3,keyasint"` // in the order of labels and versions
	Host         seed.Encrypted `cbor:"4,keyasint"` // a random key that the host holds: see keyring
}

// keyVersion is one version of a master key.
type keyVersion struct {
	Key    seed.KeyRef `cbor:"1,keyasint"`
	Status KeyStatus   `cbor:"2,keyasint"`
	KCV    []byte      `cbor:"3,keyasint"`
	Since  int64       `cbor:"4,keyasint"`           // Unix milliseconds, when it got this status
	Public []byte      `cbor:"5,keyasint,omitempty"` // DER SubjectPublicKeyInfo of a key pair: it outlives the key
}

// find returns a version; nil if the ring does not know it.
func (r *ring) find(key seed.KeyRef) *keyVersion {
	for i := range r.Versions {
		if r.Versions[i].Key == key {
			return &r.Versions[i]
		}
	}
	return nil
}

// active returns the versions under which new things are made, one of each label.
func (r *ring) active() (refs []seed.KeyRef) {
	for _, v := range r.Versions {
		if v.Status == KeyActive {
			refs = append(refs, v.Key)
		}
	}
	return refs
}

// activeOf returns the version of a label under which new things are made.
func (r *ring) activeOf(label string) seed.KeyRef {
	for _, v := range r.Versions {
		if v.Key.Label == label && v.Status == KeyActive {
			return v.Key
		}
	}
	return seed.KeyRef{}
}

// older returns the versions of a label that are no longer active, but under which things may stand; the newest first.
func (r *ring) older(label string) (refs []seed.KeyRef) {
	for _, v := range slices.Backward(r.Versions) {
		if v.Key.Label == label && v.Status == KeyReadable {
			refs = append(refs, v.Key)
		}
	}
	return refs
}

// clone returns a copy that shares nothing which a change may change.
func (r *ring) clone() ring {
	c := *r
	c.Versions = slices.Clone(r.Versions)
	return c
}

// keyring is the ring as loaded, with what the host holds.
type keyring struct {
	ring
	version store.Version     // of the row
	state   map[uint32][]byte // keys of the state MAC, by the version of the seal key that makes each
	host    []byte            // digests that are compared over the years, such as those of idempotency keys, are made with it
	sealing uint32            // the active version of the seal key
}

func (k *keyring) require() store.Require { return store.Require{Key: ringKey, Version: k.version} }

// digest makes a keyed digest that no rotation changes.
func (k *keyring) digest(in []byte) []byte { return sum(k.host, in) }

func sum(key, in []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(in)
	return m.Sum(nil)
}

// writable says why nothing that names this version may be written; nil if it may.
func (k *keyring) writable(key seed.KeyRef) error {
	switch v := k.find(key); {
	case v == nil:
		return fmt.Errorf("%w: %s is not in the key ring", seed.ErrKeyNotFound, key)
	case v.Status == KeyRetired, v.Status == KeyDestroyed:
		return &Error{Code: CodeKeyRetired, Detail: fmt.Sprintf("%s is %s: what is under it cannot be written again before it is moved to another version", key, v.Status)}
	}
	return nil
}

// allWritable is writable for several.
func (k *keyring) allWritable(keys []seed.KeyRef) error {
	for _, key := range keys {
		if err := k.writable(key); err != nil {
			return err
		}
	}
	return nil
}

// openRing loads the key ring, and makes it where there is nothing yet.
func (s *Service) openRing(ctx context.Context) error {
	for range maxConflicts {
		k, err := s.loadRing(ctx)
		if err != nil {
			return err
		}
		if k != nil {
			if err := s.newestRing(ctx, &k.ring); err != nil {
				return err
			}
			return s.useRing(ctx, k)
		}
		if err := s.makeRing(ctx); err == nil || !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return errors.New("the key ring is made and removed again by others")
}

// loadRing reads and checks the row; nil if there is none.
func (s *Service) loadRing(ctx context.Context) (*keyring, error) {
	items, err := s.Store.Get(ctx, ringKey)
	if err != nil {
		return nil, storeError(err)
	}
	if items[0].Version == 0 {
		return nil, nil //nolint:nilnil // absent, which is no error before the first commit
	}
	k := &keyring{version: items[0].Version}
	if k.ring, err = s.unsealRing(ctx, items[0]); err != nil {
		return nil, err
	}
	return k, nil
}

func (s *Service) unsealRing(ctx context.Context, it store.Item) (ring, error) {
	e, err := store.Decode[envelope](it.Value)
	if err != nil || e.Seal == nil {
		return ring{}, &tampered{what: ringRow, err: errors.Join(errors.New("no sealed envelope"), err)}
	}
	bound, err := bind(it.Key, e.Body)
	if err != nil {
		return ring{}, err
	}
	err = s.HSM.CheckSeal(ctx, ringPurpose, bound, *e.Seal)
	if errors.Is(err, seed.ErrKeyNotFound) { // made under a version that this node's HSM did not have at its start
		if err := s.findKeys(ctx); err != nil {
			return ring{}, err
		}
		if err = s.HSM.CheckSeal(ctx, ringPurpose, bound, *e.Seal); errors.Is(err, seed.ErrKeyNotFound) {
			err = lacking(err, e.Seal.Key)
		}
	}
	if errors.Is(err, seed.ErrBadSeal) {
		return ring{}, &tampered{what: ringRow, err: err}
	}
	if err != nil {
		return ring{}, err
	}
	r, err := store.Decode[ring](e.Body)
	if err != nil || r.Schema != schema {
		return ring{}, &tampered{what: ringRow, err: errors.Join(errors.New("not a key ring of this version"), err)}
	}
	return r, nil
}

// sealRing makes the row.
func (s *Service) sealRing(ctx context.Context, r ring) (store.Put, error) {
	r.Schema = schema
	body, bound, err := encodeBody(ringKey, r)
	if err != nil {
		return store.Put{}, err
	}
	sealed, err := s.HSM.Seal(ctx, ringPurpose, bound)
	if err != nil {
		return store.Put{}, err
	}
	value, err := store.Encode(envelope{Body: body, Seal: &sealed})
	return store.Put{Key: ringKey, Value: value}, err
}

// useRing makes a loaded ring the one that decisions are taken under. The HSM is told first, so that whoever sees the new
// ring makes nothing under an old version; who still sees the old ring makes what its commit will refuse.
func (s *Service) useRing(ctx context.Context, k *keyring) error {
	if err := s.useVersions(ctx, k.active()); err != nil {
		return err
	}
	if err := s.sameKeys(ctx, &k.ring); err != nil {
		return err
	}
	k.state = map[uint32][]byte{}
	for _, v := range k.Versions {
		if v.Key.Label != sealLabel || v.Status == KeyDestroyed {
			continue
		}
		key, err := s.HSM.StateKey(ctx, v.Key)
		if v.Status == KeyRetired && errors.Is(err, seed.ErrKeyNotFound) {
			continue // nothing needed it when it was retired, or it was absent when a backup was restored
		}
		if err != nil {
			return fmt.Errorf("fetching the state key of %s: %w", v.Key, err)
		}
		k.state[v.Key.Version] = key
		if v.Status == KeyActive {
			k.sealing = v.Key.Version
		}
	}
	host, err := s.HSM.Decrypt(ctx, []byte(hostKeyAAD), k.Host)
	if err != nil {
		return fmt.Errorf("fetching the host key: %w", err)
	}
	k.host = host
	s.Audit.Use(host)
	s.ring.Store(k)
	return nil
}

// The labels that the service itself tells apart.
const (
	sealLabel   = "seal"
	wrapLabel   = "wrap"
	deriveLabel = "derive"
	lookupLabel = "lookup"
	dataLabel   = "data"
	auditLabel  = "audit"
	digestLabel = "digest"
	backupLabel = "backup"
)

// makeRing makes the ring of a new database, as its very first commit. Where anything was committed before, the ring was
// removed.
func (s *Service) makeRing(ctx context.Context) error {
	if err := s.requireEmpty(ctx); err != nil {
		return err
	}
	r, host, err := s.firstRing(ctx)
	if err != nil {
		return err
	}
	if err := s.HSM.Use(r.active()); err != nil {
		return err
	}
	if r.Host, err = s.HSM.Encrypt(ctx, []byte(hostKeyAAD), host); err != nil {
		return err
	}
	row, err := s.sealRing(ctx, r)
	if err != nil {
		return err
	}
	s.Audit.Use(host)
	d := decision{
		ring:   &keyring{}, // none yet: it must still be absent
		change: store.Change{Put: []store.Put{row}},
		entry:  audit.Entry{Outcome: audit.Done, Revision: r.Revision, Detail: r.describe()},
	}
	if _, err := s.commit(ctx, itself, beginRing, d); err != nil {
		return err
	}
	k, err := s.loadRing(ctx)
	if err != nil || k == nil {
		return errors.Join(errors.New("the key ring that was just made cannot be read"), err)
	}
	return s.useRing(ctx, k)
}

func (s *Service) requireEmpty(ctx context.Context) error {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return storeError(err)
	}
	defer snap.Close()
	first, err := firstKey(ctx, snap, "", "")
	if err != nil {
		return storeError(err)
	}
	if first != "" {
		return &tampered{what: ringRow, err: errors.New("the row is missing, and the database is not new")}
	}
	return nil
}

// firstRing puts the highest version of each label to use.
func (s *Service) firstRing(ctx context.Context) (r ring, host []byte, err error) {
	keys, err := s.HSM.Keys(ctx)
	if err != nil {
		return ring{}, nil, err
	}
	now := s.Clock().UnixMilli()
	for i, key := range keys {
		v := keyVersion{Key: key.Key, Status: KeyReadable, KCV: key.KCV, Since: now, Public: key.Public}
		if i+1 == len(keys) || keys[i+1].Key.Label != key.Key.Label {
			v.Status = KeyActive
		}
		r.Versions = append(r.Versions, v)
	}
	id, err := s.HSM.Random(ctx, 8)
	if err != nil {
		return ring{}, nil, err
	}
	r.Installation, r.Revision = hex.EncodeToString(id), 1
	host, err = s.HSM.Random(ctx, hostKeyLength)
	return r, host, err
}

// describe says which versions are in use, for the log.
func (r *ring) describe() string {
	var parts []string
	for _, v := range r.Versions {
		parts = append(parts, fmt.Sprintf("%s/%d %s", v.Key.Label, v.Key.Version, v.Status))
	}
	return strings.Join(parts, ", ")
}

// refreshRing loads the ring again if it is not the one that was seen, and returns the one that is in use now.
func (s *Service) refreshRing(ctx context.Context, seen *keyring) (*keyring, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if now := s.ring.Load(); now != seen {
		return now, nil
	}
	if err := s.lacks.now(s.Clock()); err != nil {
		return nil, err
	}
	now, err := s.newerRing(ctx, seen)
	s.lacks.note(err, s.Clock())
	return now, err
}

// newerRing loads the ring, and takes it into use if it is another one.
func (s *Service) newerRing(ctx context.Context, seen *keyring) (*keyring, error) {
	k, err := s.loadRing(ctx)
	switch {
	case err != nil:
		return nil, err
	case k == nil:
		return nil, &tampered{what: ringRow, err: errors.New("the row is missing")}
	case k.version == seen.version:
		return seen, nil
	}
	if err := putBack(&k.ring, &seen.ring); err != nil {
		return nil, err
	}
	if err := s.useRing(ctx, k); err != nil {
		return nil, err
	}
	return k, nil
}

// changedRing makes the decision that changes the ring from the one that is in use to what change makes of it.
func (s *Service) changedRing(ctx context.Context, from *keyring, change func(*ring) error) (decision, error) {
	r := from.clone()
	if err := change(&r); err != nil {
		return decision{}, err
	}
	r.Revision++
	row, err := s.sealRing(ctx, r)
	return decision{
		ring: from, change: store.Change{Put: []store.Put{row}},
		entry: audit.Entry{Outcome: audit.Done, Revision: r.Revision, Detail: r.describe()},
	}, err
}

// unknownKey: something stored names a version that this node does not have in use.
type unknownKey struct{ key seed.KeyRef }

func (u *unknownKey) Error() string { return fmt.Sprintf("%v: %s", seed.ErrKeyNotFound, u.key) }
func (u *unknownKey) Unwrap() error { return seed.ErrKeyNotFound }

// later says whether what failed for want of a key is worth another try: the ring was changed, and is loaded now.
func (s *Service) later(ctx context.Context, seen *keyring, err error) (bool, error) {
	if !errors.Is(err, seed.ErrKeyNotFound) {
		return false, nil
	}
	now, err := s.refreshRing(ctx, seen)
	return err == nil && now != seen, err
}

// explainKey says of something stored under a version that cannot be used what became of that version. One that the key
// ring has never known is nobody's: what names it was changed.
func (s *Service) explainKey(err error) error {
	var u *unknownKey
	if !errors.As(err, &u) {
		return err
	}
	switch v := s.ring.Load().find(u.key); {
	case v == nil:
		return err
	case v.Status == KeyDestroyed:
		return &Error{Code: CodeKeyDestroyed, Detail: fmt.Sprintf("what is stored is under %s, which was destroyed: issue a new token", u.key), Err: u}
	}
	return &Error{Code: CodeHSMUnavailable, Detail: "the HSM cannot be used: nothing was decided", Err: u}
}

// readable says which of the versions was destroyed; nil if none was. Whether the HSM has the others it says itself.
func (k *keyring) readable(keys []seed.KeyRef) error {
	for _, key := range keys {
		if v := k.find(key); v == nil || v.Status == KeyDestroyed {
			return &unknownKey{key}
		}
	}
	return nil
}

// ringOf returns the ring in use, which is loaded again first if it does not know the version that a row was made under.
func (s *Service) ringOf(ctx context.Context, it store.Item) (*keyring, error) {
	k := s.ring.Load()
	if it.Version == 0 {
		return k, nil
	}
	e, err := store.Decode[envelope](it.Value)
	if err != nil {
		return k, nil //nolint:nilerr // whoever opens the row says so
	}
	if _, known := k.state[e.By]; known {
		return k, nil
	}
	return s.refreshRing(ctx, k)
}
