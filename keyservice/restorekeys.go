package keyservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A master key may be destroyed when nothing in the database depends on it. An older backup still does. So before anything
// is written its rows are counted, and the versions that are gone are named: officers may take another backup, or agree to
// give up what needs them.

// lackedBy are the versions that are of use in the ring, and that an HSM does not have.
func (r ring) lackedBy(have []seed.MasterKey) (missing []seed.KeyRef) {
	for _, v := range r.Versions {
		there := slices.ContainsFunc(have, func(m seed.MasterKey) bool { return m.Key == v.Key })
		if !there && v.Status != KeyDestroyed {
			missing = append(missing, v.Key)
		}
	}
	return missing
}

// sealedUnder is the version that a row's seal is of.
func sealedUnder(row store.Item) []seed.KeyRef {
	e, err := store.Decode[envelope](row.Value)
	if err != nil || e.Seal == nil {
		return nil
	}
	return []seed.KeyRef{e.Seal.Key}
}

// namely names the versions for want of which nothing can be read.
func (r *restoring) namely(err error) error {
	var told *Error
	if !errors.Is(err, seed.ErrKeyNotFound) || len(r.missing) == 0 || errors.As(err, &told) && told.Code == CodeInvalid {
		return err
	}
	var names []string
	for _, key := range r.missing {
		names = append(names, key.String())
	}
	return &Error{Code: CodeInvalid, Detail: lacksKeys(names), Err: err}
}

func lacksKeys(names []string) string {
	return "the backup needs " + strings.Join(names, ", ") + ", which this HSM does not have: use the installation's own HSM; if they were destroyed since, take a newer backup"
}

// keysThere refuses a backup of which something needs a version that is gone, but what the officers give up.
func (r *restoring) keysThere(ctx context.Context) error {
	if len(r.missing) == 0 {
		return nil
	}
	needs := map[seed.KeyRef]int{}
	err := r.file.Each(ctx, "", func(row store.Put) error {
		kind, _, _ := strings.Cut(string(row.Key), "/")
		if !restoredKinds[kind] || slices.Contains(logRows, kind+"/") {
			return nil
		}
		_, keys, err := dependsOn(itemOf(row))
		if err != nil {
			return nil //nolint:nilerr // a row that cannot be read fails its check later, and stays as it is
		}
		for _, key := range r.missing {
			if slices.Contains(keys, key) {
				needs[key]++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.givenUp(needs)
}

func (r *restoring) givenUp(needs map[seed.KeyRef]int) error {
	var names []string
	for _, key := range r.missing {
		if needs[key] > 0 && !slices.Contains(r.parameters.Without, key.String()) {
			names = append(names, fmt.Sprintf("%s (for %d rows)", key, needs[key]))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &Error{Code: CodeInvalid, Detail: lacksKeys(names) + ", or agree with `ramzban restore parameters --without` that what needs them is lost"}
}

// keepAbsent ends in the ring, of the versions that this HSM lacks, only those that officers give up, or had destroyed after
// the backup. Another node's HSM, or a key card, may have any other, and older backups or makers' files may need it, which no
// count finds: it is retired, so no HSM erases it before two officers name it.
func (r *restoring) keepAbsent(ctx context.Context) error {
	gone := slices.Clone(r.parameters.Without)
	for _, id := range r.replay.control.destroyed {
		p, err := r.carriedOut(ctx, id)
		if unreadable(err) {
			continue // nobody can say which it was
		}
		if err != nil {
			return fmt.Errorf("which master key was destroyed after the backup: %w", err)
		}
		v, refusal := versionIn(p)
		if refusal != nil {
			return refusal
		}
		gone = append(gone, v.ref().String())
	}
	r.ring = r.ring.clone() // the restore itself goes on without them
	for _, key := range r.missing {
		if !slices.Contains(gone, key.String()) {
			r.ring.set(key, KeyRetired, r.now.UnixMilli())
		}
	}
	return nil
}
