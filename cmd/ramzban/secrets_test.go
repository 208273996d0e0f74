package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// What customers type and are sent stands in no file of the service: not in its database, its log (which tells all it can),
// its metrics or the exported audit log; whether it was right, wrong or in the wrong place.
func TestCustomersSecretsStandInNoFile(t *testing.T) {
	s := startService(t)
	require.NoError(t, s.terminate())
	config := filepath.Join(s.dir, "ramzban.yaml")
	b, err := os.ReadFile(config)
	require.NoError(t, err)
	require.Contains(t, string(b), "level: info")
	require.NoError(t, os.WriteFile(config, bytes.Replace(b, []byte("level: info"), []byte("level: debug"), 1), 0o600))
	s.start()

	secrets := map[string]string{"card": testCard(31), "mobile": "09351742068", "PIN": "40718265", "wrong PIN": "918273645",
		"payee": testCard(32)}
	serial := s.useSecrets(t, secrets)
	s.misplaceSecrets(t, serial, secrets)
	s.exportAll(t, filepath.Join(s.dir, "archive"))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "metrics"), s.metrics(t), 0o600))
	require.NoError(t, s.terminate())

	require.NotEmpty(t, filesWith(t, s.dir, serial), "the search finds what is there")
	for name, secret := range secrets {
		require.GreaterOrEqual(t, len(secret), 6, name)
		require.Empty(t, filesWith(t, s.dir, secret), name)
	}
}

// exportAll exports all that was decided until now.
func (s *service) exportAll(t *testing.T, dir string) {
	t.Helper()
	logs, err := s.as("auditor").AuditLogs(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var l exportedLog
		require.NoError(t, json.Unmarshal([]byte(s.audit(t, "export", "--out", dir, "--json")), &l))
		return l.Entries >= logs.Logs[0].Entries
	}, startLimit, 200*time.Millisecond)
}

// useSecrets plays a customer with both kinds of token, adds the codes and passwords to the secrets, and returns the
// serial of the phone's token.
func (s *service) useSecrets(t *testing.T, secrets map[string]string) string {
	t.Helper()
	c := s.enrolPIN(t, secrets)
	password, _, err := c.token.next(time.Now(), withPIN(secrets["PIN"]))
	require.NoError(t, err)
	secrets["password"] = password.Reveal()
	for _, want := range []string{"accepted", "refused"} {
		answer, err := s.verify(t.Context(), c.serial, secrets["password"])
		require.NoError(t, err)
		require.Equal(t, want, answer.Result)
	}
	_, err = s.as("branch").Issue(t.Context(), wire.IssueRequest{Class: "card", Subject: secrets["card"], Channel: "sms",
		Mobile: secrets["mobile"], Profile: "sms-120", Uses: []string{testUse}})
	require.NoError(t, err)
	paid := &wire.Transaction{Amount: "1500000", Currency: "IRR", Payee: secrets["payee"]}
	asked, err := s.as("core-banking").Challenge(t.Context(), wire.ChallengeRequest{
		Class: "card", Subject: secrets["card"], Use: testUse, Transaction: paid})
	require.NoError(t, err)
	collected, err := s.as("sms-gateway").CollectCode(t.Context(), asked.ID)
	require.NoError(t, err)
	require.Equal(t, secrets["mobile"], collected.Mobile)
	secrets["SMS password"] = collected.Code
	for _, want := range []string{"accepted", "refused"} {
		answer, err := s.as("core-banking").Verify(t.Context(), wire.VerificationRequest{
			Class: "card", Subject: secrets["card"], Use: testUse, OTP: collected.Code, Transaction: paid})
		require.NoError(t, err)
		require.Equal(t, want, answer.Result)
	}
	return c.serial
}

// enrolPIN enrols a phone whose token takes the customer's PIN.
func (s *service) enrolPIN(t *testing.T, secrets map[string]string) customer {
	t.Helper()
	issued, err := s.as("branch").Issue(t.Context(), wire.IssueRequest{Class: "card", Subject: secrets["card"], Channel: "app",
		Mobile: secrets["mobile"], Profile: "offline-pin-60", Uses: []string{testUse}})
	require.NoError(t, err)
	collected, err := s.as("sms-gateway").CollectCode(t.Context(), issued.Activation.ID)
	require.NoError(t, err)
	secrets["activation code"] = collected.Code
	c, err := s.activate(t.Context(), issued, secrets["card"])
	require.NoError(t, err)
	_, err = s.as("branch").SetPIN(t.Context(), c.serial, wire.PINRequest{PIN: secrets["PIN"]})
	require.NoError(t, err)
	return c
}

// misplaceSecrets sends each secret where it does not belong, from who may call and from who may not.
func (s *service) misplaceSecrets(t *testing.T, serial string, secrets map[string]string) {
	t.Helper()
	refused := func(as, method, path string, in any) {
		answer, err := dev{dir: s.dir, api: s.api}.ask(t.Context(), question{as: as, method: method, path: path, in: in})
		require.NoError(t, err)
		require.GreaterOrEqual(t, answer.status, 400)
		for name, secret := range secrets {
			require.NotContains(t, string(answer.body), secret, name)
		}
	}
	for _, secret := range secrets {
		refused("branch", http.MethodGet, "/v1/tokens/"+secret, nil)
		refused("core-banking", http.MethodPut, "/v1/tokens/"+serial+"/pin", wire.PINRequest{PIN: secret})
		refused("core-banking", http.MethodPost, "/v1/verifications", map[string]string{"serial": secret, "use": secret, "otp": secret})
		refused("core-banking", http.MethodPost, "/v1/verifications", map[string]string{secret: secret})
		refused("core-banking", http.MethodPost, "/v1/challenges", map[string]string{"class": secret, "subject": secret, "use": secret})
		refused("sms-gateway", http.MethodPost, "/v1/codes/"+secret+"/collection", nil)
		refused("branch", http.MethodPost, "/v1/"+secret, secret)
	}
	refused("branch", http.MethodPut, "/v1/tokens/"+serial+"/pin", wire.PINRequest{PIN: secrets["wrong PIN"]})
}

func (s *service) metrics(t *testing.T) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.ops+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(b), "ramzban")
	return b
}

// filesWith returns the files below dir in which the number stands, not as part of a longer one.
func filesWith(t *testing.T, dir, number string) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if standsIn(b, number) || strings.Contains(e.Name(), number) {
			found = append(found, path)
		}
		return err
	}))
	return found
}

func standsIn(b []byte, number string) bool {
	digit := func(i int) bool { return i >= 0 && i < len(b) && b[i] >= '0' && b[i] <= '9' }
	for from := 0; ; {
		i := bytes.Index(b[from:], []byte(number))
		if i < 0 {
			return false
		}
		if at := from + i; !digit(at-1) && !digit(at+len(number)) {
			return true
		}
		from += i + 1
	}
}

func TestNumbersAreFoundWhole(t *testing.T) {
	for text, found := range map[string]bool{
		"123456": true, "x123456": true, "a 123456,": true, "0123456 1234567 123456": true,
		"": false, "0123456": false, "1234567": false, "12345": false,
	} {
		require.Equal(t, found, standsIn([]byte(text), "123456"), text)
	}
}
