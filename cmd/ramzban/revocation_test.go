package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// revoke makes a list of the development PKI in DER that is good until next; change may spoil it.
func revoke(t *testing.T, p *pki, next time.Time, change func(*x509.RevocationList), names ...string) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: next.Add(-48 * time.Hour), NextUpdate: next}
	for _, name := range names {
		pair, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key"))
		require.NoError(t, err)
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: pair.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.ca, p.key)
	require.NoError(t, err)
	return der
}

func asCRL(der []byte) string { return string(encodePEM("X509 CRL", der)) }

// The real service, with the list of an authority: a revoked certificate fails the handshake, its neighbour does not.
func TestARevokedClientFailsTheHandshake(t *testing.T) {
	d := deploy(t)
	p, err := openPKI(d.pki(""))
	require.NoError(t, err)
	d.config.API.ClientCRL = writeFile(t, "ca.crl", asCRL(revoke(t, p, time.Now().Add(time.Hour), nil, "core-banking", "auditor")))
	d.launch("serve", "--config", writeConfig(t, d.config))
	d.waitReady()
	_, err = d.enrol(t.Context(), "offline-60", testCard(1))
	require.NoError(t, err, "who is not on the list works")
	for _, name := range []string{"core-banking", "auditor"} {
		_, err = d.as(name).AuditEntries(t.Context(), client.AuditQuery{Limit: 10})
		require.ErrorContains(t, err, "tls: bad certificate", name)
		var problem *wire.Problem
		require.NotErrorAs(t, err, &problem)
	}
	require.Contains(t, d.output(), "is revoked")
	require.Regexp(t, `\nramzban_client_crl_expiry_seconds 1\.\d+e\+09\n`, scrape(t, d.service))
	require.NoError(t, d.terminate())
}

func TestServeRefusesRevocationListsItCannotRelyOn(t *testing.T) {
	d := deploy(t)
	p, err := openPKI(d.pki(""))
	require.NoError(t, err)
	other, err := openPKI(t.TempDir())
	require.NoError(t, err)
	hour := time.Now().Add(time.Hour)
	good := revoke(t, p, hour, nil)
	partial := func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	}
	impostor := &pki{dir: p.dir, ca: p.ca, key: other.key}
	for name, c := range map[string]struct{ content, says string }{
		"expired":      {asCRL(revoke(t, p, time.Now().Add(-time.Minute), nil)), "has expired at "},
		"another's":    {asCRL(revoke(t, other, hour, nil)), "no authority in api.client_ca has signed"},
		"forged":       {asCRL(resign(t, impostor, hour)), "no authority in api.client_ca has signed"},
		"changes only": {asCRL(revoke(t, p, hour, partial)), "not a complete one"},
		"twice":        {asCRL(good) + asCRL(good), "two lists"},
		"not a list":   {"x", "not a revocation list"},
		"empty":        {"", "not a revocation list"},
		"cut":          {string(good[:len(good)-1]), "not a revocation list"},
	} {
		t.Run(name, func(t *testing.T) {
			c2 := d.config
			c2.API.ClientCRL = writeFile(t, "ca.crl", c.content)
			_, stderr := d.serve(t, c2, exitConfig)
			requireOneLine(t, stderr, "api.client_crl: ", c2.API.ClientCRL, c.says)
		})
	}
	d.config.API.ClientCRL = "/nonexistent/crl"
	_, stderr := d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "api.client_crl: ", "/nonexistent/crl", "put the authorities' revocation lists there")
	two := writeFile(t, "cas.crt", string(encodePEM("CERTIFICATE", p.ca.Raw))+string(encodePEM("CERTIFICATE", other.ca.Raw)))
	d.config.API.ClientCA, d.config.API.ClientCRL = two, writeFile(t, "ca.crl", asCRL(good))
	_, stderr = d.serve(t, d.config, exitConfig)
	requireOneLine(t, stderr, "api.client_crl: ", "holds no list of")
}

// resign makes a list in an authority's name with another's key: crypto/x509 itself would not.
func resign(t *testing.T, p *pki, next time.Time) []byte {
	t.Helper()
	issuer := *p.ca
	issuer.PublicKey = p.key.Public()
	return revoke(t, &pki{dir: p.dir, ca: &issuer, key: p.key}, next, nil)
}

// handshakes is a listener that asks a revocations whom to let in, and a clock that tests move.
type handshakes struct {
	*revocations
	t       *testing.T
	pki     *pki
	address string
	clock   time.Time
	logged  bytes.Buffer
}

func startHandshakes(t *testing.T, list func(*pki, time.Time) []byte) *handshakes {
	h := &handshakes{t: t, clock: time.Now()}
	var err error
	h.pki, err = openPKI(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, h.pki.server("127.0.0.1"))
	require.NoError(t, h.pki.client("anna"))
	require.NoError(t, h.pki.client("bert"))
	path := filepath.Join(t.TempDir(), "ca.crl")
	require.NoError(t, os.WriteFile(path, list(h.pki, h.clock), 0o600))
	h.revocations, err = openRevocations(path, []*x509.Certificate{h.pki.ca}, slog.New(slog.NewTextHandler(&h.logged, nil)),
		func() time.Time { return h.clock })
	require.NoError(t, err)
	server, err := tls.LoadX509KeyPair(h.pki.path("server.crt"), h.pki.path("server.key"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(h.pki.ca)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{server},
		ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, VerifyConnection: h.verify})
	require.NoError(t, err)
	h.address = l.Addr().String()
	done := make(chan struct{})
	go func() { defer close(done); h.accept(l) }()
	t.Cleanup(func() { require.NoError(t, l.Close()); <-done })
	return h
}

func (h *handshakes) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte("!")) // the handshake first; a client that was refused reads the reason instead
		_ = conn.Close()
	}
}

// enter makes a handshake as a client, or with no certificate for "", and returns why it was refused.
func (h *handshakes) enter(name string) error {
	pool := x509.NewCertPool()
	pool.AddCert(h.pki.ca)
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(h.pki.path(name+".crt"), h.pki.path(name+".key"))
		require.NoError(h.t, err)
		conf.Certificates = []tls.Certificate{pair}
	}
	conn, err := tls.Dial("tcp", h.address, conf)
	require.NoError(h.t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Read(make([]byte, 1))
	return err
}

func (h *handshakes) replaceList(content []byte) {
	h.t.Helper()
	require.NoError(h.t, replaceFile(h.path, content))
}

// Who is revoked while the service runs is refused a minute later; a broken file changes nothing; and when the list has
// expired everyone with a certificate is refused, until there is a new one.
func TestRevocationListsAreReadAgain(t *testing.T) {
	h := startHandshakes(t, func(p *pki, now time.Time) []byte { return revoke(t, p, now.Add(time.Hour), nil, "bert") })
	require.NoError(t, h.enter("anna"))
	require.ErrorContains(t, h.enter("bert"), "bad certificate")
	require.NoError(t, h.enter(""), "without a certificate nothing is revoked")

	h.replaceList(revoke(t, h.pki, h.clock.Add(time.Hour), nil, "bert", "anna"))
	require.NoError(t, h.enter("anna"), "the file is not looked at for every handshake")
	h.clock = h.clock.Add(crlInterval)
	require.ErrorContains(t, h.enter("anna"), "bad certificate")

	h.replaceList([]byte("half a list"))
	h.clock = h.clock.Add(crlInterval)
	require.ErrorContains(t, h.enter("anna"), "bad certificate")
	require.Contains(t, h.logged.String(), "cannot be read again")
	require.NoError(t, os.Remove(h.path))
	h.clock = h.clock.Add(crlInterval)
	require.ErrorContains(t, h.enter("anna"), "bad certificate")

	h.replaceList(revoke(t, h.pki, h.clock.Add(time.Hour), nil))
	h.clock = h.clock.Add(crlInterval)
	require.NoError(t, h.enter("anna"))
	require.NoError(t, h.enter("bert"))
	require.NotContains(t, h.logged.String(), "has expired:")
	h.clock = h.clock.Add(time.Hour)
	require.ErrorContains(t, h.enter("anna"), "bad certificate")
	require.ErrorContains(t, h.enter("bert"), "bad certificate")
	require.NoError(t, h.enter(""))
	require.Contains(t, h.logged.String(), "level=ERROR msg=\"a revocation list has expired:")

	h.replaceList([]byte(asCRL(revoke(t, h.pki, h.clock.Add(time.Hour), nil, "anna"))))
	h.clock = h.clock.Add(crlInterval)
	require.NoError(t, h.enter("bert"))
	require.ErrorContains(t, h.enter("anna"), "bad certificate")
}

// A client certificate of an authority below a listed one: no list speaks of it, so it is refused.
func TestAnAuthorityWithoutAListVouchesForNobody(t *testing.T) {
	h := startHandshakes(t, func(p *pki, now time.Time) []byte { return revoke(t, p, now.Add(time.Hour), nil) })
	below, err := openPKI(t.TempDir())
	require.NoError(t, err)
	state := tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{below.ca, h.pki.ca}}}
	require.NoError(t, h.verify(state))
	state.VerifiedChains = [][]*x509.Certificate{{h.pki.ca, below.ca, h.pki.ca}}
	require.ErrorContains(t, h.verify(state), "there is no revocation list of")
}
