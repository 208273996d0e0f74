package keyservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// A database that was made from a backup says so, in its log and in one row. The row is what the service itself goes by: the
// logs that may not go on, because entries of them that a witness has seen are lost; and since when officers' documents
// count.

// The actions of a restore, as they stand in its entries.
const (
	// ActionRestore is what officers propose; RestoreParameters its parameters.
	ActionRestore = "restore"

	restoreAction authz.Action = ActionRestore
	restoreLog    authz.Action = audit.RestoredLog
	restoreTokens authz.Action = audit.RestoredTokens
	restoreGone   authz.Action = audit.RestoredGone
)

const restoredKey store.Key = "d/restored"

const restoredRow = "declared restore" // as errors name it

// ErrLogClosed: a node's log ended with a restore.
var ErrLogClosed = errors.New("this node's log ended with a restore")

// restored is the row. On disk it is CBOR with these integer keys under the state MAC.
type restored struct {
	Schema   uint8       `cbor:"0,keyasint"`
	Count    uint64      `cbor:"1,keyasint"` // how often this installation was restored
	At       int64       `cbor:"2,keyasint"` // the last time, Unix milliseconds; no earlier document of officers counts any more
	Backup   []byte      `cbor:"3,keyasint"` // SHA-256 of the file
	Proposal string      `cbor:"4,keyasint"` // id
	Closed   []closedLog `cbor:"5,keyasint,omitempty"`
}

// closedLog is a log of which entries are lost that were signed. Nobody writes to it again.
type closedLog struct {
	Node    string `cbor:"1,keyasint"`
	Entries uint64 `cbor:"2,keyasint"`           // those before this index are there
	Signed  uint64 `cbor:"3,keyasint,omitempty"` // the size of the checkpoint that told of more; 0: nobody could say
	Root    []byte `cbor:"4,keyasint,omitempty"` // … and its root
}

// loadRestored reads the row; the zero value if the database was never restored.
func (s *Service) loadRestored(ctx context.Context) (restored, error) {
	items, err := s.Store.Get(ctx, restoredKey)
	if err != nil {
		return restored{}, storeError(err)
	}
	return s.openRestored(items[0])
}

func (s *Service) openRestored(it store.Item) (restored, error) {
	if it.Version == 0 {
		return restored{}, nil
	}
	r, err := unmac[restored](s, it, restoredRow)
	if err == nil && r.Schema != schema {
		err = &tampered{what: restoredRow, err: errors.New("not a row of this version")}
	}
	return r, err
}

// closed returns what is known of a node's log if it is closed.
func (r restored) closed(node string) (closedLog, bool) {
	i := slices.IndexFunc(r.Closed, func(c closedLog) bool { return c.Node == node })
	if i < 0 {
		return closedLog{}, false
	}
	return r.Closed[i], true
}

// requireOpenLog refuses to write to a log that ended with a restore: two entries would have one index.
func (s *Service) requireOpenLog(ctx context.Context) error {
	r, err := s.loadRestored(ctx)
	if err != nil {
		return err
	}
	if c, closed := r.closed(s.Node); closed {
		return fmt.Errorf("%w: entries of %s from %d on are lost: give the node another name", ErrLogClosed, c.Node, c.Entries)
	}
	return nil
}

// declared says whether a restore has declared that this node's log lacks what a checkpoint of such a tree tells of.
func (s *Service) declared(ctx context.Context, node string, tree tlog.Tree) (bool, error) {
	r, err := s.loadRestored(ctx)
	if err != nil {
		return false, err
	}
	c, closed := r.closed(node)
	if uint64(tree.N) == c.Signed && !bytes.Equal(tree.Hash[:], c.Root) {
		return false, nil
	}
	return closed && uint64(tree.N) <= max(c.Signed, c.Entries), nil
}

// outdated refuses an officer's document that is older than the last restore: what became of it may be lost, and it must not
// be carried out twice.
func (s *Service) outdated(ctx context.Context, made time.Time) (*Error, error) {
	r, err := s.loadRestored(ctx)
	if err != nil || made.UnixMilli() >= r.At {
		return nil, err
	}
	return &Error{Code: CodeProposalClosed, Detail: "it was made before this installation was restored: make it anew"}, nil
}
