package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// oath makes the passwords of a device with another implementation; the seed goes over standard input.
func oath(t *testing.T, seed []byte, counters int) []string {
	t.Helper()
	c := exec.Command("oathtool", "--hotp", "--counter=0", fmt.Sprintf("--window=%d", counters-1), "--digits=6", "-")
	c.Stdin = strings.NewReader(fmt.Sprintf("%x\n", seed))
	out, err := c.Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// A maker's box with its file in clear, at the officers' terminals: one officer alone gets nowhere, two do, and the devices'
// passwords are RFC 4226's. The seeds are in no file of the service, nor in what the commands print.
func TestSeedsInClearAtTheTerminal(t *testing.T) {
	s := startService(t)
	seeds := [][]byte{[]byte("12345678901234567890"), make([]byte, 20)}
	_, err := rand.Read(seeds[1])
	require.NoError(t, err)
	dir := t.TempDir()
	box, out := filepath.Join(dir, "box.ndjson"), filepath.Join(dir, "wrapped.ndjson")
	lines := fmt.Sprintf(`{"device":"GX-1","hash":"SHA1","seed":"%x"}`+"\n"+`{"device":"GX-2","hash":"SHA1","seed":"%x"}`, seeds[0], seeds[1])
	require.NoError(t, os.WriteFile(box, []byte(lines), 0o640))
	refused := func(officer, says string, args ...string) {
		t.Helper()
		stdout, stderr, err := s.at(t, officer, "yes\n", args...)
		require.Error(t, err)
		requireOneLine(t, stderr, says)
		for _, seed := range seeds {
			require.NotContains(t, stdout+stderr, fmt.Sprintf("%x", seed))
		}
	}
	propose := []string{"tokens", "import-clear", "propose", box, "--source", "GX Tokens, box 7"}
	refused("officer-1", "chmod 600", propose...)
	require.NoError(t, os.Chmod(box, 0o600))
	refused("officer-1", "--source", propose[:4]...)
	refused("officer-3", "not_an_officer", propose...)
	bad := writeFile(t, "bad.ndjson", lines+lines)
	require.NoError(t, os.Chmod(bad, 0o600))
	refused("officer-1", "line 2: it is not", "tokens", "import-clear", "propose", bad, "--source", "x")
	proposed := s.does(t, "officer-1", propose...)
	require.Contains(t, proposed, "IN CLEAR")
	require.Contains(t, proposed, "GX Tokens, box 7")
	requireColumns(t, proposed)
	id := s.waiting(t).ID
	send := []string{"tokens", "import-clear", "send", id[:8], box, "--out", out}
	refused("officer-1", "proposal_closed", send...)
	refused("officer-1", "second_person_required", "approvals", "approve", id)
	require.Contains(t, s.does(t, "officer-2", "approvals", "approve", id, "--yes"), "carried out")
	require.NoError(t, os.WriteFile(bad, []byte(lines+"\n"), 0o600))
	refused("officer-1", "document_invalid", "tokens", "import-clear", "send", id, bad, "--out", out)
	refused("officer-3", "not_an_officer", send...)
	require.Contains(t, s.does(t, "officer-2", send...), "seeds wrapped: 2")
	refused("officer-2", "not there", send...)
	requireMode(t, out, privateFile)

	text, err := os.ReadFile(out)
	require.NoError(t, err)
	var devices []wire.ImportedSeed
	for line := range bytes.Lines(text) {
		var d wire.ImportedSeed
		require.NoError(t, json.Unmarshal(line, &d))
		devices = append(devices, d)
	}
	require.Equal(t, []string{"GX-1", "GX-2"}, []string{devices[0].Device, devices[1].Device})
	for i, d := range devices {
		s.handOut(t, d, testCard(i), oath(t, seeds[i], 4))
	}
	require.Equal(t, "755224", oath(t, seeds[0], 1)[0], "as printed in RFC 4226")
	refused("officer-1", "2 seeds were refused", "tokens", "import-clear", "send", id, box, "--out", out+"-again")

	for _, left := range scanProcess(t, s.cmd.Process.Pid, map[string][]byte{"device 2": seeds[1]}).Found {
		require.Contains(t, left, "device 2 hex", "buffers of TLS and HTTP, which only a restart wipes; what the service read from them, it wiped")
	}
	require.NoError(t, s.terminate())
	secret := map[string][]byte{"device 2": seeds[1]} // the other one is an example in the program
	found, err := newSearcher(secret).inFiles(s.dir)
	require.NoError(t, err)
	require.Empty(t, found)
	found, err = newSearcher(secret).inFiles(dir)
	require.NoError(t, err)
	require.NotEmpty(t, found, "the search sees it in the maker's own file")
}

// handOut gives a device to a customer, who types what it shows.
func (s *service) handOut(t *testing.T, d wire.ImportedSeed, card string, shows []string) {
	t.Helper()
	ctx := t.Context()
	issued, err := s.as("branch").Issue(ctx, wire.IssueRequest{Class: "card", Subject: card, Channel: "hardware", Profile: "counter-6",
		Uses: []string{testUse}, DeviceKeySHA256: d.DeviceKeySHA256})
	require.NoError(t, err)
	code, err := s.as("sms-gateway").CollectCode(ctx, issued.Activation.ID)
	require.NoError(t, err)
	_, err = s.as("mobile-bank").Activate(ctx, issued.Serial, wire.ActivationRequest{Subject: card, ActivationCode: code.Code, MakerSeed: d.MakerSeed})
	require.NoError(t, err)
	_, err = s.as("mobile-bank").Confirm(ctx, issued.Serial, wire.ConfirmationRequest{OTP: shows[0]})
	require.NoError(t, err)
	for _, password := range shows[1:] {
		answer, err := s.verify(ctx, issued.Serial, password)
		require.NoError(t, err)
		require.Equal(t, "accepted", answer.Result)
	}
}
