package pgstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice/store/pgstore/pgserver"
	"ramzban/keyservice/store/pgstore/pgtest"
)

// TestUnverifiedHostsAreRefused: every host of the DSN must prove itself, unless nobody is between. None of these DSNs
// is connected to.
func TestUnverifiedHostsAreRefused(t *testing.T) {
	for dsn, good := range map[string]bool{
		"host=db.bank.test":                                            false, // prefer
		"host=db.bank.test sslmode=disable":                            false,
		"host=db.bank.test sslmode=allow":                              false,
		"host=db.bank.test sslmode=prefer":                             false,
		"host=db.bank.test sslmode=require":                            false,
		"host=db.bank.test sslmode=verify-ca":                          false,
		"host=db.bank.test sslmode=verify-full":                        true,
		"postgres://u@db.bank.test/d?sslmode=verify-full":              true,
		"postgres://u@db.bank.test/d?sslmode=require":                  false,
		"host=10.0.0.1 sslmode=verify-full":                            true,
		"host=10.0.0.1":                                                false,
		"host=db.bank.test sslmode=require sslrootcert=system":         true, // as libpq: verify-full
		"host=db1.bank.test,db2.bank.test sslmode=verify-full":         true,
		"host=localhost,db2.bank.test":                                 false,
		"host=localhost,127.0.0.1,::1,/run/postgresql sslmode=disable": true,
		"host=/run/postgresql":                                         true,
		"host=@ramzban":                                                false, // no path: a host's name
		"host=127.0.0.2":                                               true,
		"host=localhost.bank.test":                                     false,
	} {
		config, err := pgx.ParseConfig(dsn)
		require.NoError(t, err, dsn)
		err = checkTLS(config)
		require.Equal(t, good, err == nil, "%s: %v", dsn, err)
		if !good {
			require.ErrorIs(t, openError(t, Options{DSN: dsn}), ErrOptions)
			require.ErrorContains(t, err, "sslmode=verify-full")
		}
	}
}

// authority is a certificate authority that signed one server's certificate.
type authority struct{ ca, certificate, key []byte } // PEM

func certify(t *testing.T, host string) authority {
	t.Helper()
	root, rootKey := template("authority"), newKey(t)
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	server, serverKey := template(host), newKey(t)
	server.DNSNames = []string{host}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	require.NoError(t, err)
	serverDER, err := x509.CreateCertificate(rand.Reader, server, root, &serverKey.PublicKey, rootKey)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(serverKey)
	require.NoError(t, err)
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return authority{encode("CERTIFICATE", rootDER), encode("CERTIFICATE", serverDER), encode("PRIVATE KEY", private)}
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// TestTheServerProvesItself: a real server with a certificate, reached by a name that is not this machine's.
func TestTheServerProvesItself(t *testing.T) {
	const host = "db.bank.test"
	right, wrong := certify(t, host), certify(t, host)
	port, err := pgserver.FreePort()
	require.NoError(t, err)
	server := pgtest.StartWith(t, pgserver.Options{
		Parent: pgserver.Memory(), Port: port, Password: "geheim",
		Files:    map[string][]byte{"server.crt": right.certificate, "server.key": right.key},
		Settings: []string{"ssl = on"},
	})
	rightCA, wrongCA := filepath.Join(t.TempDir(), "right"), filepath.Join(t.TempDir(), "wrong")
	require.NoError(t, os.WriteFile(rightCA, right.ca, 0o600))
	require.NoError(t, os.WriteFile(wrongCA, wrong.ca, 0o600))
	for name, test := range map[string]struct{ host, ca, says string }{
		"right":           {host, rightCA, ""},
		"wrong authority": {host, wrongCA, "certificate signed by unknown authority"},
		"wrong name":      {"db2.bank.test", rightCA, "certificate is valid for db.bank.test, not db2.bank.test"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := openNamed(t, fmt.Sprintf("host=%s port=%d user=postgres password=geheim dbname=postgres sslmode=verify-full sslrootcert=%s",
				test.host, port, test.ca))
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			defer s.Close()
			mustCommit(t, s, change("k", "v"))
			require.Equal(t, "v", string(get(t, s, "k").Value))
			var encrypted, plain int
			require.NoError(t, connectTo(t, server.DSN("postgres")).QueryRow(context.Background(), `SELECT
				count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
				WHERE application_name LIKE 'ramzban%'`).Scan(&encrypted, &plain))
			require.GreaterOrEqual(t, encrypted, 2)
			require.Zero(t, plain)
		})
	}
}

// openNamed opens a store, with all names being this machine's.
func openNamed(t *testing.T, dsn string) (*Store, error) {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	require.NoError(t, err)
	config.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	return open(context.Background(), Options{Node: "a", Log: slog.New(slog.DiscardHandler)}.withDefaults(), config)
}
