package main

import (
	"encoding/hex"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// The sum was made with `openssl dgst -sha1 -hmac key` over the tag, the serial and the SHA-256 of "public".
func TestRemovalProofIsAsDocumented(t *testing.T) {
	sum, err := phoneToken{Serial: "402519938461", Hash: "SHA1", Seed: []byte("key")}.proofOf("ramzban/remove/1", []byte("public"))
	require.NoError(t, err)
	require.Equal(t, "0f655f57583ae908ab3c3961dd09f0611a9ed32c", hex.EncodeToString(sum))
}

// A phone gives its token up and is free for another one; as long as the service has not agreed, it keeps what it has.
func TestRemovalFromTheCommandLine(t *testing.T) {
	s := startService(t)
	dir := filepath.Join(t.TempDir(), "phone")
	phoneCommand(t, nil, "new", "--dir", dir)
	through := func(command string, more ...string) []string {
		return append([]string{command, "--dir", dir, "--url", "https://" + s.api, "--ca", s.pki("ca.crt"),
			"--cert", s.pki("mobile-bank.crt"), "--key", s.pki("mobile-bank.key")}, more...)
	}
	activated := func() string {
		issued, code := s.issueAndCollect(t, testCard(26))
		phoneCommand(t, []string{subjectEnv + "=" + testCard(26), codeEnv + "=" + code}, through("activate")...)
		return issued.Serial
	}
	remove := append([]string{"device"}, through("remove")...)
	_, stderr := runFailing(t, exitFailure, nil, remove...)
	requireOneLine(t, stderr, "no token", "ramzban device activate")

	serial := activated()
	p, err := openPhone(dir)
	require.NoError(t, err)
	held, err := p.token()
	require.NoError(t, err)
	for says, more := range map[string][]string{
		"is the service running": {"--url", "https://" + freeAddress(t)},
		"removal: not_allowed":   {"--cert", s.pki("branch.crt"), "--key", s.pki("branch.key")},
	} {
		_, stderr = runFailing(t, exitFailure, nil, append(append([]string{}, remove...), more...)...)
		requireOneLine(t, stderr, says)
	}
	other := held
	other.Seed = append([]byte{held.Seed[0] ^ 1}, held.Seed[1:]...)
	require.NoError(t, p.save(other))
	_, stderr = runFailing(t, exitFailure, nil, remove...)
	requireOneLine(t, stderr, "removal: proof_wrong")
	require.FileExists(t, filepath.Join(dir, phoneTokenFile))
	require.NoError(t, p.save(held))
	answer, err := s.verify(t.Context(), serial, phoneCommand(t, nil, "otp", "--dir", dir))
	require.NoError(t, err)
	require.Equal(t, "accepted", answer.Result, "after all that it still works")

	out := phoneCommand(t, nil, through("remove")...)
	require.Equal(t, "token "+serial+" has ended, and is deleted from this phone", out)
	require.NoFileExists(t, filepath.Join(dir, phoneTokenFile))
	shown, err := s.as("branch").Token(t.Context(), serial)
	require.NoError(t, err)
	require.Equal(t, "deactivated", shown.Status)

	require.NotEqual(t, serial, activated(), "the same phone, and another token of the same card")
}

// A phone whose answer was lost, or whose token was ended at the branch meanwhile, asks again and is rid of it.
func TestRemovalAfterALostAnswer(t *testing.T) {
	s := startService(t)
	c, err := s.enrol(t.Context(), "offline-60", testCard(27))
	require.NoError(t, err)
	p := pinPhone(t)
	require.NoError(t, p.save(c.token))
	_, err = s.as("branch").Deactivate(t.Context(), c.serial)
	require.NoError(t, err)
	out, err := exec.Command(ramzban, "device", "remove", "--dir", p.dir, "--url", "https://"+s.api, "--ca", s.pki("ca.crt"),
		"--cert", s.pki("mobile-bank.crt"), "--key", s.pki("mobile-bank.key")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "token "+c.serial+" has ended, and is deleted from this phone\n", string(out))
	require.NoFileExists(t, filepath.Join(p.dir, phoneTokenFile))
	_, err = s.as("mobile-bank").Remove(t.Context(), c.serial, wire.RemovalRequest{Proof: make([]byte, 20)})
	require.Equal(t, "transition_not_allowed", refusal(err))
}
