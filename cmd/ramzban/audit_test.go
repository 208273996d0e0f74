package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

func TestAuditFitsEightyColumns(t *testing.T) {
	entries := []wire.AuditEntry{
		{Index: 1842, Time: time.Unix(1700000000, 0), Actor: "core-banking", Action: "otp.verify", Outcome: "accepted", Serial: "402519938461"},
		{Index: 1843, Time: time.Unix(1700000001, 0), Actor: "mobile-bank", Action: "token.renew-code", Outcome: "refused", Reason: "activation_code_exhausted", Serial: "402519938461"},
	}
	var out bytes.Buffer
	require.NoError(t, printEntries(&out, entries, 1, false))
	for line := range strings.Lines(out.String()) {
		require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), 80, line)
	}
	for _, want := range []string{"1842", "2023-11-14 22:13:20", "core-banking", "otp.verify", "accepted", "refused: activation_code_exhausted"} {
		require.Contains(t, out.String(), want)
	}

	out.Reset()
	require.NoError(t, printEntries(&out, entries, 1, true))
	var first wire.AuditEntry
	require.NoError(t, json.NewDecoder(&out).Decode(&first))
	require.Equal(t, entries[0].Index, first.Index)
}

func TestComparisonFailsOnADiscrepancy(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printComparison(&out, nil, false))
	require.Contains(t, out.String(), "agrees")
	found := []wire.Discrepancy{{Serial: "402519938461", What: "guess budget", Logged: 7, Stored: 3}}
	require.ErrorContains(t, printComparison(&out, found, false), "1 place")
	require.Contains(t, out.String(), "402519938461  guess budget: the log says 7, the database 3")
}

func TestDiscrepanciesAreSaidInWords(t *testing.T) {
	for want, d := range map[string]wire.Discrepancy{
		"402519938461  entry 970 of node-2: logged twice":                           {Serial: "402519938461", What: "logged twice", Node: "node-2", Logged: 970},
		"402519938461  logged twice, under another token too: guesses among 4 to 6": {Serial: "402519938461", What: "logged twice", Logged: 4, Stored: 6},
		"entry 3 of node-1: audit entry missing":                                    {What: "audit entry missing", Node: "node-1", Logged: 3},
		"402519938461  not logged: writes 4 to 6":                                   {Serial: "402519938461", What: "not logged", Logged: 3, Stored: 6},
		"proposal 5d0f  proposal: the log says 4, the database 2":                   {Proposal: "5d0f", What: "proposal", Logged: 4, Stored: 2},
		"proposal 5d0f  entry 7 of node-2: logged twice":                            {Proposal: "5d0f", What: "logged twice", Node: "node-2", Logged: 7},
		"dual control  officers: the log says 2, the database 1":                    {What: "officers", Logged: 2, Stored: 1},
		"402519938461  live token: the log says 1, the database 0":                  {Serial: "402519938461", What: "live token", Logged: 1},
	} {
		require.Equal(t, want, describe(d))
	}
}

// With several logs, indexes do not tell whose they are.
func TestEntriesOfSeveralLogsNameTheirNode(t *testing.T) {
	entries := []wire.AuditEntry{{Index: 7, Node: "node-1", Outcome: "accepted"}, {Index: 7, Node: "node-2", Outcome: "refused", Reason: "already_used"}}
	var out bytes.Buffer
	require.NoError(t, printEntries(&out, entries, 2, false))
	require.Contains(t, out.String(), "accepted (node-1)")
	require.Contains(t, out.String(), "refused: already_used (node-2)")
}
