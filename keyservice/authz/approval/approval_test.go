package approval_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"ramzban/keyservice/authz/approval"
)

const installation = "5d0f6f3c1b7e49a2"

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

type change struct {
	Officers []string `json:"officers"`
	At       int      `json:"at,omitempty"`
}

func proposal(t testing.TB, by string) approval.Proposal {
	p, err := approval.New(installation, "officers.change", change{Officers: []string{"a", "b <&>"}}, by, make([]byte, 16), now, approval.DefaultLife)
	require.NoError(t, err)
	return p
}

func TestADocumentHasOneForm(t *testing.T) {
	document, err := proposal(t, "رمزبان").Encode()
	require.NoError(t, err)
	require.Equal(t, `{"ramzban_proposal":1,"installation":"5d0f6f3c1b7e49a2","action":"officers.change","parameters":{"officers":["a","b <&>"]},`+
		`"proposer":"رمزبان","nonce":"00000000000000000000000000000000","created_at":"2026-11-22T10:00:00Z","expires_at":"2026-11-25T10:00:00Z"}`, string(document))
	_, err = approval.ParseProposal(document)
	require.NoError(t, err)
	for name, edit := range map[string][2]string{
		"white space":            {`,"nonce"`, `, "nonce"`},
		"an end of line":         {`00Z"}`, "00Z\"}\n"},
		"something after it":     {`00Z"}`, `00Z"}{}`},
		"another order":          {`"installation":"5d0f6f3c1b7e49a2","action":"officers.change"`, `"action":"officers.change","installation":"5d0f6f3c1b7e49a2"`},
		"a name twice":           {`"nonce"`, `"proposer":"x","nonce"`},
		"another name":           {`"nonce"`, `"more":1,"nonce"`},
		"another case":           {`"nonce"`, `"Nonce"`},
		"another version":        {`proposal":1`, `proposal":2`},
		"another installation":   {`5d0f6f3c1b7e49a2`, `5D0F6F3C1B7E49A2`},
		"another action":         {`officers.change`, `Officers.Change`},
		"an escape":              {`"a"`, `"\u0061"`},
		"an escape not seen":     {`"a"`, `"a\n"`},
		"a mark not seen":        {`"a"`, "\"a\u202e\""},
		"broken text":            {`"a"`, "\"a\xff\""},
		"a parameter twice":      {`{"officers"`, `{"officers":[],"officers"`},
		"unsorted parameters":    {`{"officers"`, `{"z":1,"officers"`},
		"parameters not object":  {`{"officers":["a","b <&>"]}`, `["a"]`},
		"no parameters":          {`{"officers":["a","b <&>"]}`, `null`},
		"no proposer":            {`رمزبان`, ``},
		"a short nonce":          {`000000"`, `00"`},
		"another zone":           {`10:00:00Z","e`, `11:00:00+01:00","e`},
		"a fraction of a second": {`10:00:00Z","e`, `10:00:00.5Z","e`},
		"too short a life":       {`2026-11-25T10`, `2026-11-22T10`},
		"too long a life":        {`2026-11-25T10`, `2027-11-25T10`},
		"too long":               {`"a"`, `"` + strings.Repeat("a", approval.MaxDocument) + `"`},
	} {
		changed := strings.Replace(string(document), edit[0], edit[1], 1)
		require.NotEqual(t, string(document), changed, name)
		_, err := approval.ParseProposal([]byte(changed))
		require.ErrorIs(t, err, approval.ErrDocument, name)
	}
	_, err = approval.ParseApproval(document)
	require.ErrorIs(t, err, approval.ErrDocument)
}

func TestParametersAreReadStrictly(t *testing.T) {
	var c change
	require.NoError(t, proposal(t, "x").Into(&c))
	require.Equal(t, []string{"a", "b <&>"}, c.Officers)
	for name, parameters := range map[string]any{
		"missing": map[string]any{}, "unknown": map[string]any{"officers": []string{"a"}, "more": 1}, "another case": map[string]any{"Officers": []string{"a"}},
		"another type": map[string]any{"officers": "a"}, "a zero that may be left out": map[string]any{"at": 0, "officers": []string{"a"}},
	} {
		p, err := approval.New(installation, "officers.change", parameters, "x", make([]byte, 16), now, approval.DefaultLife)
		require.NoError(t, err)
		require.ErrorIs(t, p.Into(&change{}), approval.ErrDocument, name)
	}
}

func TestProposalsReadBackAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parameters := map[string]any{rapid.StringMatching(`[a-z ]{0,9}`).Draw(t, "name"): rapid.String().Draw(t, "value"), "n": rapid.Int().Draw(t, "n")}
		p, err := approval.New(installation, "keys.rotate", parameters, rapid.String().Draw(t, "proposer"), make([]byte, 16), now, time.Hour)
		if err != nil {
			require.ErrorIs(t, err, approval.ErrDocument)
			return
		}
		document, err := p.Encode()
		require.NoError(t, err)
		got, err := approval.ParseProposal(document)
		require.NoError(t, err)
		require.Equal(t, p, got)
	})
}

// authority is a throw-away one, with intermediate.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

var rsaKeys = sync.OnceValue(func() map[int]*rsa.PrivateKey {
	keys := map[int]*rsa.PrivateKey{}
	for _, bits := range []int{1024, 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		keys[bits] = key
	}
	return keys
})

func ecKey(t testing.TB, c elliptic.Curve) crypto.Signer {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	require.NoError(t, err)
	return key
}

func newAuthority(t testing.TB, parent *authority) *authority {
	a := &authority{t: t, key: ecKey(t, elliptic.P256())}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
	}
	by, key := template, a.key
	if parent != nil {
		template.Subject.CommonName = "intermediate"
		by, key = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, a.key.Public(), key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return a
}

func (a *authority) certify(name string, public any, edit func(*x509.Certificate)) []byte {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 1, 0),
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	require.NoError(a.t, err)
	return der
}

func (a *authority) verifier() approval.Verifier {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	persons := map[string]string{"alice": "Alice", "alice-new": "Alice", "spiffe://bank/bob": "Bob", "bob": "Bob", "carol": "Carol"}
	return approval.Verifier{Roots: pool, Person: func(name string) (string, bool) {
		person, known := persons[name]
		return person, known
	}}
}

func (a *authority) sign(document []byte, name string) approval.Signed {
	key := ecKey(a.t, elliptic.P256())
	s, err := approval.Sign(document, key, a.certify(name, key.Public(), nil))
	require.NoError(a.t, err)
	return s
}

var officers = []string{"Alice", "Bob"}

func rules(at time.Time) approval.Rules {
	return approval.Rules{Installation: installation, Officers: officers, At: at}
}

func encoded(t testing.TB, d interface{ Encode() ([]byte, error) }) []byte {
	b, err := d.Encode()
	require.NoError(t, err)
	return b
}

// Every kind of key signs what every kind verifies; no byte of document or signature may differ; openssl agrees.
func TestSignaturesOfEveryKindOfKey(t *testing.T) {
	a := newAuthority(t, nil)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	document := encoded(t, proposal(t, "Alice"))
	for name, key := range map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "RSA": rsaKeys()[2048], "Ed25519": edwards,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := approval.Sign(document, key, a.certify("alice", key.Public(), nil))
			require.NoError(t, err)
			person, err := a.verifier().Signer(s, now)
			require.NoError(t, err)
			require.Equal(t, "Alice", person)
			require.NoError(t, opensslVerifies(t, s))
			claimed, err := s.Claimed()
			require.NoError(t, err)
			require.Equal(t, "alice", claimed)
			for i := range document {
				changed := s
				changed.Document = bytes.Clone(document)
				changed.Document[i] ^= 1
				_, err = a.verifier().Signer(changed, now)
				require.ErrorIs(t, err, approval.ErrSignature)
			}
			s.Signature[len(s.Signature)/2] ^= 1
			_, err = a.verifier().Signer(s, now)
			require.ErrorIs(t, err, approval.ErrSignature)
			require.Error(t, opensslVerifies(t, s))
			_, err = s.Claimed()
			require.ErrorIs(t, err, approval.ErrSignature)
			_, err = approval.Sign(document, ecKey(t, elliptic.P256()), a.certify("alice", key.Public(), nil))
			require.ErrorIs(t, err, approval.ErrCertificate, "another's key")
		})
	}
	for name, key := range map[string]crypto.Signer{"P-521": ecKey(t, elliptic.P521()), "a short RSA key": rsaKeys()[1024]} {
		_, err := approval.Sign(document, key, a.certify("alice", key.Public(), nil))
		require.ErrorIs(t, err, approval.ErrCertificate, name)
	}
}

// opensslVerifies has another implementation check a signature.
func opensslVerifies(t *testing.T, s approval.Signed) error {
	t.Helper()
	leaf, err := x509.ParseCertificate(s.Certificate)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	require.NoError(t, err)
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	key := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	document, signature := file("document", s.Document), file("signature", s.Signature)
	args := []string{"dgst", "-sha256", "-verify", key, "-signature", signature, document}
	if _, is := leaf.PublicKey.(ed25519.PublicKey); is {
		args = []string{"pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", document, "-sigfile", signature}
	}
	out, err := exec.Command("openssl", args...).CombinedOutput()
	var exit *exec.ExitError
	require.True(t, err == nil || errors.As(err, &exit), "%v", err)
	t.Logf("openssl %s: %s", args[0], bytes.TrimSpace(out))
	return err
}

func TestCertificatesThatDoNotCount(t *testing.T) {
	a := newAuthority(t, nil)
	inner := newAuthority(t, a)
	document, key := encoded(t, proposal(t, "Alice")), ecKey(t, elliptic.P256())
	signer := func(v approval.Verifier, at time.Time, chain ...[]byte) error {
		s, err := approval.Sign(document, key, chain...)
		require.NoError(t, err)
		_, err = v.Signer(s, at)
		return err
	}
	good := a.certify("alice", key.Public(), nil)
	require.NoError(t, signer(a.verifier(), now, good))
	require.NoError(t, signer(a.verifier(), now, inner.certify("alice", key.Public(), nil), inner.cert.Raw), "an intermediate authority")
	uri, err := url.Parse("spiffe://bank/bob")
	require.NoError(t, err)
	require.NoError(t, signer(a.verifier(), now, a.certify("nobody", key.Public(), func(c *x509.Certificate) { c.URIs = []*url.URL{uri} })))

	revoking := a.verifier()
	revoking.Revoked = func(chain []*x509.Certificate) error {
		require.Equal(t, good, chain[0].Raw)
		return errors.New("it was stolen")
	}
	for name, err := range map[string]error{
		"expired":           signer(a.verifier(), now.AddDate(0, 2, 0), good),
		"not yet valid":     signer(a.verifier(), now.Add(-2*time.Hour), good),
		"another authority": signer(newAuthority(t, nil).verifier(), now, good),
		"no authority":      signer(approval.Verifier{Person: a.verifier().Person}, now, good),
		"nobody's":          signer(a.verifier(), now, a.certify("mallory", key.Public(), nil)),
		"the URI comes first": signer(a.verifier(), now, a.certify("alice", key.Public(), func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "bank", Path: "/mallory"}}
		})),
		"two URIs": signer(a.verifier(), now, a.certify("alice", key.Public(), func(c *x509.Certificate) { c.URIs = []*url.URL{uri, uri} })),
		"for servers": signer(a.verifier(), now, a.certify("alice", key.Public(), func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})),
		"not for signatures": signer(a.verifier(), now, a.certify("alice", key.Public(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })),
		"no intermediate":    signer(a.verifier(), now, inner.certify("alice", key.Public(), nil)),
		"revoked":            signer(revoking, now, good),
		"a self-made one":    signer(a.verifier(), now, (&authority{t: t, cert: &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}}, key: key}).certify("alice", key.Public(), nil)),
	} {
		require.ErrorIs(t, err, approval.ErrCertificate, name)
	}
	for _, chain := range [][]byte{nil, {1}, append(bytes.Clone(good), 0), bytes.Repeat(good, 5), bytes.Repeat(good, 20)} {
		_, err := a.verifier().Signer(approval.Signed{Document: document, Certificate: chain}, now)
		require.ErrorIs(t, err, approval.ErrCertificate)
	}
}

// Who adds certificates that lead to another root, too, does not get round what was revoked on the way to the first.
func TestEveryChainIsLookedAt(t *testing.T) {
	roots := []*authority{newAuthority(t, nil), newAuthority(t, nil)}
	inner := newAuthority(t, roots[0])
	cross, err := x509.CreateCertificate(rand.Reader, inner.cert, roots[1].cert, inner.key.Public(), roots[1].key)
	require.NoError(t, err)
	key := ecKey(t, elliptic.P256())
	v := roots[0].verifier()
	v.Roots.AddCert(roots[1].cert)
	leaf := inner.certify("alice", key.Public(), nil)
	for _, chain := range [][][]byte{{leaf, inner.cert.Raw, cross}, {leaf, cross, inner.cert.Raw}} {
		s, err := approval.Sign(encoded(t, proposal(t, "Alice")), key, chain...)
		require.NoError(t, err)
		for _, revoked := range roots {
			v.Revoked = func(chain []*x509.Certificate) error {
				if chain[len(chain)-1].Equal(revoked.cert) {
					return errors.New("the way to this root was revoked")
				}
				return nil
			}
			_, err := v.Signer(s, now)
			require.ErrorIs(t, err, approval.ErrCertificate)
		}
		v.Revoked = func([]*x509.Certificate) error { return nil }
		_, err = v.Signer(s, now)
		require.NoError(t, err)
	}
}

// Two different officers, the same bytes, in time, here: anything less is refused, and named.
func TestTwoPersonsAgreeOnTheSameBytes(t *testing.T) {
	a := newAuthority(t, nil)
	v := a.verifier()
	document := encoded(t, proposal(t, "Alice"))
	by := func(name string) approval.Signed { return a.sign(document, name) }
	approved := func(person, certificate string, at time.Time) approval.Signed {
		return a.sign(encoded(t, approval.Approve(document, person, at)), certificate)
	}
	p, c, err := v.Approved(by("alice"), approved("Bob", "bob", now), rules(now))
	require.NoError(t, err)
	require.Equal(t, []string{"officers.change", "Alice", "Bob"}, []string{p.Action, p.Proposer, c.Approver})
	_, _, err = v.Approved(by("alice-new"), approved("Bob", "bob", now), rules(now))
	require.NoError(t, err, "a renewed certificate is the same person")

	other := proposal(t, "Alice")
	other.Nonce = strings.Repeat("1", 32)
	otherDocument := encoded(t, other)
	with := func(edit func(*approval.Rules)) approval.Rules {
		r := rules(now)
		edit(&r)
		return r
	}
	for name, c := range map[string]struct {
		proposal, approval approval.Signed
		rules              approval.Rules
		want               error
	}{
		"by the proposer":                 {by("alice"), approved("Alice", "alice", now), rules(now), approval.ErrSamePerson},
		"by the proposer's second one":    {by("alice"), approved("Alice", "alice-new", now), rules(now), approval.ErrSamePerson},
		"in another's name":               {by("alice"), approved("Bob", "alice-new", now), rules(now), approval.ErrSigner},
		"proposed in another's name":      {by("bob"), approved("Bob", "bob", now), rules(now), approval.ErrSigner},
		"by who is no officer":            {by("alice"), approved("Carol", "carol", now), rules(now), approval.ErrNotOfficer},
		"proposer is no officer any more": {by("alice"), approved("Bob", "bob", now), with(func(r *approval.Rules) { r.Officers = []string{"Bob", "Carol"} }), approval.ErrNotOfficer},
		"approver is no officer any more": {by("alice"), approved("Bob", "bob", now), with(func(r *approval.Rules) { r.Officers = []string{"Alice", "Carol"} }), approval.ErrNotOfficer},
		"of another proposal":             {a.sign(otherDocument, "alice"), approved("Bob", "bob", now), rules(now), approval.ErrOther},
		"another installation":            {by("alice"), approved("Bob", "bob", now), with(func(r *approval.Rules) { r.Installation = strings.Repeat("0", 16) }), approval.ErrInstallation},
		"expired":                         {by("alice"), approved("Bob", "bob", now), rules(now.Add(approval.DefaultLife)), approval.ErrExpired},
		"approved too late":               {by("alice"), approved("Bob", "bob", now.Add(approval.DefaultLife)), rules(now.Add(approval.DefaultLife - time.Second)), approval.ErrExpired},
		"proposed in the future":          {by("alice"), approved("Bob", "bob", now.Add(-10*time.Minute)), rules(now.Add(-10 * time.Minute)), approval.ErrNotYet},
		"approved in the future":          {by("alice"), approved("Bob", "bob", now.Add(10*time.Minute)), rules(now), approval.ErrNotYet},
		"two proposals":                   {by("alice"), by("bob"), rules(now), approval.ErrDocument},
		"two approvals":                   {approved("Bob", "bob", now), approved("Bob", "bob", now), rules(now), approval.ErrDocument},
		"no signature":                    {approval.Signed{Document: document, Certificate: by("alice").Certificate}, approved("Bob", "bob", now), rules(now), approval.ErrSignature},
		"nothing":                         {approval.Signed{}, approval.Signed{}, rules(now), approval.ErrDocument},
	} {
		_, _, err := v.Approved(c.proposal, c.approval, c.rules)
		require.ErrorIs(t, err, c.want, name)
	}
}

// Whatever stands in a document, reading it ends in one form or an error.
func FuzzParse(f *testing.F) {
	document, err := proposal(f, "Alice").Encode()
	require.NoError(f, err)
	consent, err := approval.Approve(document, "Bob", now).Encode()
	require.NoError(f, err)
	f.Add(document)
	f.Add(consent)
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := approval.ParseProposal(b); err == nil {
			require.Equal(t, b, encoded(t, p))
		}
		if a, err := approval.ParseApproval(b); err == nil {
			require.Equal(t, b, encoded(t, a))
		}
	})
}
