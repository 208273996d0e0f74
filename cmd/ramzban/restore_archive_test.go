package main

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// customersBefore are customers as they are when a backup is taken: their phones know nothing of it.
type customersBefore struct {
	ahead   customer // whose phone's clock is ahead by the whole drift bound; the service knows
	counter customer
	ended   customer
	waiting wire.IssueAnswer
	code    string // of the one who waits
}

func (d *deployment) customersBefore(t *testing.T) (b customersBefore) {
	t.Helper()
	var err error
	b.ahead, err = d.enrol(t.Context(), "offline-60", testCard(1))
	require.NoError(t, err)
	b.ahead.token.Offset = time.Duration(d.config.Profiles["offline-60"].DriftBound).Milliseconds()
	now := time.Now()
	d.requireResync(t, b.ahead, b.ahead.passwordAt(t, now.Add(-2*time.Minute)), b.ahead.passwordAt(t, now.Add(-time.Minute)), "accepted")
	b.counter, err = d.enrol(t.Context(), "counter-6", testCard(2))
	require.NoError(t, err)
	b.ended, err = d.enrol(t.Context(), "counter-6", testCard(3))
	require.NoError(t, err)
	b.waiting, b.code = d.issueAndCollect(t, testCard(4))
	return b
}

// passwordAt is what the phone shows at a time by a right clock.
func (c customer) passwordAt(t *testing.T, at time.Time) string {
	t.Helper()
	p, _, err := c.token.next(at, typed{})
	require.NoError(t, err)
	return p.Reveal()
}

func (d *deployment) requireResync(t *testing.T, c customer, first, second, result string) {
	t.Helper()
	answer, err := d.as("mobile-bank").Resync(t.Context(), c.serial, wire.ResyncRequest{OTP1: first, OTP2: second})
	require.NoError(t, err)
	require.Equal(t, result, answer.Result, "%v", answer)
}

func (d *deployment) activateWaiting(t *testing.T, b customersBefore) error {
	t.Helper()
	key, err := phoneKey()
	require.NoError(t, err)
	p := phone{key: key}
	der, err := p.publicKey()
	require.NoError(t, err)
	_, err = d.as("mobile-bank").Activate(t.Context(), b.waiting.Serial, wire.ActivationRequest{
		Subject: testCard(4), ActivationCode: b.code, Device: &wire.Device{ID: "d1", Channel: "app", PublicKey: der}})
	return err
}

// TestRestoreWithTheArchiveAtATerminal: what was used or ended after the backup stays so, by the exported log and its anchor.
func TestRestoreWithTheArchiveAtATerminal(t *testing.T) {
	d := deploy(t)
	d.config.Audit.CheckpointInterval = Duration(100 * time.Millisecond)
	d.startServing(t)
	b := d.customersBefore(t)
	file, report := d.backUp(t)

	used := b.ahead.passwordAt(t, time.Now())
	d.requireVerdict(t, b.ahead.serial, used, "accepted")
	typed := b.counter.password(t)
	d.requireVerdict(t, b.counter.serial, typed, "accepted")
	pair := [2]string{b.counter.password(t), b.counter.password(t)}
	d.requireResync(t, b.counter, pair[0], pair[1], "accepted")
	_, err := d.as("branch").Deactivate(t.Context(), b.ended.serial)
	require.NoError(t, err)
	require.NoError(t, d.activateWaiting(t, b))
	archive := filepath.Join(t.TempDir(), "archive")
	d.exported(t, archive)
	require.NoError(t, d.terminate())

	papers := d.agree(t, file, report, "--anchor", archive, "--key", filepath.Join(archive, d.config.Node, "keys.pem"))
	config := d.fresh(t, d.config.Node, newPostgres(t, d))
	require.Contains(t, output(t, papers.args(config, "--archive", archive)...), "Nothing is missing")
	d.startWith(t, config)
	d.requireVerdict(t, b.ahead.serial, used, "refusedmismatch") // none of its steps is above the fence yet
	for _, from := range []time.Duration{0, -time.Minute} {
		d.requireVerdict(t, b.ahead.serial, b.ahead.passwordAt(t, time.Now().Add(from)), "refusedmismatch")
	}
	d.requireVerdict(t, b.counter.serial, pair[1], "refusedalready_used")
	for _, one := range []string{pair[0], typed} {
		d.requireVerdict(t, b.counter.serial, one, "refusedmismatch")
	}
	d.requireResync(t, b.counter, pair[0], pair[1], "refused")
	d.requireVerdict(t, b.ended.serial, b.ended.password(t), "refusednot_active")
	require.Error(t, d.activateWaiting(t, b))
	_, err = d.as("branch").Unlock(t.Context(), b.counter.serial)
	require.NoError(t, err)
	c := b.counter
	d.requireVerdict(t, c.serial, c.password(t), "accepted")
	d.requireAuditAgrees(t)
	require.NoError(t, d.terminate())
}

// exported exports the log when all that was decided is signed.
func (d *deployment) exported(t *testing.T, dir string) {
	t.Helper()
	logs, err := d.as("auditor").AuditLogs(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		out := output(t, "audit", "export", "--out", dir, "--json", "--url", "https://"+d.api,
			"--ca", d.pki("ca.crt"), "--cert", d.pki("auditor.crt"), "--key", d.pki("auditor.key"))
		var l exportedLog
		require.NoError(t, json.Unmarshal([]byte(out), &l))
		return l.Entries >= logs.Logs[0].Entries
	}, startLimit, 100*time.Millisecond)
}
