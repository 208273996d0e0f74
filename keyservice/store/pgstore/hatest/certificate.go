package hatest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The servers' certificate, which signs itself, and its key: in the set's folder, and in each machine's.
const (
	certificateFile = "server.crt"
	keyFile         = "server.key"
)

// certificate makes the certificate with which PostgreSQL proves to clients that it is one of the set's servers.
func (s *Set) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hatest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	for number := 1; number <= Size; number++ {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(newName(number).Address(Clients)))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	s.files = map[string][]byte{
		certificateFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyFile:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
	if err := os.WriteFile(filepath.Join(s.dir, certificateFile), s.files[certificateFile], 0o644); err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	return nil
}
