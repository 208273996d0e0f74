package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz/approval"
)

// at runs a command at an officer's terminal, who types this.
func (s *service) at(t *testing.T, officer, typed string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	args = append(args, "--url", "https://"+s.api, "--ca", s.pki("ca.crt"), "--cert", s.pki(officer+".crt"), "--key", s.pki(officer+".key"))
	return atTerminal(t, typed, args...)
}

func atTerminal(t *testing.T, typed string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), ramzban, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(typed), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// does is at for what must succeed.
func (s *service) does(t *testing.T, officer string, args ...string) string {
	t.Helper()
	stdout, stderr, err := s.at(t, officer, "yes\n", args...)
	require.NoError(t, err, "%s%s", stdout, stderr)
	return stdout
}

// waiting returns the only proposal that waits.
func (s *service) waiting(t *testing.T) wire.Proposal {
	t.Helper()
	var p wire.Proposal
	require.NoError(t, json.Unmarshal([]byte(s.does(t, "officer-1", "approvals", "list", "--json")), &p))
	return p
}

func requireColumns(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimRight(line, "\n")), columns, line)
	}
}

// What one officer tries alone at a terminal is refused; what two agree on is done, and both read what they sign.
func TestOfficersAtTheirTerminals(t *testing.T) {
	s := startService(t)
	require.Equal(t, "officer-1\nofficer-2\n", s.does(t, "officer-1", "officers", "list"))
	_, stderr, err := s.at(t, "officer-1", "", "officers", "propose", "officer-1")
	require.Error(t, err)
	requireOneLine(t, stderr, "at least two")
	proposed := s.does(t, "officer-1", "officers", "propose", "officer-3", "officer-1")
	p := s.waiting(t)
	for _, want := range []string{p.ID, "change who the officers are", "officer-1, officer-3", "officer-1, officer-2", "waits for another officer's approval",
		approval.Digest([]byte(p.Proposal.Document)), "ramzban approvals approve " + p.ID[:12]} {
		require.Contains(t, proposed, want)
	}
	unfolded := strings.ReplaceAll(proposed[strings.Index(proposed, "folded:")+8:], "\n  ", "")
	require.Contains(t, unfolded, p.Proposal.Document, "the text that is signed")
	list := s.does(t, "officer-2", "approvals", "list")
	require.Contains(t, list, p.ID[:12]+" waiting   officer-1")
	require.Contains(t, list, "instead of officer-1, officer-2; officers officer-1, officer-3\n")
	requireColumns(t, proposed+list)

	for name, c := range map[string]struct {
		officer, typed string
		args, says     []string
	}{
		"approve it oneself":   {"officer-1", "yes\n", []string{"approvals", "approve", p.ID}, []string{"second_person_required"}},
		"who is no officer":    {"officer-3", "yes\n", []string{"approvals", "approve", p.ID[:4]}, []string{"not_an_officer"}},
		"no officer proposes":  {"officer-3", "", []string{"officers", "propose", "officer-3", "officer-1"}, []string{"not_an_officer"}},
		"a role that may not":  {"auditor", "yes\n", []string{"approvals", "approve", p.ID}, []string{"not_allowed"}},
		"on second thoughts":   {"officer-2", "no\n", []string{"approvals", "approve", p.ID}, []string{"nothing was signed"}},
		"without an answer":    {"officer-2", "", []string{"approvals", "approve", p.ID}, []string{"nothing was signed"}},
		"another's proposal":   {"officer-2", "", []string{"approvals", "withdraw", p.ID}, []string{"not_the_proposer"}},
		"too short an id":      {"officer-2", "", []string{"approvals", "show", p.ID[:3]}, []string{"4 or more"}},
		"an id that is not":    {"officer-2", "", []string{"approvals", "show", "zzzz"}, []string{"proposal_not_found"}},
		"an unknown officer":   {"officer-1", "", []string{"officers", "propose", "officer-1", "mallory"}, []string{"request_invalid"}},
		"too long to wait for": {"officer-1", "", []string{"officers", "propose", "officer-1", "officer-3", "--expires", "1000h"}, []string{"good for 5m0s to 720h"}},
	} {
		_, stderr, err := s.at(t, c.officer, c.typed, c.args...)
		require.Error(t, err, name)
		requireOneLine(t, stderr, c.says...)
	}
}

func TestTwoOfficersAgreeAtTheirTerminals(t *testing.T) {
	s := startService(t)
	s.does(t, "officer-1", "officers", "propose", "officer-3", "officer-1")
	p := s.waiting(t)
	approved := s.does(t, "officer-2", "approvals", "approve", p.ID[:6])
	require.Contains(t, approved, "Approve exactly this?")
	require.Contains(t, approved, p.ID[:12]+": carried out: officer-1, officer-3")
	requireColumns(t, approved)
	require.Equal(t, "\"officer-1\"\n\"officer-3\"\n", s.does(t, "officer-3", "officers", "list", "--json"))
	_, notes, err := s.at(t, "officer-1", "", "approvals", "list")
	require.NoError(t, err)
	require.Contains(t, notes, "nothing waits")
	shown := s.does(t, "officer-1", "approvals", "show", p.ID)
	require.Contains(t, shown, "by officer-2")
	requireColumns(t, shown+s.does(t, "officer-1", "approvals", "list", "--all"))

	s.does(t, "officer-3", "officers", "propose", "officer-1", "officer-2")
	require.Contains(t, s.does(t, "officer-3", "approvals", "withdraw", s.waiting(t).ID), "withdrawn by its proposer")
	s.provesOffline(t, p.ID)
	require.NoError(t, s.terminate())
}

// provesOffline: what the log keeps of a proposal verifies with nothing but the authority's certificate, by our tool and by
// openssl.
func (s *service) provesOffline(t *testing.T, id string) {
	t.Helper()
	page, err := s.as("auditor").AuditEntries(t.Context(), client.AuditQuery{Limit: 1000})
	require.NoError(t, err)
	var segment bytes.Buffer
	signed := 0
	for _, e := range page.Entries {
		entry := audit.Entry{Time: e.Time.UnixMilli(), Node: e.Node, Action: e.Action, Proposal: e.Proposal, Document: []byte(e.Document), Signature: e.Signature, Certificate: e.Certificate}
		leaf, err := audit.Encode(entry)
		require.NoError(t, err)
		require.NoError(t, json.NewEncoder(&segment).Encode(map[string]any{"index": e.Index, "leaf": leaf}))
		if e.Document == "" {
			continue
		}
		signed++
		opensslVerifies(t, e.Document, e.Signature, e.Certificate)
	}
	require.Equal(t, 3, signed, "two proposals and an approval")
	file := writeFile(t, "entries-000000000000-000000000100.ndjson", segment.String())
	for _, trust := range [][]string{{"--ca", s.pki("ca.crt")}, {"--config", filepath.Join(s.dir, "ramzban.yaml")}} {
		out, stderr, err := atTerminal(t, "", append([]string{"approvals", "verify", file}, trust...)...)
		require.NoError(t, err, stderr)
		require.Equal(t, id[:12]+": officers.change, proposed by officer-1, approved by officer-2: both signatures are good\n2 proposals, 1 of them approved\n", out)
	}
	_, stderr, err := atTerminal(t, "", "approvals", "verify", file, "--ca", s.pki("ca.crt"), "--officer", "officer-1", "--officer", "officer-3")
	require.Error(t, err)
	requireOneLine(t, stderr, "not an officer")
	broken := strings.Replace(segment.String(), `"leaf":"`, `"leaf":"A`, 1)
	_, stderr, err = atTerminal(t, "", "approvals", "verify", writeFile(t, "entries.ndjson", broken), "--ca", s.pki("ca.crt"))
	require.Error(t, err)
	requireOneLine(t, stderr, "line 1")
}

// opensslVerifies has another implementation check a signature of a P-256 key.
func opensslVerifies(t *testing.T, document string, signature, certificate []byte) {
	t.Helper()
	leaf, err := x509.ParseCertificate(certificate)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	require.NoError(t, err)
	key := writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	verify := func(document string) error {
		return exec.Command("openssl", "dgst", "-sha256", "-verify", key, "-signature", writeFile(t, "signature", string(signature)), writeFile(t, "document", document)).Run()
	}
	require.NoError(t, verify(document))
	require.Error(t, verify(document+" "))
}

// What was approved is carried out although the service is killed at that very moment.
func TestApprovedIsCarriedOutAfterAKill(t *testing.T) {
	s := startService(t)
	names := [][]string{{"officer-1", "officer-2", "officer-3"}, {"officer-1", "officer-2"}}
	for i := range 4 {
		s.does(t, "officer-1", "officers", "propose", names[i%2][0], names[i%2][1], names[i%2][len(names[i%2])-1])
		p := s.waiting(t)
		document, err := approval.Approve([]byte(p.Proposal.Document), "officer-2", time.Now()).Encode()
		require.NoError(t, err)
		o := officer{}
		o.options.CertFile, o.options.KeyFile = s.pki("officer-2.crt"), s.pki("officer-2.key")
		signed, err := o.sign(document)
		require.NoError(t, err)
		_, err = s.as("officer-2").Approve(t.Context(), p.ID, signed)
		require.NoError(t, err)
		for range i { // so that the moment differs
			_, err = s.as("officer-1").Proposal(t.Context(), p.ID)
			require.NoError(t, err)
		}
		s.kill()
		s.start()
		require.Eventually(t, func() bool {
			now, err := s.as("officer-1").Proposal(t.Context(), p.ID)
			require.NoError(t, err)
			require.NotEqual(t, "failed", now.Status, now.Result)
			return now.Status == "done"
		}, time.Minute, 20*time.Millisecond)
		answer, err := s.as("officer-1").Proposals(t.Context())
		require.NoError(t, err)
		require.Equal(t, names[i%2], answer.Officers)
	}
	compared, err := s.as("auditor").CompareAudit(t.Context())
	require.NoError(t, err)
	require.Empty(t, compared.Discrepancies)
}

// Files take the place of a service where none runs.
func TestOfficersSignFiles(t *testing.T) {
	p, err := openPKI(t.TempDir())
	require.NoError(t, err)
	for _, name := range []string{"officer-1", "officer-2", "officer-1-new"} {
		require.NoError(t, p.client(name))
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	sign := func(as, out string, args ...string) (string, string, error) {
		return atTerminal(t, "yes\n", append([]string{"approvals", "sign", "--cert", p.path(as + ".crt"), "--key", p.path(as + ".key"), "--out", file(out)}, args...)...)
	}
	parameters := `{"backup_sha256":"` + strings.Repeat("ab", 32) + `"}`
	out, stderr, err := sign("officer-1", "proposal", "--name", "officer-1", "--action", "restore", "--parameters", parameters, "--installation", "5d0f6f3c1b7e49a2")
	require.NoError(t, err, stderr)
	require.Contains(t, out, "signed by officer-1")
	_, stderr, err = sign("officer-1", "refused", "--name", "officer-1", "--of", file("proposal"))
	require.Error(t, err)
	requireOneLine(t, stderr, "another person")
	out, stderr, err = sign("officer-2", "approval", "--name", "officer-2", "--of", file("proposal"))
	require.NoError(t, err, stderr)
	require.Contains(t, out, "restore a backup")
	require.Contains(t, out, strings.Repeat("ab", 32))
	requireColumns(t, strings.Split(out, file(""))[0])
	_, stderr, err = sign("officer-2", "approval", "--name", "officer-2", "--of", file("proposal"), "--yes")
	require.Error(t, err, "no file is replaced")
	requireOneLine(t, stderr, "--out")
	_, _, err = sign("officer-1-new", "in-anothers-name", "--name", "officer-2", "--of", file("proposal"), "--yes")
	require.NoError(t, err, "anyone can write anything")

	verify := func(args ...string) (string, string, error) {
		return atTerminal(t, "", append([]string{"approvals", "verify", "--ca", p.path("ca.crt"), "--proposal", file("proposal")}, args...)...)
	}
	out, stderr, err = verify("--approval", file("approval"), "--installation", "5d0f6f3c1b7e49a2", "--officer", "officer-1,officer-2")
	require.NoError(t, err, stderr)
	require.Contains(t, out, "restore, proposed by officer-1, approved by officer-2: both signatures are good")
	edited, err := os.ReadFile(file("proposal"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file("edited"), bytes.Replace(edited, []byte("abab"), []byte("acab"), 1), 0o600))
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"signed by another":       {[]string{"--approval", file("in-anothers-name")}, "another person than it names"},
		"another installation":    {[]string{"--approval", file("approval"), "--installation", strings.Repeat("0", 16)}, "another installation"},
		"too late":                {[]string{"--approval", file("approval"), "--at", time.Now().Add(61 * time.Minute).Format(time.RFC3339)}, "expired"},
		"not officers":            {[]string{"--approval", file("approval"), "--officer", "officer-1", "--officer", "officer-3"}, "not an officer"},
		"the proposal twice":      {[]string{"--approval", file("proposal")}, "not a document"},
		"an edited document":      {[]string{"--approval", file("approval"), "--proposal", file("edited")}, "signature"},
		"a time that is none":     {[]string{"--approval", file("approval"), "--at", "soon"}, "--at"},
		"a file that is not":      {[]string{"--approval", file("none")}, "no such file"},
		"both ways to be trusted": {[]string{"--approval", file("approval"), "--config", "x"}, "either --config or --ca"},
	} {
		_, stderr, err := verify(c.args...)
		require.Error(t, err, name)
		requireOneLine(t, stderr, c.says)
	}
	b, err := os.ReadFile(file("approval"))
	require.NoError(t, err)
	var s wire.Signed
	require.NoError(t, json.Unmarshal(b, &s))
	opensslVerifies(t, s.Document, s.Signature, s.Certificate)

	v, err := trust{ca: p.path("ca.crt")}.verifier()
	require.NoError(t, err)
	rules := approval.Rules{Installation: "5d0f6f3c1b7e49a2", Officers: []string{"officer-1", "officer-2"}, At: time.Now()}
	agreed, _, err := readApproved(v, rules, "restore", file("proposal"), file("approval"))
	require.NoError(t, err)
	require.JSONEq(t, parameters, string(agreed.Parameters))
	_, _, err = readApproved(v, rules, keyservice.ActionOfficers, file("proposal"), file("approval"))
	require.ErrorContains(t, err, "not on officers.change")
}

// A service that shows one thing and has another signed is not believed.
func TestWhatIsShownIsWhatIsSigned(t *testing.T) {
	p, err := openPKI(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, p.client("officer-1"))
	o := officer{}
	o.options.CertFile, o.options.KeyFile = p.path("officer-1.crt"), p.path("officer-1.key")
	document, err := newProposal("5d0f6f3c1b7e49a2", "keys.destroy", map[string]any{"label": "wrap", "version": 12345678901234567}, "officer-1", approval.DefaultLife)
	require.NoError(t, err)
	signed, err := o.sign(document)
	require.NoError(t, err)
	good := wire.Proposal{ID: approval.ID(document), Action: "keys.destroy", Proposer: "officer-1", Status: "waiting", Proposal: signed}
	require.NoError(t, genuine(good))
	var out bytes.Buffer
	require.NoError(t, printProposal(&out, good))
	require.Contains(t, out.String(), "12345678901234567")
	for name, spoil := range map[string]func(*wire.Proposal){
		"another id":       func(p *wire.Proposal) { p.ID = strings.Repeat("0", 32) },
		"another action":   func(p *wire.Proposal) { p.Action = "officers.change" },
		"another proposer": func(p *wire.Proposal) { p.Proposer = "officer-2" },
		"another document": func(p *wire.Proposal) {
			p.Proposal.Document = strings.Replace(p.Proposal.Document, "wrap", "seal", 1)
			p.ID = approval.ID([]byte(p.Proposal.Document))
		},
		"no document": func(p *wire.Proposal) { p.Proposal.Document = "{}" },
	} {
		bad := good
		spoil(&bad)
		require.Error(t, genuine(bad), name)
	}
}

func TestDamagedRowsAreNamed(t *testing.T) {
	var notes bytes.Buffer
	require.NoError(t, printDamaged(&notes, "proposal", []string{"5d0f6f3c1b7e49a2b8a1c2d3e4f50617", ""}))
	require.Equal(t, "proposal 5d0f6f3c1b7e is DAMAGED: its row was changed outside the service\n"+
		"proposal (no id) is DAMAGED: its row was changed outside the service\n", notes.String())
	requireColumns(t, notes.String())
}
