package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit/archive"
)

// A witness's folder has checkpoints at its top and in the nodes' folders. What it has not written to the end is none, and
// nothing deeper is looked at.
func TestTheWitnessesFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "w[1]*")
	for _, name := range []string{"node-1/checkpoint", "node-1/checkpoint.new", "node-2/checkpoint-000000000004.txt", "node-2/deep/checkpoint", "checkpoint.old"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	anchors, err := readAnchors([]string{dir})
	require.NoError(t, err)
	var read []string
	for _, a := range anchors {
		read = append(read, string(a.Signed))
	}
	require.Equal(t, []string{"node-1/checkpoint", "node-2/checkpoint-000000000004.txt"}, read)
	_, err = readAnchors([]string{filepath.Join(dir, "node-2", "deep", "..", "..", "..")})
	require.ErrorContains(t, err, "holds no checkpoint")
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "checkpoint"), 0o600))
	_, err = readAnchors([]string{dir})
	require.ErrorIs(t, err, archive.ErrArchive, "it does not wait for a pipe")
	large := writeFile(t, "large", strings.Repeat("x", maxGiven+1))
	_, err = readAnchors([]string{large})
	require.ErrorContains(t, err, "more than")
}

// The summary counts what is there, also of a log that could not be read as far as it was pruned.
func TestTheSummaryOfADamagedLog(t *testing.T) {
	r := archive.Report{
		Installation: "bank", Logs: []archive.Log{{Node: "node-1", First: 10_000, Entries: 4}, {Node: "node-2", Entries: 6}},
		Findings: []archive.Finding{{Node: "node-1", What: archive.FileCut}},
	}
	require.Equal(t, "1 place is wrong (installation bank, 2 logs, 6 entries, 0 checkpoints; of node-1 only from entry 10000 on)", summary(r))
	r.Stopped = true
	require.Contains(t, summary(r), "and the rest was not looked at")
	var out strings.Builder
	require.NoError(t, printReport(&out, r))
	require.Equal(t, "node-1: file cut short or too long\n  node-1: no entry, never signed\n  node-2: entries 0 to 5, never signed\n", out.String())
}
