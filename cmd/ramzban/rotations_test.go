package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/hsm"
	"ramzban/keyservice/seed"
	"ramzban/softhsm"
)

// newKeys holds a key ceremony for further versions, while the service does not run.
func (s *service) newKeys(t *testing.T, refs ...seed.KeyRef) {
	t.Helper()
	token, err := softhsm.Provision(t.Context(), filepath.Join(s.dir, "hsm"))
	require.NoError(t, err)
	var plan []hsm.PlannedKey
	for _, ref := range refs {
		plan = append(plan, hsm.PlannedKey{Key: ref, Origin: hsm.Generated})
	}
	require.NoError(t, token.Hold(t.Context(), plan))
}

// configured changes the configuration of a service that does not run.
func (s *service) configured(t *testing.T, change func(*Config)) {
	t.Helper()
	path := filepath.Join(s.dir, "ramzban.yaml")
	c, err := LoadConfig(path)
	require.NoError(t, err)
	change(&c)
	b, err := yaml.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// agree lets one officer propose at a terminal, and another one approve.
func (s *service) agree(t *testing.T, args ...string) wire.Proposal {
	t.Helper()
	s.does(t, "officer-1", args...)
	p := s.waiting(t)
	require.Contains(t, s.does(t, "officer-2", "approvals", "approve", p.ID, "--yes"), "carried out")
	return p
}

func (s *service) keyOf(t *testing.T, label string, version uint32) wire.Key {
	t.Helper()
	answer, err := s.as("officer-1").Keys(t.Context())
	require.NoError(t, err)
	for _, k := range answer.Keys {
		if k.Label == label && k.Version == version {
			return k
		}
	}
	require.FailNow(t, "no such key")
	return wire.Key{}
}

// awaitRotation waits until a rotation rests.
func (s *service) awaitRotation(t *testing.T, id string) wire.Rotation {
	t.Helper()
	var r wire.Rotation
	require.Eventually(t, func() bool {
		var err error
		r, err = s.as("officer-1").Rotation(t.Context(), id)
		require.NoError(t, err)
		return r.Status != "running"
	}, 5*time.Minute, 50*time.Millisecond)
	return r
}

// A wrapping key is rotated under load while the service is killed again and again, at 20 random moments, and at 3 in the
// short form. It completes, no verification fails, and the old version can be destroyed.
func TestKilledDuringARotationItCompletes(t *testing.T) {
	rounds, tokens := 3, 60
	if longTests() {
		rounds, tokens = 20, 1000
	}
	s := startService(t)
	b := newBank(s)
	for range 6 {
		require.NoError(t, b.open(t.Context()))
	}
	for range tokens {
		issued, err := s.as("branch").Issue(t.Context(), wire.IssueRequest{Class: "card", Subject: b.nextCard(), Channel: "sms", Mobile: "09121234567", Profile: "sms-120", Uses: []string{testUse}})
		require.NoError(t, err)
		b.acknowledge(issued.Serial, "active")
	}
	require.NoError(t, s.terminate())
	s.newKeys(t, seed.KeyRef{Label: "wrap", Version: 2})
	s.configured(t, func(c *Config) { c.Limits.RenewalsPerSecond = 30 })
	s.start()
	require.Equal(t, "unused", s.keyOf(t, "wrap", 2).Status)
	p := s.agree(t, "keys", "rotate", "wrap", "--to", "2")
	for range rounds {
		b.killedUnderLoad(t.Context(), 1)
		b.start()
		b.check(t.Context())
	}
	r := s.awaitRotation(t, p.ID)
	require.Equal(t, "done", r.Status, "%+v", r)
	require.Zero(t, s.keyOf(t, "wrap", 1).Dependents)
	s.agree(t, "keys", "retire", "wrap", "1")
	s.agree(t, "keys", "destroy", "wrap", "1")
	k := s.keyOf(t, "wrap", 1)
	require.Equal(t, []any{"destroyed", false, 0}, []any{k.Status, k.InHSM, k.Dependents})
	require.NoError(t, s.terminate())
	s.start()
	for _, a := range b.customers {
		require.NoError(t, b.verifyOnce(t.Context(), a))
	}
	b.check(t.Context())
}

// The officers' view: tables of 80 columns, the same as JSON, a rotation that is paused and resumed, and a feed.
func TestKeysAtTheTerminal(t *testing.T) {
	s := startService(t)
	card := testCard(1)
	_, err := s.enrol(t.Context(), "offline-60", card)
	require.NoError(t, err)
	s.newKeys(t, seed.KeyRef{Label: "lookup", Version: 2}) // while the service runs
	table := s.does(t, "officer-1", "keys")
	requireColumns(t, table)
	require.Regexp(t, `(?m)^lookup/1 +active +[0-9a-f]{6} +20\d\d-.* yes +5$`, table)
	require.Regexp(t, `(?m)^lookup/2 +unused +[0-9a-f]{6} +yes +0$`, table)
	require.Equal(t, strings.Count(table, "\n")-1, strings.Count(s.does(t, "officer-1", "keys", "--json"), "\n"))
	for says, args := range map[string][]string{
		"is active: rotate to": {"keys", "retire", "lookup", "1"},
		"--to must name":       {"keys", "rotate", "lookup"},
		"no master key has":    {"keys", "rotate", "lockup", "--to", "2"},
		"is no version":        {"keys", "destroy", "lookup", "one"},
	} {
		_, stderr, err := s.at(t, "officer-1", "", args...)
		require.Error(t, err)
		requireOneLine(t, stderr, says)
	}

	p := s.agree(t, "keys", "rotate", "lookup", "--to", "2")
	r := s.awaitRotation(t, p.ID)
	require.Equal(t, "waiting", r.Status)
	table = s.does(t, "officer-1", "rotations")
	requireColumns(t, table)
	require.Regexp(t, p.ID[:12]+` lookup 1>2 +waiting .* 1/1 +5`, table)
	require.Contains(t, s.does(t, "officer-2", "rotations", "pause", p.ID[:12]), "paused by officer-2, goes on by itself 20")
	table = s.does(t, "officer-1", "rotations")
	requireColumns(t, table)
	require.Regexp(t, `(?m)^ {13}paused by officer-2, goes on by itself 20\d\d-.* UTC$`, table)
	var paused wire.Rotation
	require.NoError(t, json.Unmarshal([]byte(s.does(t, "officer-1", "rotations", "--json")), &paused))
	require.Equal(t, "paused", paused.Status)

	feed := s.agree(t, "keys", "feed", "--open")
	list := filepath.Join(t.TempDir(), "customers.ndjson")
	var lines bytes.Buffer
	for _, subject := range []string{card, testCard(2)} {
		require.NoError(t, json.NewEncoder(&lines).Encode(wire.FedSubject{Class: "card", Subject: subject}))
	}
	require.NoError(t, os.WriteFile(list, lines.Bytes(), 0o600))
	require.Equal(t, "2 lines: 2 fed\n", s.does(t, "officer-1", "keys", "feed", feed.ID, list))
	require.Contains(t, s.does(t, "officer-1", "rotations", "resume", p.ID), "running")
	require.Equal(t, "done", s.awaitRotation(t, p.ID).Status)
	require.NotContains(t, s.output(), card, "no card number is logged")
}
