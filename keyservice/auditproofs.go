package keyservice

import (
	"context"
	"errors"
	"fmt"
	"math"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/store"
)

// Checkpoints, proofs and public keys tell nothing about anybody. To read them is not logged, only refused to who may not
// read the log: or whoever watches a log would make it grow, and have it signed, by watching.

// SignedCheckpoint is the newest checkpoint of a node's log.
type SignedCheckpoint struct {
	Node string
	audit.Checkpoint
	Note []byte // as it was signed
}

// InclusionProof proves that an entry is in the tree of a size: tlog.CheckRecord checks it.
type InclusionProof struct {
	Node  string
	Index uint64
	Leaf  tlog.Hash // tlog.RecordHash of the entry's bytes
	Tree  tlog.Tree
	Proof tlog.RecordProof
}

// ConsistencyProof proves that one tree begins with the other: tlog.CheckTree checks it.
type ConsistencyProof struct {
	Node     string
	From, To tlog.Tree
	Proof    tlog.TreeProof
}

// AuditCheckpoint returns the newest checkpoint of a node's log. The node may be empty if only one has any.
// CodeCheckpointNotFound: there is none.
func (s *Service) AuditCheckpoint(ctx context.Context, c authz.Caller, node string) (SignedCheckpoint, error) {
	if err := s.authorise(ctx, c, authz.ReadAudit, ""); err != nil {
		return SignedCheckpoint{}, err
	}
	return s.newestCheckpoint(ctx, node)
}

func (s *Service) newestCheckpoint(ctx context.Context, node string) (SignedCheckpoint, error) {
	snap, err := s.Store.Snapshot(ctx)
	if err != nil {
		return SignedCheckpoint{}, storeError(err)
	}
	defer snap.Close()
	if node == "" {
		if node, err = onlySigned(ctx, snap); err != nil {
			return SignedCheckpoint{}, err
		}
	}
	if store.CheckNode(node) != nil {
		return SignedCheckpoint{}, noCheckpoint()
	}
	stored, err := s.storedCheckpoint(ctx, snap, node, nil)
	switch {
	case err != nil:
		return SignedCheckpoint{}, proofError(err)
	case stored.row.Version == 0:
		return SignedCheckpoint{}, noCheckpoint()
	}
	return SignedCheckpoint{Node: node, Checkpoint: stored.Checkpoint, Note: stored.row.Value}, nil
}

// onlySigned finds the node whose log is meant when none is named.
func onlySigned(ctx context.Context, snap store.Snapshot) (node string, err error) {
	var nodes []string
	err = snap.Scan(ctx, audit.CheckpointPrefix, "", func(it store.Item) error {
		nodes = append(nodes, string(it.Key[len(audit.CheckpointPrefix):]))
		return nil
	})
	switch {
	case err != nil:
		return "", storeError(err)
	case len(nodes) == 0:
		return "", noCheckpoint()
	case len(nodes) > 1:
		return "", &Error{Code: CodeInvalid, Detail: "each node has a log of its own: name one of them as node"}
	}
	return nodes[0], nil
}

func noCheckpoint() error {
	return &Error{Code: CodeCheckpointNotFound, Detail: "no checkpoint of this node's log has been signed yet"}
}

// Inclusion proves that the entry of an index is in the tree of a size; of the newest checkpoint if that is 0. CodeInvalid:
// there is no such entry in it, or no checkpoint is as large.
func (s *Service) Inclusion(ctx context.Context, c authz.Caller, node string, index, size uint64) (InclusionProof, error) {
	t, err := s.provenTree(ctx, c, node)
	if err != nil {
		return InclusionProof{}, err
	}
	p := InclusionProof{Node: t.node, Index: index}
	if p.Tree, err = t.at(size); err != nil {
		return InclusionProof{}, err
	}
	at := int64(min(index, math.MaxInt64))
	if p.Proof, err = audit.ProveInclusion(t.tree, p.Tree.N, at, t.hashes); err != nil {
		return InclusionProof{}, proofError(err)
	}
	leaf, err := t.hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, at)})
	if err != nil {
		return InclusionProof{}, proofError(err)
	}
	p.Leaf = leaf[0]
	return p, nil
}

// Consistency proves that the tree of size to, of the newest checkpoint if that is 0, begins with that of size from.
// CodeInvalid: it is not as large, or no checkpoint is.
func (s *Service) Consistency(ctx context.Context, c authz.Caller, node string, from, to uint64) (ConsistencyProof, error) {
	t, err := s.provenTree(ctx, c, node)
	if err != nil {
		return ConsistencyProof{}, err
	}
	p := ConsistencyProof{Node: t.node}
	if p.To, err = t.at(to); err != nil {
		return ConsistencyProof{}, err
	}
	first := int64(min(from, math.MaxInt64))
	if p.Proof, err = audit.ProveConsistency(t.tree, first, p.To.N, t.hashes); err != nil {
		return ConsistencyProof{}, proofError(err)
	}
	p.From, err = t.at(from)
	return p, err
}

// provenTree is a tree whose root was signed.
type provenTree struct {
	node   string
	tree   tlog.Tree
	hashes tlog.HashReader
}

func (s *Service) provenTree(ctx context.Context, c authz.Caller, node string) (provenTree, error) {
	newest, err := s.AuditCheckpoint(ctx, c, node)
	if err != nil {
		return provenTree{}, err
	}
	return provenTree{newest.Node, newest.Tree, audit.Hashes(newest.Node, newest.Tree, s.tiles(ctx))}, nil
}

// at is the tree as it was at a size; as it is, if that is 0.
func (t provenTree) at(size uint64) (tlog.Tree, error) {
	if size == 0 {
		return t.tree, nil
	}
	n := int64(min(size, math.MaxInt64))
	root, err := audit.RootAt(t.tree, n, t.hashes)
	if err != nil {
		return tlog.Tree{}, proofError(err)
	}
	return tlog.Tree{N: n, Hash: root}, nil
}

// proofError names what is wrong with a tree, or with what was asked of it.
func proofError(err error) error {
	var b *brokenLog
	switch {
	case errors.Is(err, audit.ErrRange):
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("correct index and sizes: %v", err)}
	case errors.As(err, &b), errors.Is(err, audit.ErrTampered):
		return &Error{Code: CodeLogChanged, Detail: "the audit log's tree was changed in the database: compare it with a witness or an archive", Err: err}
	}
	return storeError(err)
}

// AuditKeys returns the public halves of the audit keys, in the order of their versions.
func (s *Service) AuditKeys(ctx context.Context, c authz.Caller) ([]AuditKey, error) {
	if err := s.authorise(ctx, c, authz.ReadAudit, ""); err != nil {
		return nil, err
	}
	keys, err := s.versionedAuditKeys(ctx)
	if err != nil {
		return nil, hsmError(err)
	}
	return keys, nil
}
