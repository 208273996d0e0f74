package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// audit runs `ramzban audit` as the auditor, and returns what it prints.
func (s *service) audit(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(ramzban, s.auditArgs(args...)...).CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

func (s *service) auditArgs(args ...string) []string {
	return append(append([]string{"audit"}, args...), "--url", "https://"+s.api, "--ca", s.pki("ca.crt"), "--cert", s.pki("auditor.crt"), "--key", s.pki("auditor.key"))
}

// offline runs `ramzban audit` without a service, and returns its exit status and what it prints.
func offline(t *testing.T, args ...string) (int, string) {
	t.Helper()
	c := exec.Command(ramzban, append([]string{"audit"}, args...)...)
	c.Dir = t.TempDir() // nothing of the service is near
	out, err := c.CombinedOutput()
	if err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return c.ProcessState.ExitCode(), string(out)
}

// The log leaves the service and is verified, proven and held against a witness' checkpoint with files and the public key
// alone; what was done to the files meanwhile is found.
func TestTheAuditLogOutsideTheService(t *testing.T) {
	s := startService(t)
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "archive")
	c, err := s.enrol(ctx, "offline-60", testCard(41))
	require.NoError(t, err)
	password := c.password(t)
	for _, want := range []string{"accepted", "refused"} {
		answer, err := s.verify(ctx, c.serial, password)
		require.NoError(t, err)
		require.Equal(t, want, answer.Result)
	}
	between := time.Now()
	require.Eventually(t, func() bool {
		return strings.Contains(s.audit(t, "export", "--out", dir), "new")
	}, startLimit, 200*time.Millisecond)
	first := s.nodeFiles(t, dir)
	_, err = s.verify(ctx, c.serial, "000000")
	require.NoError(t, err)
	s.audit(t, "export", "--out", dir, "--json")
	require.Subset(t, s.nodeFiles(t, dir), first, "what was exported stays")
	online, archived := filepath.Join(t.TempDir(), "a.json"), filepath.Join(t.TempDir(), "b.json")
	s.audit(t, "prove", c.serial, between.UTC().Format(time.RFC3339Nano), "--out", online)
	s.audit(t, "export", "--out", dir)
	require.NoError(t, s.terminate())

	key := filepath.Join(t.TempDir(), "audit.pem")
	node := filepath.Dir(s.newest(t, dir, "checkpoint-*.txt"))
	b, err := os.ReadFile(filepath.Join(node, "keys.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(key, b, 0o600))
	status, out := offline(t, "verify", dir, "--key", key)
	require.Zero(t, status, out)
	m := regexp.MustCompile(`^all is as it was signed: installation (\S+), 1 log, \d+ entries, \d checkpoints\n  ramzban/(\S+)/dev: entries 0 to \d+, signed 20\S+Z\n$`).FindStringSubmatch(out)
	require.Len(t, m, 3, out)
	require.Equal(t, m[1], m[2])
	ours, others := []string{"--key", key, "--installation", m[1]}, []string{"--key", key, "--installation", "another"}
	status, out = offline(t, append([]string{"verify", dir}, ours...)...)
	require.Zero(t, status, out)
	status, out = offline(t, append([]string{"verify", dir}, others...)...)
	require.Equal(t, exitDamaged, status, out)
	require.Contains(t, out, "log of another installation")

	status, out = offline(t, "prove", c.serial, between.UTC().Format(time.RFC3339Nano), "--archive", dir, "--out", archived)
	require.Zero(t, status, out)
	for _, bundle := range []string{online, archived} {
		status, out = offline(t, append([]string{"verify", "--bundle", bundle}, others...)...)
		require.Equal(t, exitDamaged, status, out)
		status, out = offline(t, append([]string{"verify", "--bundle", bundle}, ours...)...)
		require.Zero(t, status, out)
		require.Contains(t, out, "otp.verify by core-banking: refused: already_used\n")
		require.Regexp(t, "proven: .*, installation "+m[1]+"\n", out)
		spoil(t, bundle, "already_used", "already_usef")
		status, out = offline(t, "verify", "--bundle", bundle, "--key", key)
		require.Equal(t, exitDamaged, status, out)
	}

	witness := filepath.Join(t.TempDir(), "witness")
	require.NoError(t, os.MkdirAll(filepath.Join(witness, "dev"), 0o700))
	b, err = os.ReadFile(s.newest(t, dir, "checkpoint-*.txt"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(witness, "dev", "checkpoint"), b, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(witness, "dev", "checkpoint.new"), b[:10], 0o600))
	status, out = offline(t, "verify", dir, "--key", key, "--anchor", witness)
	require.Zero(t, status, out)
	require.Contains(t, out, ", the witness saw ")
	for _, kind := range []string{"checkpoint-*.txt", "entries-*.ndjson", "hashes-*.bin"} {
		require.NoError(t, os.Remove(s.newest(t, dir, kind)))
	}
	status, out = offline(t, "verify", dir, "--key", key)
	require.Zero(t, status, "it is a log that was signed: %s", out)
	status, out = offline(t, "verify", dir, "--key", key, "--anchor", witness)
	require.Equal(t, exitDamaged, status)
	require.Contains(t, out, "truncated: the witness saw these entries")

	entries := s.newest(t, dir, "entries-*.ndjson")
	spoil(t, entries, `"outcome":"done"`, `"outcome":"dona"`)
	status, out = offline(t, "verify", dir, "--key", key, "--json")
	require.Equal(t, exitDamaged, status)
	var report struct {
		Findings []struct{ Node, File, What string }
	}
	require.NoError(t, json.NewDecoder(strings.NewReader(out)).Decode(&report), out)
	require.Len(t, report.Findings, 1)
	require.Equal(t, filepath.Base(entries), report.Findings[0].File)
	status, out = offline(t, "verify", dir)
	require.Equal(t, exitFailure, status)
	require.Contains(t, out, "--key is missing")
}

// nodeFiles are the names of the node's segments and their contents.
func (s *service) nodeFiles(t *testing.T, dir string) map[string]string {
	files := map[string]string{}
	all, err := filepath.Glob(filepath.Join(dir, "*", "[eh]*-*"))
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, name := range all {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		files[filepath.Base(name)] = string(b)
	}
	return files
}

// newest is the last file of a kind.
func (s *service) newest(t *testing.T, dir, kind string) string {
	all, err := filepath.Glob(filepath.Join(dir, "*", kind))
	require.NoError(t, err)
	require.NotEmpty(t, all)
	return slices.Max(all)
}

// spoil replaces text in a file.
func spoil(t *testing.T, file, before, after string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(b), before)
	require.NoError(t, os.WriteFile(file, bytes.Replace(b, []byte(before), []byte(after), 1), 0o600))
}

// A receipt is checked with the public key alone: by the command, and by openssl.
func TestReceiptsAreCheckedOffline(t *testing.T) {
	s := startService(t)
	ctx, dir := t.Context(), t.TempDir()
	c, err := s.enrol(ctx, "offline-60", testCard(42))
	require.NoError(t, err)
	paid := &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: testCard(43)}
	answer, err := s.as("core-banking").Verify(ctx, wire.VerificationRequest{
		Serial: c.serial, Use: testUse, OTP: c.password(t), Transaction: paid, Receipt: true})
	require.NoError(t, err)
	require.NotNil(t, answer.Receipt)
	require.Empty(t, answer.Receipt.Missing)
	require.Eventually(t, func() bool {
		return strings.Contains(s.audit(t, "export", "--out", filepath.Join(dir, "archive")), "new")
	}, startLimit, 200*time.Millisecond)
	key := s.newest(t, filepath.Join(dir, "archive"), "keys.pem")
	write := func(name string, v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		return filepath.Join(dir, name)
	}
	whole, alone, payment := write("answer.json", answer), write("receipt.json", answer.Receipt), write("paid.json", paid)
	paid.Amount = "1500001"
	other := write("other.json", paid)
	for _, kept := range []string{whole, alone} {
		status, out := offline(t, "receipt", kept, "--key", key, "--transaction", payment)
		require.Zero(t, status, out)
		require.Contains(t, out, "signed: "+answer.Result)
		require.Contains(t, out, c.serial)
		status, out = offline(t, "receipt", kept, "--key", key, "--transaction", other)
		require.Equal(t, exitDamaged, status, out)
		require.Contains(t, out, "of another transaction")
	}
	note := filepath.Join(dir, "receipt.txt")
	require.NoError(t, os.WriteFile(note, []byte(answer.Receipt.Note), 0o600))
	status, out := offline(t, "receipt", note, "--key", key, "--json")
	require.Zero(t, status, out)
	require.Contains(t, out, `"outcome":"`+answer.Result+`"`)
	require.NotContains(t, answer.Receipt.Note, testCard(42))
	require.NotContains(t, answer.Receipt.Note, testCard(43))

	m := regexp.MustCompile(`(?s)^(.*\n)\n— \S+ (\S+)\n$`).FindStringSubmatch(answer.Receipt.Note)
	require.Len(t, m, 3)
	sig, err := base64.StdEncoding.DecodeString(m[2])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "text"), []byte(m[1]), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sig"), sig[4:], 0o600))
	checked, err := exec.Command("openssl", "dgst", "-sha256", "-verify", key, "-signature", filepath.Join(dir, "sig"), filepath.Join(dir, "text")).CombinedOutput()
	require.NoError(t, err, "%s", checked)

	spoil(t, note, "serial "+c.serial[:1], "serial x")
	status, out = offline(t, "receipt", note, "--key", key)
	require.Equal(t, exitDamaged, status, out)
}
