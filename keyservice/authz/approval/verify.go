package approval

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ClockSkew is how far in the future a document may be dated: clocks differ.
const ClockSkew = 5 * time.Minute

// Verifier says whose signatures count. It needs nothing but what it is made of, so that it works offline.
type Verifier struct {
	Roots *x509.CertPool // the authorities of the officers' certificates; required

	// Person returns who a certificate of this name belongs to: several certificates may be one person's. Required.
	Person func(certificateName string) (person string, known bool)

	// Revoked returns why a chain, the leaf first, does not count any more; nil if nothing is known.
	Revoked func(chain []*x509.Certificate) error
}

// Rules are what a document must hold to, besides being signed.
type Rules struct {
	Installation string
	Officers     []string  // by name
	At           time.Time // when it is received or carried out, or was
}

// CertificateName is the URI in the subject alternative names, else the common name. Several URIs name nobody: which of
// them counts would be a guess.
func CertificateName(leaf *x509.Certificate) string {
	switch len(leaf.URIs) {
	case 0:
		return leaf.Subject.CommonName
	case 1:
		return leaf.URIs[0].String()
	}
	return ""
}

// Signer returns the person whose signature this is, made with a certificate that was good at that time: ErrCertificate or
// ErrSignature. What the document says is not looked at.
func (v Verifier) Signer(s Signed, at time.Time) (string, error) {
	leaf, intermediates, err := s.certificates()
	if err != nil {
		return "", err
	}
	if err := v.checkChain(leaf, intermediates, at); err != nil {
		return "", fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if err := s.matches(leaf); err != nil {
		return "", err
	}
	person, known := v.Person(CertificateName(leaf))
	if !known || person == "" {
		return "", fmt.Errorf("%w: %q belongs to no configured person", ErrCertificate, CertificateName(leaf))
	}
	return person, nil
}

// Claimed returns the name in the certificate whose key signed the document: ErrCertificate or ErrSignature. Whether the
// certificate counts, and whose it is, only a Verifier knows.
func (s Signed) Claimed() (string, error) {
	leaf, _, err := s.certificates()
	if err != nil {
		return "", err
	}
	return CertificateName(leaf), s.matches(leaf)
}

// checkChain: without roots Go would trust the system's.
func (v Verifier) checkChain(leaf *x509.Certificate, intermediates []*x509.Certificate, at time.Time) error {
	if v.Roots == nil || v.Person == nil {
		return errors.New("no authority of officers' certificates is known")
	}
	pool := x509.NewCertPool()
	for _, c := range intermediates {
		pool.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: v.Roots, Intermediates: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("it may not be used for signatures")
	}
	for _, chain := range chains { // several, if a signer adds certificates that lead to several roots: it cannot choose one
		if v.Revoked == nil {
			return nil
		}
		if err := v.Revoked(chain); err != nil {
			return err
		}
	}
	return nil
}

// Proposal checks a signed proposal: that its proposer signed it, is an officer, and means this installation and time.
func (v Verifier) Proposal(s Signed, r Rules) (Proposal, error) {
	p, err := ParseProposal(s.Document)
	if err != nil {
		return Proposal{}, err
	}
	if err := v.signedBy(s, p.Proposer, r); err != nil {
		return Proposal{}, err
	}
	switch {
	case p.Installation != r.Installation:
		return Proposal{}, ErrInstallation
	case p.CreatedAt.After(r.At.Add(ClockSkew)):
		return Proposal{}, ErrNotYet
	case !r.At.Before(p.ExpiresAt):
		return Proposal{}, ErrExpired
	}
	return p, nil
}

// Approved checks a signed proposal together with its signed approval: that two different officers want exactly this.
func (v Verifier) Approved(proposal, approval Signed, r Rules) (Proposal, Approval, error) {
	p, err := v.Proposal(proposal, r)
	if err != nil {
		return Proposal{}, Approval{}, fmt.Errorf("the proposal: %w", err)
	}
	a, err := ParseApproval(approval.Document)
	if err == nil {
		err = v.signedBy(approval, a.Approver, r)
	}
	if err == nil {
		err = a.isFor(p, proposal.Document, r)
	}
	if err != nil {
		return Proposal{}, Approval{}, fmt.Errorf("the approval: %w", err)
	}
	return p, a, nil
}

func (a Approval) isFor(p Proposal, document []byte, r Rules) error {
	switch {
	case a.Proposal != Digest(document):
		return ErrOther
	case a.Approver == p.Proposer:
		return ErrSamePerson
	case a.CreatedAt.After(r.At.Add(ClockSkew)):
		return ErrNotYet
	case !a.CreatedAt.Before(p.ExpiresAt):
		return ErrExpired
	}
	return nil
}

// signedBy checks that the person named in a document signed it, and is an officer.
func (v Verifier) signedBy(s Signed, named string, r Rules) error {
	person, err := v.Signer(s, r.At)
	switch {
	case err != nil:
		return err
	case person != named:
		return fmt.Errorf("%w: it names %q and was signed by %q", ErrSigner, named, person)
	case !slices.Contains(r.Officers, person):
		return fmt.Errorf("%w: %q", ErrNotOfficer, person)
	}
	return nil
}
