package failover

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store/pgstore"
)

const (
	use       = "second-pin"
	profile   = "counter-8"
	lookAhead = 3 // passwords are sent twice: with short ones or a long window, some by chance fit a later counter too
)

var (
	guess    = keyservice.GuessLimits{FreeMisses: 3, BaseDelay: 30 * time.Second, MaxDelay: time.Hour, WindowDays: 30, MaxMisses: 100}
	profiles = map[string]keyservice.Profile{
		profile: {Guess: guess, Policy: otp.Policy{Type: otp.HOTP, Hash: seed.SHA1, Digits: 8, LookAhead: lookAhead, ResyncAhead: 100}},
	}
	bank = authz.Caller{Name: "bank", Roles: []authz.Role{authz.Issuer, authz.Activator, authz.Courier, authz.Verifier, authz.Auditor}}
)

// journal is a node's log, which is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// end is what was logged last.
func (j *journal) end() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := j.text.String()
	return text[max(0, len(text)-8000):]
}

// node is one of the key service, with a store of its own on the common database.
type node struct {
	*keyservice.Service
	name string
	log  journal
}

// openNode opens a node for the rest of the test.
func openNode(t *testing.T, dsn, name string) *node {
	t.Helper()
	ctx := context.Background()
	n, logbook := &node{name: name}, audit.NewLog(name)
	log := slog.New(slog.NewTextHandler(&n.log, nil))
	db, err := pgstore.Open(ctx, pgstore.Options{DSN: dsn, Node: name, Sequencer: logbook.Sequence, Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	n.Service, err = keyservice.New(ctx, keyservice.Config{
		HSM: theHSM, Store: db, Audit: logbook, Node: name, Profiles: profiles, Uses: []string{use}, Guess: guess,
		FailedSubjects: 1000, Clock: time.Now, Log: log,
	})
	require.NoError(t, err)
	return n
}
