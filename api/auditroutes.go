package api

import (
	"net/http"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// auditRoutes show what was decided.
func (s *Server) auditRoutes() {
	handle(s, route{
		method: get, path: "/v1/audit/entries", id: "audit-entries", role: authz.Auditor, status: http.StatusOK,
		summary: "Read an audit log", description: "Pages through a node's decisions in the order they were taken, or through those of them that " +
			"were asked for. A page may be short, or empty, before the log ends: read on from `next` until it is `end`. Entries that were " +
			"changed or removed in the database always come. Reading is itself logged.",
		codes: []keyservice.Code{keyservice.CodeSerialInvalid},
	}, s.auditEntries)
	s.auditStreamRoute()
	handle(s, route{
		method: get, path: "/v1/audit/logs", id: "audit-logs", role: authz.Auditor, status: http.StatusOK,
		summary: "List the audit logs", description: "Each node has a log of its own, also one that is no longer there. Reading is itself logged.",
	}, s.auditLogs)
	handle(s, route{
		method: get, path: "/v1/audit/comparison", id: "compare-audit", role: authz.Auditor, status: http.StatusOK, long: true,
		summary:     "Compare the stored state with the audit logs",
		description: "Finds rows that are older than the logs of all nodes say (an old copy was put back), and logs that contradict each other. Reads everything, so it may take minutes.",
	}, s.compareAudit)
	handle(s, route{
		method: get, path: "/v1/audit/checkpoint", id: "audit-checkpoint", role: authz.Auditor, status: http.StatusOK,
		summary: "Read the newest checkpoint of an audit log",
		description: "A signed note (c2sp.org/tlog-checkpoint) over the Merkle tree of the log's first entries, made at least every second " +
			"while anything is decided. This, proofs and keys are not logged: whoever watches a log must not make it grow.",
		codes: []keyservice.Code{keyservice.CodeCheckpointNotFound, keyservice.CodeLogChanged},
	}, s.auditCheckpoint)
	handle(s, route{
		method: get, path: "/v1/audit/proofs/inclusion", id: "prove-inclusion", role: authz.Auditor, status: http.StatusOK,
		summary: "Prove that an entry is in an audit log", description: "Of any entry that a checkpoint is over, in the tree of any size up to that checkpoint's.",
		codes: []keyservice.Code{keyservice.CodeCheckpointNotFound, keyservice.CodeLogChanged},
	}, s.inclusion)
	handle(s, route{
		method: get, path: "/v1/audit/proofs/consistency", id: "prove-consistency", role: authz.Auditor, status: http.StatusOK,
		summary: "Prove that an audit log only grew", description: "That the tree of one size begins with that of another, so that nothing which an earlier checkpoint is over was changed since.",
		codes: []keyservice.Code{keyservice.CodeCheckpointNotFound, keyservice.CodeLogChanged},
	}, s.consistency)
	handle(s, route{
		method: get, path: "/v1/audit/keys", id: "audit-keys", role: authz.Auditor, status: http.StatusOK,
		summary:     "Read the public keys that sign audit logs",
		description: "For convenience: whoever is to trust a checkpoint gets the key from the key ceremony, not from here.",
	}, s.auditKeys)
}
