package api

import (
	"net/http"

	"ramzban/keyservice/authz"
)

// auditRoutes show what was decided.
func (s *Server) auditRoutes() {
	handle(s, route{
		method: get, path: "/v1/audit/entries", id: "audit-entries", role: authz.Auditor, status: http.StatusOK,
		summary: "Read an audit log", description: "Pages through a node's decisions in the order they were taken. Reading is itself logged.",
	}, s.auditEntries)
	handle(s, route{
		method: get, path: "/v1/audit/logs", id: "audit-logs", role: authz.Auditor, status: http.StatusOK,
		summary: "List the audit logs", description: "Each node has a log of its own, also one that is no longer there. Reading is itself logged.",
	}, s.auditLogs)
	handle(s, route{
		method: get, path: "/v1/audit/comparison", id: "compare-audit", role: authz.Auditor, status: http.StatusOK, long: true,
		summary:     "Compare the stored state with the audit logs",
		description: "Finds rows that are older than the logs of all nodes say (an old copy was put back), and logs that contradict each other. Reads everything, so it may take minutes.",
	}, s.compareAudit)
}
