package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api"
)

func TestIdentity(t *testing.T) {
	rec := &recorder{}
	w := start(t, rec, nil)
	verify := func(c tls.Certificate) reply {
		conf := w.tls("")
		conf.Certificates = []tls.Certificate{c}
		h := httpClient(conf)
		defer h.CloseIdleConnections()
		return w.sendWith(h, "POST", "/v1/verifications", verifyBody)
	}
	t.Run("no certificate", func(t *testing.T) {
		r := w.send("", "POST", "/v1/verifications", verifyBody)
		require.Equal(t, 401, r.status)
		require.Equal(t, "certificate_required", r.problem(t).Code)
	})
	t.Run("no certificate and a body that is wrong", func(t *testing.T) {
		require.Equal(t, "certificate_required", w.send("", "POST", "/v1/verifications", `{`).problem(t).Code)
	})
	t.Run("no certificate and no such route", func(t *testing.T) {
		require.Equal(t, "certificate_required", w.send("", "GET", "/v1/nothing", "").problem(t).Code)
	})
	t.Run("unknown certificate", func(t *testing.T) {
		r := w.send("stranger", "POST", "/v1/verifications", `{`)
		require.Equal(t, 403, r.status)
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
		require.Contains(t, w.log.String(), `"certificate":"stranger"`)
	})
	t.Run("the URI counts before the common name", func(t *testing.T) {
		r := verify(w.ca.certify("officer", func(c *x509.Certificate) { c.URIs = uri(t, "spiffe://bank/core") }))
		require.Equal(t, 200, r.status)
		require.Equal(t, "by-uri", rec.seen()[len(rec.seen())-1].caller.Name)
		r = verify(w.ca.certify("verifier", func(c *x509.Certificate) { c.URIs = uri(t, "spiffe://bank/nobody") }))
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
	})
	t.Run("two URIs name nobody", func(t *testing.T) {
		r := verify(w.ca.certify("verifier", func(c *x509.Certificate) {
			c.URIs = append(uri(t, "spiffe://bank/core"), uri(t, "spiffe://bank/other")...)
		}))
		require.Equal(t, "certificate_unknown", r.problem(t).Code)
	})
	t.Run("a renewed certificate is the same client", func(t *testing.T) {
		require.Equal(t, 200, verify(w.ca.certify("verifier", nil)).status)
	})
}

// TestHandshake: who cannot show a valid certificate, or speaks an older TLS, does not reach HTTP at all.
func TestHandshake(t *testing.T) {
	w := start(t, &recorder{}, nil)
	for name, edit := range map[string]func(*tls.Config){
		"expired": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) })}
		},
		"not yet valid": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Minute) })}
		},
		"another authority": func(c *tls.Config) {
			foreign := newAuthority(t, "elsewhere").certify("verifier", nil)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }
		},
		"for servers only": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{w.ca.certify("verifier", func(x *x509.Certificate) { x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}
		},
		"TLS 1.2": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		t.Run(name, func(t *testing.T) {
			conf := w.tls("verifier")
			edit(conf)
			h := httpClient(conf)
			defer h.CloseIdleConnections()
			_, err := w.try(h, "GET", "/v1/time", "")
			require.Error(t, err)
		})
	}
	require.Contains(t, w.log.String(), "TLS handshake failed")
	require.NotContains(t, w.log.String(), `"msg":"request"`, "none of them was answered")
}

// TestCertificateExpiresOnAnOpenConnection: a connection does not outlive its certificate.
func TestCertificateExpiresOnAnOpenConnection(t *testing.T) {
	var later time.Duration
	w := start(t, &recorder{}, func(o *api.Options) { o.Clock = func() time.Time { return time.Now().Add(later) } })
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status)
	later = 13 * time.Hour
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
	require.Equal(t, 401, r.status)
	require.Equal(t, "certificate_expired", r.problem(t).Code)
}

// TestCertificateIsRevokedOnAnOpenConnection: nor does it outlive what else the handshake looked at.
func TestCertificateIsRevokedOnAnOpenConnection(t *testing.T) {
	var revoked atomic.Bool
	w := start(t, &recorder{}, func(o *api.Options) {
		o.TLS.VerifyConnection = func(tls.ConnectionState) error {
			if revoked.Load() {
				return errors.New("it is revoked")
			}
			return nil
		}
	})
	require.Equal(t, 200, w.send("verifier", "POST", "/v1/verifications", verifyBody).status)
	revoked.Store(true)
	r := w.send("verifier", "POST", "/v1/verifications", verifyBody)
	require.Equal(t, 401, r.status)
	require.Equal(t, "certificate_revoked", r.problem(t).Code)
}
