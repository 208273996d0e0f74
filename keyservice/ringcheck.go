package keyservice

import (
	"bytes"
	"context"
	"fmt"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/store"
)

// A version is known by its name, but two HSMs may have different keys under one name: when the ceremony of a version was
// held at each of them, and not at one whose key was cloned into the others. Under such a key a node would find none of the
// customers that another node has found, and give them second tokens and second guess budgets. So the ring says which key
// each version is, and a node whose HSM has another one does not use the ring at all.
//
// Key pairs are no such keys: an HSM that replaces a lost one has others, since no components make them, and nothing that is
// stored is under them. What the lost audit key signed is checked by its public half, which the ring keeps.

// sameKeys refuses a ring of which this node's HSM has another key under the name of a version.
func (s *Service) sameKeys(ctx context.Context, r *ring) error {
	all, err := s.HSM.Keys(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		v := r.find(m.Key)
		if v == nil || v.Status == KeyDestroyed || bytes.Equal(v.KCV, m.KCV) {
			continue
		}
		if m.Public == nil {
			return &Error{Code: CodeHSMUnavailable, Detail: fmt.Sprintf("%s in this node's HSM is another key than the one in use (key check value %X, not %X): "+
				"clone that one into it; until then this node decides nothing", m.Key, m.KCV, v.KCV)}
		}
		s.Log.WarnContext(ctx, "this node's HSM has another key pair under this name than the one that was there first: give "+
			"its public half to whoever used the other's", "key", m.Key.String(), "kcv", fmt.Sprintf("%X", m.KCV))
	}
	return nil
}

// newestRing refuses, when a process begins, a ring that is older than one under which a node signed its log: someone put the
// row back while no process looked. It remembers what they tell of the officers' row, too. Who signed the checkpoints is looked at before anything is signed after them; here, one
// that tells of a newer ring is reason enough. A change of less than a second before a kill stands in no checkpoint yet:
// CompareAudit finds that one put back.
func (s *Service) newestRing(ctx context.Context, now *ring) error {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return storeError(err)
	}
	defer snap.Close()
	var seen ring
	err = snap.Scan(ctx, audit.CheckpointPrefix, audit.CheckpointPrefix, func(it store.Item) error {
		if c, err := audit.PeekCheckpoint(it.Value); err == nil && c.Origin == audit.Origin(now.Installation, string(it.Key[len(audit.CheckpointPrefix):])) {
			seen.Revision = max(seen.Revision, c.Ring)
			s.sawOfficers(c.Officers)
		}
		return nil
	})
	if err != nil {
		return storeError(err)
	}
	if seen.Revision <= now.Revision {
		return nil
	}
	return putBack(now, &seen)
}

// putBack says that a ring is older than one that this process has used: its seal is right, but someone wrote it again, and
// with it statuses that were changed since.
func putBack(now, seen *ring) error {
	if now.Revision > seen.Revision {
		return nil
	}
	return &tampered{what: ringRow, err: fmt.Errorf("an older key ring was put back: it is of revision %d, and revision %d was in use", now.Revision, seen.Revision)}
}
