package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
)

// tokensIn writes an input of n account tokens.
func tokensIn(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in.ndjson")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	lines := json.NewEncoder(f)
	for i := range n {
		require.NoError(t, lines.Encode(wire.IssueRequest{
			Class: "account", Subject: fmt.Sprintf("acc-%06d", i+1), Channel: "app", Profile: "offline-60", Uses: []string{testUse}}))
	}
	require.NoError(t, f.Close())
	return path
}

// tokensIssue is the command against this service.
func (s *service) tokensIssue(t testing.TB, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), ramzban, append([]string{"tokens", "issue", "--url", "https://" + s.api, "--ca", s.pki("ca.crt"),
		"--cert", s.pki("branch.crt"), "--key", s.pki("branch.key")}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// answersIn reads OUT: the last line of each token by its number, and its header. Every line must be whole.
func answersIn(t testing.TB, path string) (answersHeader, map[int]answerLine) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(content, []byte("\n")))
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	var header answersHeader
	require.NoError(t, strictJSON([]byte(lines[0]), &header))
	answers := map[int]answerLine{}
	for _, line := range lines[1:] {
		var l answerLine
		require.NoError(t, strictJSON([]byte(line), &l), line)
		answers[l.Line] = l
	}
	return header, answers
}

// requireIssuedOnce holds OUT against the service's log: each token has a serial of its own, and the service made no other.
func (s *service) requireIssuedOnce(t testing.TB, out string, n int) {
	t.Helper()
	header, answers := answersIn(t, out)
	require.Equal(t, n, header.Tokens)
	require.Len(t, answers, n)
	serials := map[string]bool{}
	for _, a := range answers {
		require.Nil(t, a.Problem)
		require.NotEmpty(t, a.Activation.ID)
		serials[a.Serial] = true
	}
	require.Len(t, serials, n)
	made := 0
	for _, e := range (&bank{service: s}).auditLog(t.Context()) {
		if e.Action == "token.issue" && e.Outcome == "done" {
			require.True(t, serials[e.Serial], "a token that OUT does not know")
			made++
		}
	}
	require.Equal(t, n, made, "issued twice, or not at all")
}

// linesIn counts the whole lines of OUT; 0 if it is not there yet.
func linesIn(path string) int {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return bytes.Count(content, []byte("\n"))
}

func contentOf(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// batchSize is how many tokens the tests of `ramzban tokens issue` issue.
func batchSize() int {
	if longTests() {
		return 100_000
	}
	return 2_000
}

// Killed with -9 again and again, `ramzban tokens issue` goes on where it was: at the end each token is issued, once.
func TestKilledBatchGoesOn(t *testing.T) {
	s := startService(t)
	n := batchSize()
	in, out := tokensIn(t, n), filepath.Join(t.TempDir(), "out.ndjson")
	kills := 0
	for lines := n / 8; lines < n; lines += n / 4 {
		cmd := s.tokensIssue(t, "--file", in, "--out", out)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return linesIn(out) > lines }, 5*time.Minute, time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		require.ErrorContains(t, cmd.Wait(), "killed")
		kills++
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_APPEND, 0)
		require.NoError(t, err)
		_, err = f.WriteString(`{"line":7,"ser`) // as a crash may leave it
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	require.LessOrEqual(t, linesIn(out), n, "it was killed in the middle")
	text, err := s.tokensIssue(t, "--file", in, "--out", out).CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.Contains(t, string(text), fmt.Sprintf("%d of %d tokens are issued", n, n))
	s.requireIssuedOnce(t, out, n)
	requireMode(t, out, privateFile)
	require.NotContains(t, contentOf(t, out), "acc-00")
	require.NotContains(t, s.output(), "acc-00")
	t.Logf("%d tokens, killed %d times", n, kills)

	again, err := s.tokensIssue(t, "--file", in, "--out", out).CombinedOutput()
	require.NoError(t, err, "%s", again)
	s.requireIssuedOnce(t, out, n)
}

// The service is killed in the middle of a batch, and started again: so is the batch.
func TestBatchOutlivesTheService(t *testing.T) {
	s := startService(t)
	out := filepath.Join(t.TempDir(), "out.ndjson")
	args := []string{"--count", fmt.Sprint(batchSize()), "--account-prefix", "acc", "--use", testUse, "--out", out}
	for _, end := range []func(){s.kill, func() { require.NoError(t, s.terminate()) }} {
		var text bytes.Buffer
		cmd := s.tokensIssue(t, args...)
		cmd.Stdout, cmd.Stderr = &text, &text
		had := linesIn(out)
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return linesIn(out) > had+syncEvery }, time.Minute, time.Millisecond)
		end()
		require.Error(t, cmd.Wait())
		require.Contains(t, text.String(), "run the same command again")
		s.start()
	}
	text, err := s.tokensIssue(t, args...).CombinedOutput()
	require.NoError(t, err, "%s", text)
	s.requireIssuedOnce(t, out, batchSize())
}

// What is refused is said, and not tried again; the rest is issued; the exit status tells.
func TestBatchWithRefusedTokens(t *testing.T) {
	s := startService(t)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.csv"), filepath.Join(dir, "out.ndjson")
	require.NoError(t, os.WriteFile(in, []byte("\ufeffclass,subject,channel,profile,uses\r\n"+
		"card,"+testCard(1)+",app,offline-60,second-pin login\r\ncard,6037991234567890,app,offline-60,second-pin\r\n"+
		"account,acc-1,pwa,offline-120,\r\ncard,"+testCard(1)+",app,offline-60,second-pin login\r\n"), 0o600))
	for range 2 {
		text, err := s.tokensIssue(t, "--file", in, "--out", out).CombinedOutput()
		require.ErrorContains(t, err, "exit status 1")
		require.Contains(t, string(text), "2 of 4 tokens are issued")
		require.Contains(t, string(text), "ramzban: 2 of 4 tokens were refused, and "+out+" says why; token ")
		require.NotContains(t, string(text), "6037")
	}
	_, answers := answersIn(t, out)
	require.Equal(t, "subject_invalid", answers[2].Problem.Code)
	first, other := answers[1], answers[4] // the same card twice: they are carried out side by side, and one comes first
	if first.Problem != nil {
		first, other = other, first
	}
	require.Equal(t, "live_token_exists", other.Problem.Code)
	token, err := s.as("branch").Token(t.Context(), first.Serial)
	require.NoError(t, err)
	require.Equal(t, []string{"second-pin", "login"}, token.Uses)
	require.NotContains(t, contentOf(t, out), "6037")
	require.Equal(t, 5, linesIn(out), "the second run asked for nothing")
}

// An OUT of another input, one that another run is writing, and one that is something else are left as they are.
func TestBatchRefusesForeignOutputs(t *testing.T) {
	s := startService(t)
	dir := t.TempDir()
	in, out := tokensIn(t, 3), filepath.Join(dir, "out.ndjson")
	require.NoError(t, s.tokensIssue(t, "--file", in, "--out", out).Run())
	content := contentOf(t, out)
	refuse := func(says string, args ...string) {
		t.Helper()
		text, err := s.tokensIssue(t, args...).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(text), says)
		require.Equal(t, 1, strings.Count(string(text), "\n"), "%s", text)
	}
	refuse("it belongs to another input", "--file", tokensIn(t, 4), "--out", out)
	refuse("it belongs to another input", "--count", "3", "--account-prefix", "x", "--use", testUse, "--out", out)
	refuse("not the file of a batch", "--file", in, "--out", in)
	held, err := os.Open(out)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(held.Fd()), syscall.LOCK_EX))
	refuse("another run is writing it", "--file", in, "--out", out)
	require.NoError(t, held.Close())
	require.NoError(t, os.Chmod(out, 0o644))
	refuse("others may read it", "--file", in, "--out", out)
	require.NoError(t, os.Chmod(out, 0o600))
	require.Equal(t, content, contentOf(t, out))
	s.requireIssuedOnce(t, out, 3)
}

// The same tokens in another form are the same input.
func TestInputsOfOneMeaningAreOne(t *testing.T) {
	dir := t.TempDir()
	csvIn := filepath.Join(dir, "in.csv")
	require.NoError(t, os.WriteFile(csvIn, []byte("uses,class,subject,channel,profile\nlogin,account,P-000001,app,offline-60\nlogin,account,P-000002,app,offline-60\n"), 0o600))
	ndjson := filepath.Join(dir, "in.ndjson")
	require.NoError(t, os.WriteFile(ndjson, []byte(`{"class":"account","subject":"P-000001","channel":"app","profile":"offline-60","uses":["login"]}
{"uses":["login"], "class":"account","subject":"P-000002","channel":"app","profile":"offline-60"}`), 0o600))
	counted := countedAccounts{prefix: "P", count: 2, token: wire.IssueRequest{Class: "account", Channel: "app", Profile: "offline-60", Uses: []string{"login"}}}
	var found []input
	for _, s := range []tokenSource{csvFile(csvIn), lineFile(ndjson), counted} {
		in, err := survey(s)
		require.NoError(t, err)
		found = append(found, in)
	}
	require.Equal(t, 2, found[0].tokens)
	require.Equal(t, found[0], found[1])
	require.Equal(t, found[0], found[2])
	one, err := found[0].digest("a")
	require.NoError(t, err)
	other, err := found[0].digest("b")
	require.NoError(t, err)
	require.NotEqual(t, one, other, "the digest is salted")
}

// A broken input is found before anything is sent, and what is said of it repeats nothing of it.
func TestBrokenInputs(t *testing.T) {
	dir := t.TempDir()
	good := `{"class":"card","subject":"6037991234567893","channel":"app","profile":"offline-60","uses":[]}` + "\n"
	goodRow := "class,subject,channel,profile\ncard,6037991234567893,app,offline-60\n"
	for name, c := range map[string]struct{ file, content, says string }{
		"unknown field":    {"a.ndjson", good + `{"class":"card","number":"6037991234567893"}`, "line 2 is not one JSON document"},
		"two documents":    {"a.ndjson", `{} {"subject":"6037991234567893"}`, "line 1 is not"},
		"an empty line":    {"a.ndjson", good + "\n" + good, "line 2 is not"},
		"a long line":      {"a.ndjson", `{"subject":"` + strings.Repeat("6037", 3000) + `"}`, "line 1"},
		"nothing":          {"a.ndjson", "", "holds no tokens"},
		"unknown column":   {"a.csv", "class,6037991234567893\ncard,1\n", "column 2 of the header"},
		"a column twice":   {"a.csv", "class,class\ncard,card\n", "column 2 of the header"},
		"a cell too many":  {"a.csv", "class,subject\ncard,6037991234567893,x\n", "token 1 (line 2 of the file) has 3 fields, but the header has 2"},
		"a cell too few":   {"a.csv", goodRow + "\n\ncard\n", "token 2 (line 5 of the file) has 1 fields, but the header has 4"},
		"semicolons":       {"a.csv", "class;subject;channel\ncard;6037991234567893;app\n", "separate with commas"},
		"no class":         {"a.ndjson", `{"subject":"6037991234567893","channel":"app","profile":"offline-60"}`, "token 1 has no class"},
		"no subject":       {"a.ndjson", good + `{"class":"card","channel":"app","profile":"offline-60"}`, "token 2 has no subject"},
		"no channel":       {"a.csv", goodRow + "card,6037991234567893,,offline-60\n", "token 2 has no channel"},
		"no profile":       {"a.csv", "class,subject,channel\ncard,6037991234567893,app\n", "token 1 has no profile"},
		"a quote in a row": {"a.csv", "class,subject\ncard,60\"37991234567893\n", "token 1 (line 2 of the file): bare \""},
		"no header":        {"a.csv", "", "a.csv is empty"},
		"another kind":     {"a.txt", "x", "must end in .ndjson or .csv"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, c.file)
			require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
			s, err := fileSource(path)
			if err == nil {
				_, err = survey(s)
			}
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "6037")
		})
	}
}

func TestFlagsOfABatch(t *testing.T) {
	for _, c := range []struct {
		says string
		args []string
	}{
		{"--out is missing", []string{"--file", "a.csv"}},
		{"either --file or --count", []string{"--out", "o"}},
		{"either --file or --count", []string{"--out", "o", "--file", "a.csv", "--count", "1"}},
		{"--use goes with --count", []string{"--out", "o", "--file", "a.csv", "--use", "login"}},
		{"at least 1", []string{"--out", "o", "--count", "0", "--account-prefix", "x"}},
		{"--account-prefix", []string{"--out", "o", "--count", "1"}},
	} {
		cmd := tokensIssueCommand()
		cmd.SetArgs(c.args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		require.ErrorContains(t, cmd.ExecuteContext(context.Background()), c.says)
	}
}
