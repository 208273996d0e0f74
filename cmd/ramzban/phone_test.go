package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The delivered seed, the proof and the password mean to openssl and oathtool what they mean to the service.
func TestIndependentPhone(t *testing.T) {
	s := startService(t)
	for i, p := range []struct{ profile, hash, period string }{
		{"offline-60", "sha1", "60"}, {"offline-120", "sha1", "120"}, {"counter-6", "sha1", "0"},
	} {
		t.Run(p.profile, func(t *testing.T) {
			script := exec.Command("testdata/independent-phone.sh", "https://"+s.api, s.pki(""), testCard(i), p.profile, p.hash, p.period)
			out, err := script.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, "accepted\nrefused already_used\n", string(out))
		})
	}
}

// The reference phone as a person uses it: through the command line, secrets never in it.
func TestReferencePhoneFromTheCommandLine(t *testing.T) {
	s := startService(t)
	card := testCard(7)
	issued, code := s.issueAndCollect(t, card)
	dir := filepath.Join(t.TempDir(), "phone")
	run := func(env []string, args ...string) (string, error) {
		c := exec.Command(ramzban, args...)
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	out, err := run(nil, "device", "new", "--dir", dir)
	require.NoError(t, err, out)
	require.Contains(t, out, "ramzban device public-key --dir "+dir)
	key, err := run(nil, "device", "public-key", "--dir", dir)
	require.NoError(t, err, key)
	require.Regexp(t, `^device_key_sha256\n[0-9a-f]{64}\npublic_key\n([A-Za-z0-9+/=]{1,76}\n?)+$`, key)
	activate := []string{"device", "activate", "--dir", dir, "--serial", issued.Serial, "--url", "https://" + s.api,
		"--ca", s.pki("ca.crt"), "--cert", s.pki("mobile-bank.crt"), "--key", s.pki("mobile-bank.key")}

	out, err = run([]string{subjectEnv + "=" + card, codeEnv + "=00000000"}, activate...)
	require.Error(t, err)
	require.Contains(t, out, "ramzban: activation: activation_code_wrong")
	require.NotContains(t, out, "activation code:")
	out, err = run([]string{subjectEnv + "=" + card, codeEnv + "=" + strings.Repeat("0", 4000)}, activate...)
	require.Error(t, err)
	require.Contains(t, out, "activation_code", "where the request is wrong")
	for says, wrong := range map[string][]string{
		"--serial: a serial is 12 digits": {"--serial", issued.Serial[1:]}, "--channel must be app or pwa": {"--channel", "web"},
		"is the service running": {"--url", "https://" + freeAddress(t)}, "run this in Ramzban's folder": {"--ca", "nowhere.crt"},
		"holds no": {"--ca", os.DevNull},
	} {
		out, err = run([]string{subjectEnv + "=" + card, codeEnv + "=" + code}, append(slices.Clone(activate), wrong...)...)
		require.Error(t, err)
		requireOneLine(t, out+"\n", says)
	}
	out, err = run([]string{subjectEnv + "=" + card, codeEnv + "=" + code}, activate...)
	require.NoError(t, err, out)
	require.Contains(t, out, "ramzban device otp --dir "+dir)
	password, err := run(nil, "device", "otp", "--dir", dir)
	require.NoError(t, err, password)
	answer, err := s.verify(t.Context(), issued.Serial, password)
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result)

	out, err = run([]string{subjectEnv + "=" + card, codeEnv + "=" + code}, activate...)
	require.Error(t, err)
	require.Contains(t, out, "holds the token")
}

// The auditor's commands against the real service.
func TestAuditFromTheCommandLine(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "counter-6", testCard(1))
	require.NoError(t, err)
	_, err = s.verify(t.Context(), c.serial, c.password(t))
	require.NoError(t, err)
	as := []string{"--url", "https://" + s.api, "--ca", s.pki("ca.crt"), "--cert", s.pki("auditor.crt"), "--key", s.pki("auditor.key")}
	out, err := exec.Command(ramzban, append([]string{"audit", "entries", "--serial", c.serial}, as...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 1+5, strings.Count(string(out), "\n"), "a head, and five decisions:\n%s", out)
	require.Contains(t, string(out), "accepted")
	require.NotContains(t, string(out), c.card)
	for says, args := range map[string][]string{
		"a serial is 12 digits with a check digit: one of them is mistyped": {"--serial", "402519938462"},
		"--limit must be 1 or more, not 0":                                  {"--limit", "0"},
		`invalid argument "-1" for "--from" flag: see`:                      {"--from", "-1"},
	} {
		_, stderr := runFailing(t, exitFailure, nil, append(append([]string{"audit", "entries"}, as...), args...)...)
		requireOneLine(t, stderr, says)
		require.NotContains(t, stderr, "strconv")
	}
	out, err = exec.Command(ramzban, append([]string{"audit", "entries", "--limit", "2", "--serial", c.serial}, as...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	next := regexp.MustCompile(`(?m)^more entries follow: --from (\d+)$`).FindSubmatch(out)
	require.NotNil(t, next, "%s", out)
	out, err = exec.Command(ramzban, append([]string{"audit", "entries", "--limit", "3", "--serial", c.serial, "--from", string(next[1])}, as...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 1+3, strings.Count(string(out), "\n"), "the rest of the five, and no more:\n%s", out)
	out, err = exec.Command(ramzban, append([]string{"audit", "entries", "--from", "1000000"}, as...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "no entries\n", string(out))
	out, err = exec.Command(ramzban, append([]string{"audit", "compare"}, as...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "the database agrees with the audit log\n", string(out))
}

func TestDemonstration(t *testing.T) {
	out, err := exec.Command(ramzban, "dev", "demo").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{`"result": "accepted"`, "Idempotency-Replayed: true", `"reason": "already_used"`,
		`"kind": "sms", "bound": true,`, `"code": "not_allowed"`, "denied"} {
		require.Contains(t, strings.Join(strings.Fields(string(out)), " "), want)
	}
	require.Less(t, strings.Count(string(out), "\n"), 170, "it should be read")
	for line := range strings.Lines(string(out)) {
		require.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 80, line)
	}
}
