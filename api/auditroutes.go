package api

import (
	"net/http"

	"ramzban/keyservice/authz"
)

// auditRoutes show what was decided.
func (s *Server) auditRoutes() {
	handle(s, route{
		method: get, path: "/v1/audit/entries", id: "audit-entries", role: authz.Auditor, status: http.StatusOK,
		summary: "Read the audit log", description: "Pages through all decisions in the order they were taken. Reading is itself logged.",
	}, s.auditEntries)
	handle(s, route{
		method: get, path: "/v1/audit/comparison", id: "compare-audit", role: authz.Auditor, status: http.StatusOK, long: true,
		summary:     "Compare the stored state with the audit log",
		description: "Finds rows that are older than the log says: an old copy was put back. Reads everything, so it may take minutes.",
	}, s.compareAudit)
}
