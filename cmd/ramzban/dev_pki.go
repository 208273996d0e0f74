package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is a throw-away certificate authority in a folder, for development, tests and the demonstration only: its
// private key lies beside its certificates.
type pki struct {
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

// pkiLife is long, so that a development folder does not stop working one morning.
const pkiLife = 10 * 365 * 24 * time.Hour

// openPKI reads the authority of a folder, or makes it.
func openPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, privateFolder); err != nil {
		return nil, fmt.Errorf("PKI: %w", err)
	}
	p := &pki{dir: dir}
	found, err := exists(p.path("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("PKI: %w", err)
	}
	if !found {
		return p, p.makeCA()
	}
	pair, err := tls.LoadX509KeyPair(p.path("ca.crt"), p.path("ca.key"))
	if err != nil {
		return nil, fmt.Errorf("PKI: %w: delete %s to have it made anew", err, dir)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("PKI: the key of its authority is not an ECDSA key: delete %s to have it made anew", dir)
	}
	p.ca, p.key = pair.Leaf, key
	return p, nil
}

func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

func (p *pki) makeCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("PKI: making a key: %w", err)
	}
	template, err := certificate("Ramzban throw-away development CA")
	if err != nil {
		return err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	p.ca, p.key = template, key
	return p.write("ca", template, key)
}

// client makes name's certificate for clients, unless it is there.
func (p *pki) client(name string) error {
	template, err := certificate(name)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return p.issueUnlessThere(name, template)
}

// server makes the certificate of the service for this machine itself and the given host, unless one is there that
// covers the host.
func (p *pki) server(host string) error {
	template, err := certificate("ramzban")
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = []string{"localhost"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		template.IPAddresses = append(template.IPAddresses, ip)
	} else if ip == nil && host != "" {
		template.DNSNames = append(template.DNSNames, host)
	}
	if err := p.dropUnlessCovers("server", template); err != nil {
		return err
	}
	return p.issueUnlessThere("server", template)
}

// dropUnlessCovers deletes a certificate that does not hold for every name of the template.
func (p *pki) dropUnlessCovers(name string, template *x509.Certificate) error {
	pair, err := tls.LoadX509KeyPair(p.path(name+".crt"), p.path(name+".key"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	covers := err == nil
	for _, ip := range template.IPAddresses {
		covers = covers && pair.Leaf.VerifyHostname(ip.String()) == nil
	}
	for _, dns := range template.DNSNames {
		covers = covers && pair.Leaf.VerifyHostname(dns) == nil
	}
	if covers {
		return nil
	}
	return errors.Join(os.Remove(p.path(name+".crt")), os.Remove(p.path(name+".key")))
}

func (p *pki) issueUnlessThere(name string, template *x509.Certificate) error {
	if found, err := exists(p.path(name + ".crt")); err != nil || found {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("PKI: making a key: %w", err)
	}
	return p.write(name, template, key)
}

// write signs a certificate and stores its key first: a certificate that is there has its key.
func (p *pki) write(name string, template *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, &key.PublicKey, p.key)
	if err != nil {
		return fmt.Errorf("PKI: signing the certificate of %s: %w", name, err)
	}
	if name == "ca" {
		if p.ca, err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("PKI: reading the authority back: %w", err)
		}
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("PKI: encoding the key of %s: %w", name, err)
	}
	if err := replaceFile(p.path(name+".key"), encodePEM("PRIVATE KEY", private)); err != nil {
		return fmt.Errorf("PKI: %w", err)
	}
	if err := createFile(p.path(name+".crt"), encodePEM("CERTIFICATE", der), publicFile); err != nil {
		return fmt.Errorf("PKI: %w", err)
	}
	return nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func certificate(commonName string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("PKI: making a certificate's number: %w", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(pkiLife),
	}, nil
}
