package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// crlSet holds the revocation list (RFC 5280, section 5) of each authority.
type crlSet map[authorityKey]crl

// authorityKey is an authority's name and public key: two certificates of one authority are the same one.
type authorityKey struct{ subject, publicKey string }

func keyOf(authority *x509.Certificate) authorityKey {
	return authorityKey{subject: string(authority.RawSubject), publicKey: string(authority.RawSubjectPublicKeyInfo)}
}

type crl struct {
	expires time.Time
	revoked map[string]bool // serial numbers, in decimal
}

// readCRLs reads PEM or DER. There must be one current and complete list of each authority, signed by it: a certificate
// that no list speaks of would pass for good.
func readCRLs(path string, authorities []*x509.Certificate, now time.Time) (crlSet, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: put the authorities' revocation lists there", err)
	}
	set := crlSet{}
	for _, der := range crlBlocks(content) {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s is not a revocation list (PEM or DER): %w", path, err)
		}
		authority, err := signer(list, authorities)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := usable(list, now); err != nil {
			return nil, fmt.Errorf("%s: the list of %q %w", path, authority.Subject, err)
		}
		if _, twice := set[keyOf(authority)]; twice {
			return nil, fmt.Errorf("%s holds two lists of %q: leave the newer one", path, authority.Subject)
		}
		set[keyOf(authority)] = newCRL(list)
	}
	for _, authority := range authorities {
		if _, found := set[keyOf(authority)]; !found {
			return nil, fmt.Errorf("%s holds no list of %q: add it, every authority in api.client_ca needs one", path, authority.Subject)
		}
	}
	return set, nil
}

func crlBlocks(content []byte) [][]byte {
	var blocks [][]byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block.Bytes)
	}
	if blocks == nil {
		return [][]byte{content}
	}
	return blocks
}

// signer returns the authority that signed a list.
func signer(list *x509.RevocationList, authorities []*x509.Certificate) (*x509.Certificate, error) {
	why := errors.New("it is another's")
	for _, a := range authorities {
		if !bytes.Equal(a.RawSubject, list.RawIssuer) {
			continue
		}
		if why = list.CheckSignatureFrom(a); why == nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("no authority in api.client_ca has signed the list of %q: %w", list.Issuer, why)
}

// usable refuses lists that are out of date or that do not say everything. Critical extensions mark those: changes since
// another list, or only some of the certificates (RFC 5280, section 5.2).
func usable(list *x509.RevocationList, now time.Time) error {
	switch {
	case list.NextUpdate.IsZero():
		return errors.New("does not say when the next one comes (nextUpdate): have one made that does")
	case now.After(list.NextUpdate):
		return fmt.Errorf("has expired at %s: get the current one", list.NextUpdate.Format(time.RFC3339))
	}
	for _, e := range list.Extensions {
		if e.Critical {
			return fmt.Errorf("is not a complete one (critical extension %s): get the full list", e.Id)
		}
	}
	return nil
}

func newCRL(list *x509.RevocationList) crl {
	c := crl{expires: list.NextUpdate, revoked: make(map[string]bool, len(list.RevokedCertificateEntries))}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[e.SerialNumber.String()] = true
	}
	return c
}

// check says why a certificate of an authority is not to be trusted now.
func (s crlSet) check(cert, authority *x509.Certificate, now time.Time) error {
	list, found := s[keyOf(authority)]
	switch {
	case !found:
		return fmt.Errorf("there is no revocation list of %q: add that authority to api.client_ca and its list to api.client_crl", authority.Subject)
	case now.After(list.expires):
		return fmt.Errorf("the revocation list of %q has expired", authority.Subject)
	case list.revoked[cert.SerialNumber.String()]:
		return fmt.Errorf("the certificate of %q, serial number %X, is revoked", cert.Subject, cert.SerialNumber)
	}
	return nil
}

// nextUpdate is when the first list expires.
func (s crlSet) nextUpdate() time.Time {
	var first time.Time
	for _, list := range s {
		if first.IsZero() || list.expires.Before(first) {
			first = list.expires
		}
	}
	return first
}

// revoked is how many certificates the lists name.
func (s crlSet) revoked() int {
	n := 0
	for _, list := range s {
		n += len(list.revoked)
	}
	return n
}
