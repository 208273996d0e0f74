package api_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/wire"
	"ramzban/keyservice"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
	"ramzban/keyservice/seed"
)

func (r *recorder) ImportClear(ctx context.Context, c authz.Caller, id string, file []byte) ([]keyservice.WrappedSeed, error) {
	made := []keyservice.WrappedSeed{{Device: "GX-1", Hash: seed.SHA1, MakerSeed: []byte{1, 2}}, {Device: "GX-2", Hash: seed.SHA256, Refused: keyservice.CodeSeedInUse}}
	return made, r.note(ctx, "import-clear-seeds", c, [2]string{id, string(file)})
}

func (r *recorder) MayImportClear(ctx context.Context, c authz.Caller) error {
	if r.hook == nil {
		return nil
	}
	return r.hook(ctx, "may-import-clear-seeds")
}

// Who may not send a file is told so before any of it is read.
func TestNobodyElsesSeedFileIsRead(t *testing.T) {
	w := start(t, &recorder{hook: func(context.Context, string) error { return &keyservice.Error{Code: keyservice.CodeDenied} }}, nil)
	head := "POST /v1/seed-imports/5d0f HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
	require.Contains(t, w.raw("verifier", head), "not_allowed")
}

// The file travels byte for byte, is bounded, and is wiped where it was read; a connection goes on after it.
func TestSeedFilesTravel(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	file := strings.Repeat("any bytes\x00\r\n", 20_000)
	a := decode[wire.SeedImportAnswer](t, w.send("officer", http.MethodPost, "/v1/seed-imports/5d0f", file))
	require.Equal(t, [2]string{"5d0f", file}, rec.seen()[0].input)
	sum := sha256.Sum256([]byte{1, 2})
	require.Equal(t, []wire.ImportedSeed{
		{Device: "GX-1", Hash: "SHA1", MakerSeed: []byte{1, 2}, DeviceKeySHA256: hex.EncodeToString(sum[:])}, {Device: "GX-2", Hash: "SHA256", Refused: "seed_in_use"},
	}, a.Seeds)
	for name, c := range map[string]struct {
		body, media, code string
	}{
		"too long":     {strings.Repeat("x", keyservice.MaxClearFile+1), "application/x-ndjson", "body_too_large"},
		"nothing":      {"", "application/x-ndjson", "body_required"},
		"another form": {"{}", "application/json", "media_type_not_supported"},
	} {
		require.Equal(t, c.code, w.send("officer", http.MethodPost, "/v1/seed-imports/5d0f", c.body, "Content-Type: "+c.media).problem(t).Code, name)
	}
	require.Len(t, rec.seen(), 1)
	raw := w.raw("officer", "POST /v1/seed-imports/5d0f HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 2\r\n\r\n{}"+
		"GET /v1/proposals HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.Equal(t, 2, strings.Count(raw, "HTTP/1.1 200 OK"), raw)
}

// agrees has an action proposed by one officer, approved by another one, and carried out.
func (b *bank) agrees(action string, parameters any) string {
	b.t.Helper()
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	p, err := approval.New(b.controlled().Installation, action, parameters, "the-officer", nonce, time.Now(), approval.DefaultLife)
	require.NoError(b.t, err)
	document, err := p.Encode()
	require.NoError(b.t, err)
	made := decode[wire.Proposal](b.t, b.post("officer", "/v1/proposals", b.sign("officer", document)))
	decode[wire.Proposal](b.t, b.post("officer-2", "/v1/proposals/"+made.ID+"/approval", b.sign("officer-2", b.consents("the-officer-2", document))))
	_, err = b.service.CarryOut(b.t.Context())
	require.NoError(b.t, err)
	return made.ID
}

// Over mutual TLS, one officer alone has no seed in clear taken; after two have agreed, the device of another
// implementation is accepted. The seed is in no log line, metric, entry or row.
func TestTwoOfficersImportSeedsInClear(t *testing.T) {
	b := openControlled(t)
	f := &fob{bank: b, seed: make([]byte, 20)}
	_, err := rand.Read(f.seed)
	require.NoError(t, err)
	file := fmt.Sprintf(`{"device":"GX-000123","hash":"SHA1","seed":"%x"}`+"\n", f.seed)
	sum := sha256.Sum256([]byte(file))
	want := keyservice.ClearImport{SHA256: hex.EncodeToString(sum[:]), Lines: 1, Source: "GX Tokens"}
	send := func(client, id, file string) reply {
		return b.send(client, http.MethodPost, "/v1/seed-imports/"+id, file)
	}
	require.Equal(t, "proposal_closed", send("officer", strings.Repeat("0", 32), file).problem(t).Code)
	id := b.agrees(keyservice.ActionImportClear, want)
	require.Equal(t, "document_invalid", send("officer", id, file+" ").problem(t).Code)
	require.Equal(t, "not_an_officer", send("officer-3", id, file).problem(t).Code)
	require.Equal(t, "not_allowed", send("issuer", id, file).problem(t).Code)
	made := decode[wire.SeedImportAnswer](t, send("officer-2", id, file)).Seeds
	require.Equal(t, "GX-000123", made[0].Device)

	r := issueFob(1)
	r.DeviceKeySHA256 = made[0].DeviceKeySHA256
	issued := decode[wire.IssueAnswer](t, b.post("issuer", "/v1/tokens", r))
	path := "/v1/tokens/" + issued.Serial
	request := wire.ActivationRequest{Subject: card(1), ActivationCode: b.collect(issued.Activation.ID).Code, MakerSeed: f.seed}
	require.Equal(t, "device_key_not_pinned", b.post("activator", path+"/activation", request).problem(t).Code, "in clear it goes nowhere else")
	request.MakerSeed = made[0].MakerSeed
	decode[wire.ActivationAnswer](t, b.post("activator", path+"/activation", request))
	decode[wire.StatusAnswer](t, b.post("activator", path+"/confirmation", wire.ConfirmationRequest{OTP: f.password()}))
	for range 3 {
		require.Equal(t, "accepted", b.verify(bySubject(1, f.password(), nil)).Result)
	}
	log := b.send("auditor", http.MethodGet, "/v1/audit/entries?limit=1000", "").body
	require.Regexp(t, `device GX-000123, SHA1, digest [0-9A-Za-z+/]{43}="`, log)
	written := b.log.String() + hsmLog.String() + b.gather(t) + log + fmt.Sprint(b.rows())
	require.Contains(t, written, "/v1/seed-imports/{id}")
	for _, s := range shown(f.seed) {
		require.NotContains(t, written, s)
	}
}
