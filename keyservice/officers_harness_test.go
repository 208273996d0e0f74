package keyservice

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/authz/approval"
)

// The persons of the tests. The first three are officers from the beginning; zoe has the role and is none; ex lost the role.
var (
	alice = authz.Caller{Name: "alice", Roles: []authz.Role{authz.Officer}}
	bob   = authz.Caller{Name: "bob", Roles: []authz.Role{authz.Officer}}
	carol = authz.Caller{Name: "carol", Roles: []authz.Role{authz.Officer}}
	zoe   = authz.Caller{Name: "zoe", Roles: []authz.Role{authz.Officer}}
	ex    = authz.Caller{Name: "ex", Roles: []authz.Role{authz.Auditor}}
)

// testCA is a throw-away authority, and what it certified by name: made once, good from before to long after any test's
// clock.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu    sync.Mutex
	keys  map[string]*ecdsa.PrivateKey
	certs map[string][]byte
}

var officersCA = sync.OnceValue(func() *testCA { return newCA() })

func newCA() *testCA {
	ca := &testCA{keys: map[string]*ecdsa.PrivateKey{}, certs: map[string][]byte{}}
	var err error
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	template := certificateOf("officers' authority", 1)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		panic(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return ca
}

func certificateOf(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: birth.AddDate(-1, 0, 0), NotAfter: birth.AddDate(20, 0, 0),
	}
}

// of returns a certificate of this name and its key.
func (ca *testCA) of(name string) ([]byte, *ecdsa.PrivateKey) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.certs[name] == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, certificateOf(name, int64(len(ca.certs)+2)), ca.cert, &key.PublicKey, ca.key)
		if err != nil {
			panic(err)
		}
		ca.certs[name], ca.keys[name] = der, key
	}
	return ca.certs[name], ca.keys[name]
}

// until makes a further certificate of this name, good from one time to another, for the same key as of's.
func (ca *testCA) until(name string, from, to time.Time) []byte {
	_, key := ca.of(name)
	template := certificateOf(name, 1<<40)
	template.NotBefore, template.NotAfter = from, to
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		panic(err)
	}
	return der
}

func (ca *testCA) sign(document []byte, certificate string) approval.Signed {
	der, key := ca.of(certificate)
	s, err := approval.Sign(document, key, der)
	if err != nil {
		panic(err)
	}
	return s
}

func persons() Persons {
	var clients []authz.Client
	for _, c := range []authz.Caller{alice, bob, carol, zoe, ex} {
		clients = append(clients, authz.Client{Name: c.Name, Certificates: []string{c.Name, c.Name + "-renewed"}, Roles: c.Roles})
	}
	directory, err := authz.NewDirectory(clients)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(officersCA().cert)
	return Persons{Directory: directory, Roots: pool, Officers: []string{"carol", "alice", "bob"}}
}

// proposing makes a proposal's document as of now.
func (w *world) proposing(by authz.Caller, action string, parameters any) approval.Proposal {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce)
	now, err := w.latest(context.Background())
	require.NoError(w.t, err)
	p, err := approval.New(w.installation(), action, parameters, by.Name, nonce, now, approval.DefaultLife)
	require.NoError(w.t, err)
	return p
}

func (w *world) signedProposal(by authz.Caller, action string, parameters any) approval.Signed {
	document, err := w.proposing(by, action, parameters).Encode()
	require.NoError(w.t, err)
	return officersCA().sign(document, by.Name)
}

func (w *world) signedApproval(by authz.Caller, proposal []byte) approval.Signed {
	now, err := w.latest(context.Background())
	require.NoError(w.t, err)
	return officersCA().sign(w.encoded(approval.Approve(proposal, by.Name, now)), by.Name)
}

func (w *world) encoded(d interface{ Encode() ([]byte, error) }) []byte {
	b, err := d.Encode()
	require.NoError(w.t, err)
	return b
}

// propose lets an officer propose an action.
func (w *world) propose(by authz.Caller, action string, parameters any) ProposalView {
	v, err := w.Propose(context.Background(), by, w.signedProposal(by, action, parameters))
	require.NoError(w.t, err)
	require.Equal(w.t, ProposalWaiting, v.State)
	return v
}

func (w *world) approve(by authz.Caller, v ProposalView) ProposalView {
	v, err := w.Approve(context.Background(), by, v.ID, w.signedApproval(by, v.Signed.Document))
	require.NoError(w.t, err)
	require.Equal(w.t, ProposalApproved, v.State)
	return v
}

// agreed has an action proposed, approved and carried out, and returns what became of it.
func (w *world) agreed(action string, parameters any) ProposalView {
	v := w.approve(bob, w.propose(alice, action, parameters))
	_, err := w.CarryOut(context.Background())
	require.NoError(w.t, err)
	return w.proposalOf(alice, v.ID)
}

func (w *world) proposalOf(c authz.Caller, id string) ProposalView {
	v, err := w.Proposal(context.Background(), c, id)
	require.NoError(w.t, err)
	return v
}

func (w *world) officers() []string {
	o, _, err := w.loadOfficers(context.Background())
	require.NoError(w.t, err)
	return o.Names
}

// newOfficers are the parameters of a change from who they are now.
func (w *world) newOfficers(names ...string) OfficersChange {
	return OfficersChange{Officers: names, InsteadOf: w.officers()}
}
