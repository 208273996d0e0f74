package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPKIIsMadeOnceAndVerifies(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p, err := openPKI(dir)
	require.NoError(t, err)
	require.NoError(t, p.client("branch"))
	require.NoError(t, p.server("127.0.0.1"))
	before := readAll(t, dir)

	p, err = openPKI(dir)
	require.NoError(t, err)
	require.NoError(t, p.client("branch"))
	require.NoError(t, p.server("127.0.0.1"))
	require.Equal(t, before, readAll(t, dir))

	for name, usage := range map[string]x509.ExtKeyUsage{"branch": x509.ExtKeyUsageClientAuth, "server": x509.ExtKeyUsageServerAuth} {
		pair, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key"))
		require.NoError(t, err)
		roots := x509.NewCertPool()
		roots.AddCert(p.ca)
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
		require.NoError(t, err)
		requireMode(t, p.path(name+".key"), privateFile)
	}
	requireMode(t, p.path("ca.key"), privateFile)
}

func TestServerCertificateCoversWhereItListens(t *testing.T) {
	p, err := openPKI(t.TempDir())
	require.NoError(t, err)
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "192.0.2.7", "bank.example"} {
		require.NoError(t, p.server(host))
		pair, err := tls.LoadX509KeyPair(p.path("server.crt"), p.path("server.key"))
		require.NoError(t, err)
		for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
			require.NoError(t, pair.Leaf.VerifyHostname(name))
		}
		if host != "0.0.0.0" {
			require.NoError(t, pair.Leaf.VerifyHostname(host))
		}
	}
}

func TestBrokenPKISaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("nonsense"), 0o600))
	_, err := openPKI(dir)
	require.ErrorContains(t, err, "delete "+dir)
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = string(b)
	}
	return files
}
