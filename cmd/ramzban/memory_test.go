package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// After a run with seeds that only the phones should know, they are nowhere in the service: not in its memory, its files,
// its log. The API's answers are searched too. The digests of PINs are in no file, log or answer either. They are not
// looked for in the memory: the host puts them into each message that the HSM MACs, and what wiping the service's own
// buffers (keyservice tests that) does not reach are the C buffers that the PKCS#11 binding frees as they are, and vector
// registers, in which C code leaves its last copy and which the kernel writes to the stack of the next signal.
func TestSeedsAreNeverInTheClear(t *testing.T) {
	s := startService(t)
	seeds, digests := map[string][]byte{}, map[string][]byte{}
	answers := walkRaw(t, s, seeds)
	for i := range 8 {
		profile := []string{"offline-60", "counter-6", "offline-pin-60", "signing-pin-60"}[i%4]
		c, err := s.enrol(t.Context(), profile, testCard(i))
		require.NoError(t, err)
		seeds[c.serial] = c.token.Seed
		var in typed
		if c.token.PINDigits > 0 {
			in = withPIN(fmt.Sprintf("4071826%d", i))
			_, err := s.as("branch").SetPIN(t.Context(), c.serial, wire.PINRequest{PIN: in.pin.Reveal()})
			require.NoError(t, err)
			digests[c.serial+" PIN"], err = c.token.digest(in.pin)
			require.NoError(t, err)
		}
		verifySome(t, s, c, in)
	}
	require.Len(t, digests, 4)

	// The search sees: this process knows the seeds, and the service knows its own address.
	own, err := newSearcher(seeds).inProcess(os.Getpid())
	require.NoError(t, err)
	require.NotEmpty(t, own.Found)
	require.NotEmpty(t, scanProcess(t, s.cmd.Process.Pid, map[string][]byte{"address": []byte(s.api)}).Found)

	r := scanProcess(t, s.cmd.Process.Pid, seeds)
	t.Logf("searched %d MiB of the service's memory, %d KiB of mapped files lie beyond their end", r.Bytes>>20, r.Unreadable>>10)
	require.Greater(t, r.Bytes, int64(20<<20))
	require.Empty(t, r.Found)
	require.NoError(t, s.terminate())
	maps.Copy(digests, seeds)
	search := newSearcher(digests)
	found, err := search.inFiles(s.dir)
	require.NoError(t, err)
	require.Empty(t, found)
	require.Empty(t, search.in(answers))
	requireNoCard(t, s.dir, 8)
}

// verifySome has the service look at passwords: one accepted, others refused as used or as wrong.
func verifySome(t *testing.T, s *service, c customer, in typed) {
	t.Helper()
	question := wire.VerificationRequest{Serial: c.serial, Use: testUse}
	if c.token.Signs {
		question.Transaction = &wire.Transaction{Amount: "1", Currency: "IRR", Payee: "a"}
		in.transaction = &otp.Transaction{Amount: "1", Currency: "IRR", Payee: seed.NewSubject("a")}
	}
	accepted := 0
	for range 3 {
		password, after, err := c.token.next(time.Now(), in)
		require.NoError(t, err)
		c.token, question.OTP = after, password.Reveal()
		answer, err := s.as("core-banking").Verify(t.Context(), question)
		require.NoError(t, err)
		if answer.Result == "accepted" {
			accepted++
		}
	}
	require.GreaterOrEqual(t, accepted, 1)
}

// requireNoCard: no card number stands in any file, the database and the log among them.
func requireNoCard(t *testing.T, dir string, cards int) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		for i := range cards {
			require.NotContains(t, string(b), testCard(i), path)
		}
		return err
	}))
}

// walkRaw plays one token from issue to audit, and returns the service's answers as they came.
func walkRaw(t *testing.T, s *service, seeds map[string][]byte) []byte {
	var all bytes.Buffer
	call := func(as, method, path string, in, out any) {
		answer, err := dev{dir: s.dir, api: s.api}.ask(t.Context(), question{as: as, method: method, path: path, in: in})
		require.NoError(t, err)
		require.Less(t, answer.status, 300, "%s", answer.body)
		all.Write(answer.body)
		require.NoError(t, json.Unmarshal(answer.body, out))
	}
	key, err := phoneKey()
	require.NoError(t, err)
	p := phone{key: key}
	der, err := p.publicKey()
	require.NoError(t, err)
	card := testCard(1000)
	var issued wire.IssueAnswer
	call("branch", http.MethodPost, "/v1/tokens", wire.IssueRequest{
		Class: "card", Subject: card, Channel: "app", Profile: "offline-60", Uses: []string{testUse}}, &issued)
	var code wire.CodeAnswer
	call("sms-gateway", http.MethodPost, "/v1/codes/"+issued.Activation.ID+"/collection", nil, &code)
	var activated wire.ActivationAnswer
	call("mobile-bank", http.MethodPost, "/v1/tokens/"+issued.Serial+"/activation", wire.ActivationRequest{
		Subject: card, ActivationCode: code.Code, Device: &wire.Device{ID: "d1", Channel: "app", PublicKey: der}}, &activated)
	token, err := p.unwrap(activated)
	require.NoError(t, err)
	seeds[issued.Serial] = token.Seed
	proof, err := token.proof(der)
	require.NoError(t, err)
	call("mobile-bank", http.MethodPost, "/v1/tokens/"+issued.Serial+"/confirmation", wire.ConfirmationRequest{Proof: proof}, &wire.StatusAnswer{})
	password, _, err := token.next(time.Now(), typed{})
	require.NoError(t, err)
	call("core-banking", http.MethodPost, "/v1/verifications", wire.VerificationRequest{
		Serial: issued.Serial, Use: testUse, OTP: password.Reveal()}, &wire.VerificationAnswer{})
	call("branch", http.MethodGet, "/v1/tokens/"+issued.Serial, nil, &wire.TokenAnswer{})
	call("auditor", http.MethodGet, "/v1/audit/entries?from=0&limit=100", nil, &wire.AuditAnswer{})
	return all.Bytes()
}

// What the PKCS#11 module itself leaves behind: SoftHSM runs in the process that uses it.
func TestSoftHSMAloneLeavesNoSeedBehind(t *testing.T) {
	key, err := phoneKey()
	require.NoError(t, err)
	p := phone{key: key}
	der, err := p.publicKey()
	require.NoError(t, err)
	request, err := json.Marshal(moduleRequest{Dir: filepath.Join(t.TempDir(), "hsm"), PublicKey: der, Seeds: 8})
	require.NoError(t, err)

	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), helperEnv+"=module")
	helper.Stderr = os.Stderr
	in, err := helper.StdinPipe()
	require.NoError(t, err)
	out, err := helper.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, helper.Start())
	defer func() { _ = helper.Wait() }()
	defer func() { _ = in.Close() }()
	_, err = in.Write(append(request, '\n'))
	require.NoError(t, err)
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err)
	var wrapped [][]byte
	require.NoError(t, json.Unmarshal(line, &wrapped))

	seeds := map[string][]byte{}
	for i, w := range wrapped {
		s, err := p.open(w)
		require.NoError(t, err)
		seeds[strings.Repeat("i", i+1)] = s
	}
	r := scanProcess(t, helper.Process.Pid, seeds)
	require.Empty(t, r.Found)
}
