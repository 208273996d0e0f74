package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/wire"
	"ramzban/keyservice/authz"
)

// TestLifeOfAToken plays a token's life over the API: enrolment, a password accepted once, suspension, the end.
func TestLifeOfAToken(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	verify := func() wire.VerificationAnswer {
		return decode[wire.VerificationAnswer](t, b.post("verifier", "/v1/verifications", p.request()))
	}
	first := verify()
	require.Equal(t, "accepted", first.Result)
	require.Equal(t, "offline", first.Kind)
	require.Equal(t, "already_used", verify().Reason)
	b.now.add(time.Minute)
	require.Equal(t, "accepted", verify().Result)
	move := func(to string) string {
		return decode[wire.StatusAnswer](t, b.post("issuer", "/v1/tokens/"+p.serial+"/"+to, nil)).Status
	}
	require.Equal(t, "suspended", move("suspend"))
	b.now.add(time.Minute)
	require.Equal(t, "not_active", verify().Reason)
	require.Equal(t, "active", move("resume"))
	require.Equal(t, "accepted", verify().Result)
	seen := decode[wire.TokenAnswer](t, b.send("issuer", "GET", "/v1/tokens/"+p.serial, ""))
	require.Equal(t, "****"+p.card[12:], seen.Subject)
	require.Equal(t, "device-1", seen.DeviceID)
	require.Equal(t, "deactivated", move("deactivate"))
	require.Equal(t, "issued", b.issue(1).Status, "the card may have another token")

	page := decode[wire.AuditAnswer](t, b.send("auditor", "GET", "/v1/audit/entries?limit=1000", ""))
	require.Equal(t, "otp.verify", page.Entries[first.Audit.Index].Action)
	require.Equal(t, "accepted", page.Entries[first.Audit.Index].Outcome)
	require.Equal(t, "the-verifier", page.Entries[first.Audit.Index].Actor)
	require.NotEmpty(t, page.Entries[first.Audit.Index].RequestID)
	require.Empty(t, decode[wire.ComparisonAnswer](t, b.send("auditor", "GET", "/v1/audit/comparison", "")).Discrepancies)
}

// TestOnePasswordManyTimesAtOnce: of 200 concurrent requests with one password exactly one is accepted.
func TestOnePasswordManyTimesAtOnce(t *testing.T) {
	b := openBank(t)
	p := b.enrolled(1)
	request := p.request()
	body := fmt.Sprintf(`{"serial":%q,"use":"second-pin","otp":%q}`, request.Serial, request.OTP)
	b.as("verifier")
	results := make(chan string, 200)
	var ready, wg sync.WaitGroup
	ready.Add(200)
	for range 200 {
		wg.Go(func() {
			ready.Done()
			ready.Wait()
			r, err := b.try(b.as("verifier"), "POST", "/v1/verifications", body)
			if err != nil || r.status != 200 {
				results <- fmt.Sprint(r, err)
				return
			}
			a := decode[wire.VerificationAnswer](t, r)
			results <- a.Result + a.Reason
		})
	}
	wg.Wait()
	close(results)
	count := map[string]int{}
	for r := range results {
		count[r]++
	}
	require.Equal(t, map[string]int{"accepted": 1, "refusedalready_used": 199}, count)
}

// matrixRow says who may call a route and what the one who may gets, on a token that is issued and nothing more.
type matrixRow struct {
	route  string
	role   authz.Role // "" for anyone
	body   string
	status int
	code   string // of the problem, if the one who may gets one
}

func matrix(serial string) []matrixRow {
	return []matrixRow{
		{"get /v1/time", "", "", 200, ""},
		{"get /v1/tokens/{serial}", authz.Issuer, "", 200, ""},
		{"post /v1/tokens/{serial}/activation-code", authz.Issuer, "", 200, ""},
		{"post /v1/tokens/{serial}/suspend", authz.Issuer, "", 409, "transition_not_allowed"},
		{"post /v1/tokens/{serial}/resume", authz.Issuer, "", 409, "transition_not_allowed"},
		{"post /v1/tokens", authz.Issuer, strings.Replace(issueBody, "6037991234567893", card(77), 1), 201, ""},
		{"post /v1/tokens/bulk", authz.Issuer, `{"end":true,"lines":0}`, 200, ""},
		{"post /v1/tokens/{serial}/activation", authz.Activator,
			`{"activation_code":"00000000","device":{"id":"x","channel":"app","public_key":"AAAA"}}`, 422, "device_key_invalid"},
		{"post /v1/tokens/{serial}/confirmation", authz.Activator, `{"proof":"AAAA"}`, 409, "transition_not_allowed"},
		{"post /v1/tokens/{serial}/resync", authz.Activator, `{"otp1":"12345678","otp2":"12345679"}`, 200, ""},
		{"put /v1/tokens/{serial}/uses", authz.Issuer, `{"uses":["second-pin","login"]}`, 200, ""},
		{"put /v1/tokens/{serial}/pin", authz.Issuer, `{"pin":"27182818"}`, 422, "request_invalid"},
		{"put /v1/tokens/{serial}/mobile", authz.Issuer, `{"mobile":"09121234567"}`, 200, ""},
		{"post /v1/tokens/{serial}/removal", authz.Activator, `{"proof":"AAAA"}`, 409, "transition_not_allowed"},
		{"post /v1/tokens/{serial}/unlock", authz.Issuer, "", 200, ""},
		{"post /v1/challenges", authz.Verifier, strings.Replace(challengeBody, "6037991234567893", card(77), 1), 409, "not_opted_in"},
		{"post /v1/activations", authz.Activator, fmt.Sprintf(`{"class":"card","subject":%q,"activation_code":"00000000","maker_seed":"AAAA"}`, card(79)), 403, "activation_code_wrong"},
		{"post /v1/subjects/tokens", authz.Issuer, fmt.Sprintf(`{"class":"card","subject":%q}`, card(78)), 200, ""},
		{"post /v1/subjects/deactivations", authz.Issuer, fmt.Sprintf(`{"class":"card","subject":%q}`, card(78)), 200, ""},
		{"get /v1/import-key", authz.Activator, "", 200, ""},
		{"post /v1/codes/{id}/collection", authz.Courier, "", 404, "code_not_found"},
		{"post /v1/verifications", authz.Verifier, fmt.Sprintf(`{"serial":%q,"use":"second-pin","otp":"12345678"}`, serial), 200, ""},
		{"post /v1/backups", authz.Operator, "", 200, ""},
		{"get /v1/audit/entries", authz.Auditor, "", 200, ""},
		{"get /v1/audit/logs", authz.Auditor, "", 200, ""},
		{"get /v1/audit/comparison", authz.Auditor, "", 200, ""},
		{"post /v1/proposals", authz.Officer, `{"document":"{}","signature":"AAAA","certificate":"AAAA"}`, 422, "document_invalid"},
		{"get /v1/proposals", authz.Officer, "", 200, ""},
		{"get /v1/proposals/{id}", authz.Officer, "", 404, "proposal_not_found"},
		{"post /v1/proposals/{id}/approval", authz.Officer, `{"document":"{}","signature":"AAAA","certificate":"AAAA"}`, 404, "proposal_not_found"},
		{"get /v1/keys", authz.Officer, "", 200, ""},
		{"get /v1/rotations", authz.Officer, "", 200, ""},
		{"get /v1/rotations/{id}", authz.Officer, "", 404, "rotation_not_found"},
		{"post /v1/rotations/{id}/pause", authz.Officer, "", 404, "rotation_not_found"},
		{"post /v1/rotations/{id}/resume", authz.Officer, "", 404, "rotation_not_found"},
		{"post /v1/feeds/{id}", authz.Officer, `{"subjects":[{"class":"card","subject":"6037991234567893"}]}`, 409, "proposal_closed"},
		{"post /v1/seed-imports/{id}", authz.Officer, "{}", 409, "proposal_closed"},
		{"post /v1/proposals/{id}/withdrawal", authz.Officer, "", 404, "proposal_not_found"},
		{"get /v1/audit/stream", authz.Auditor, "", 200, ""},
		{"get /v1/audit/checkpoint", authz.Auditor, "", 404, "checkpoint_not_found"},
		{"get /v1/audit/proofs/inclusion", authz.Auditor, "", 404, "checkpoint_not_found"},
		{"get /v1/audit/proofs/consistency", authz.Auditor, "", 404, "checkpoint_not_found"},
		{"get /v1/audit/keys", authz.Auditor, "", 200, ""},
		{"post /v1/tokens/{serial}/deactivate", authz.Issuer, "", 200, ""},
	}
}

// TestRoleMatrix calls every route of the OpenAPI document as every role, without a certificate, and with one that
// belongs to nobody. Only the role the table names gets through; nobody else changes or learns anything.
func TestRoleMatrix(t *testing.T) {
	b := &bank{now: &clock{now: birth}, denials: api.Rate{PerSecond: 1000, Burst: 1000}}
	b.openForRoles(t)
	serial := b.issue(1).Serial
	rows := matrix(serial)
	checkMatrixIsComplete(t, b.document(t), rows)
	before, denials := b.rows(), 0
	for _, row := range rows {
		for _, client := range callers() {
			if row.role == "" || client == string(row.role) {
				continue
			}
			r, unknown := b.call(row, client, serial), b.call(row, client, luhn("00000000000"))
			want, code := 403, "not_allowed"
			switch client {
			case "":
				want, code = 401, "certificate_required"
			case "stranger":
				code = "certificate_unknown"
			default:
				denials += 2
			}
			require.Equal(t, want, r.status, "%s as %q", row.route, client)
			p, other := r.problem(t), unknown.problem(t)
			require.Equal(t, code, p.Code, "%s as %q", row.route, client)
			p.RequestID, other.RequestID = "", ""
			require.Equal(t, p, other, "whether the token exists is not to be seen")
		}
	}
	require.Equal(t, before, b.rows(), "nobody who was refused changed anything")
	require.Equal(t, denials, b.outcomes(t)["denied"], "every denial is in the audit log")
	for _, row := range rows {
		for _, client := range callers() {
			if row.role == "" || client == string(row.role) {
				r := b.call(row, client, serial)
				require.Equal(t, row.status, r.status, "%s as %q: %s", row.route, client, r.body)
				if row.code != "" {
					require.Equal(t, row.code, r.problem(t).Code)
				}
			}
		}
	}
}

// callers are all roles, "" for no certificate, and a certificate that is nobody's.
func callers() []string {
	all := []string{"", "stranger"}
	for _, r := range authz.Roles() {
		all = append(all, string(r))
	}
	return all
}

// checkMatrixIsComplete fails when a route is not in the table, or stands there with another role than it documents.
func checkMatrixIsComplete(t *testing.T, d document, rows []matrixRow) {
	t.Helper()
	documented, tabled := map[string]string{}, map[string]string{}
	for path, item := range d.Paths {
		for method, op := range item {
			documented[method+" "+path] = op.Role
		}
	}
	for _, row := range rows {
		tabled[row.route] = string(row.role)
	}
	require.Equal(t, documented, tabled)
}

func (b *bank) call(row matrixRow, client, serial string) reply {
	b.t.Helper()
	method, path, _ := strings.Cut(row.route, " ")
	path = strings.NewReplacer("{serial}", serial, "{id}", "5d0f6f3c1b7e49a2b8a1c2d3e4f50617").Replace(path)
	return b.send(client, strings.ToUpper(method), path, row.body)
}

// outcomes counts the entries of the audit log by outcome.
func (b *bank) outcomes(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for from := uint64(0); ; {
		page := decode[wire.AuditAnswer](t, b.send("auditor", http.MethodGet, fmt.Sprintf("/v1/audit/entries?limit=1000&from=%d", from), ""))
		for _, e := range page.Entries {
			count[e.Outcome]++
		}
		if from = page.Next; len(page.Entries) < 1000 {
			return count
		}
	}
}

// TestNoSecretIsWritten runs a token's whole life and searches all logs, metrics and answers for everything secret in it.
func TestNoSecretIsWritten(t *testing.T) {
	b := openBank(t)
	key, err := phoneKey()
	require.NoError(t, err)
	issued := b.post("issuer", "/v1/tokens", issueCard(1))
	token := decode[wire.IssueAnswer](t, issued)
	code := b.collect(token.Activation.ID).Code
	path := "/v1/tokens/" + token.Serial
	wrongCode := b.post("activator", path+"/activation", b.activation(1, "00000000", &key.PublicKey))
	again := b.post("activator", path+"/activation", b.activation(1, code, &key.PublicKey))
	p := b.enrolled(2)
	request := p.request()
	answers := []reply{issued, wrongCode, again,
		b.post("verifier", "/v1/verifications", request), b.post("verifier", "/v1/verifications", request),
		b.post("verifier", "/v1/verifications", wire.VerificationRequest{Serial: p.serial, Use: "second-pin", OTP: "0" + request.OTP}),
		b.post("verifier", "/v1/verifications", wire.VerificationRequest{Serial: p.serial, Use: card(2), OTP: request.OTP}),
		b.post("verifier", "/v1/verifications", wire.VerificationRequest{Serial: card(2), Use: "second-pin", OTP: request.OTP}),
		b.post("issuer", "/v1/tokens", issueCard(2)), b.send("issuer", "GET", path, ""), b.send("issuer", "GET", "/v1/tokens/"+card(2), ""),
		b.send("issuer", "GET", "/v1/tokens?subject="+card(2), ""), b.post("issuer", path+"/deactivate", nil),
		b.send("auditor", "GET", "/v1/audit/entries?limit=1000", ""),
	}
	written := b.log.String() + hsmLog.String() + b.gather(t)
	for _, a := range answers {
		written += fmt.Sprint(a.header) + a.body
	}
	require.Contains(t, written, token.Serial, "the search sees what is written")
	secrets := append(shown(p.seed), shown([]byte(request.OTP))[0], code, card(1), card(2), hsmPIN.Reveal())
	for i, s := range secrets {
		require.NotContains(t, written, s, "secret %d", i)
	}
}
