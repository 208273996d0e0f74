package api

import (
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
)

// auditEntry is an entry as it is answered; leaves says whether with its bytes.
func auditEntry(e keyservice.LoggedEntry, leaves bool) (wire.AuditEntry, error) {
	a := wire.AuditEntry{
		Index: e.Index, Time: time.UnixMilli(e.Time).UTC(), Node: e.Node, Actor: e.Actor, Action: e.Action,
		Outcome: string(e.Outcome), Reason: e.Reason, Serial: e.Serial, Use: e.Use, RequestID: e.RequestID,
		Commitment: e.Commitment, Revision: e.Revision, Next: e.Next, Budget: e.Budget, State: e.State, Key: e.Key,
		Detail: e.Detail, Proposal: e.Proposal, Document: string(e.Document), Signature: e.Signature, Certificate: e.Certificate,
	}
	for _, p := range e.Also {
		a.Also = append(a.Also, wire.AuditPart(p))
	}
	if e.Tree != nil {
		a.Tree = &wire.AuditTree{Size: e.Tree.Size, Root: e.Tree.Root}
	}
	if e.Maker != nil {
		a.Maker = new(wire.AuditMakerSeed(*e.Maker))
	}
	if !leaves || !e.Genuine() {
		return a, nil
	}
	leaf, err := audit.Encode(e.Entry) // the one encoding that it was read from
	a.Leaf = leaf
	return a, err
}

func auditAnswer(page keyservice.AuditPage, leaves bool) (wire.AuditAnswer, error) {
	a := wire.AuditAnswer{Entries: make([]wire.AuditEntry, len(page.Entries)), Next: page.Next, End: page.End}
	for i, e := range page.Entries {
		var err error
		if a.Entries[i], err = auditEntry(e, leaves); err != nil {
			return wire.AuditAnswer{}, err
		}
	}
	return a, nil
}

func auditLogsAnswer(logs []keyservice.AuditLog) wire.AuditLogsAnswer {
	a := wire.AuditLogsAnswer{Logs: make([]wire.AuditLog, len(logs))}
	for i, l := range logs {
		a.Logs[i] = wire.AuditLog(l)
	}
	return a
}

func comparisonAnswer(found []keyservice.Discrepancy) wire.ComparisonAnswer {
	a := wire.ComparisonAnswer{Discrepancies: make([]wire.Discrepancy, len(found))}
	for i, d := range found {
		a.Discrepancies[i] = wire.Discrepancy(d)
	}
	return a
}

func checkpointAnswer(c keyservice.SignedCheckpoint) wire.CheckpointAnswer {
	t := auditTree(c.Tree)
	return wire.CheckpointAnswer{Node: c.Node, Origin: c.Origin, Size: t.Size, Root: t.Root, Time: c.Time, Note: string(c.Note)}
}

func inclusionAnswer(p keyservice.InclusionProof) wire.InclusionAnswer {
	t := auditTree(p.Tree)
	return wire.InclusionAnswer{Node: p.Node, Index: p.Index, LeafHash: p.Leaf[:], Size: t.Size, Root: t.Root, Proof: hashesOf(p.Proof)}
}

func consistencyAnswer(p keyservice.ConsistencyProof) wire.ConsistencyAnswer {
	return wire.ConsistencyAnswer{Node: p.Node, From: auditTree(p.From), To: auditTree(p.To), Proof: hashesOf(p.Proof)}
}

func auditTree(t tlog.Tree) wire.AuditTree { return wire.AuditTree{Size: uint64(t.N), Root: t.Hash[:]} }

func hashesOf(proof []tlog.Hash) [][]byte {
	hashes := make([][]byte, len(proof))
	for i := range proof {
		hashes[i] = proof[i][:]
	}
	return hashes
}

func auditKeysAnswer(keys []keyservice.AuditKey) wire.AuditKeysAnswer {
	a := wire.AuditKeysAnswer{Keys: make([]wire.AuditKey, len(keys))}
	for i, k := range keys {
		a.Keys[i] = wire.AuditKey{Version: k.Version, ID: fmt.Sprintf("%08x", k.ID()), PublicKey: k.DER()}
	}
	return a
}
