package main

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/seed"
)

// retailBank is the whole service in this process, as `ramzban serve` runs it, under a clock that the story moves. The bank's
// systems call it over mutual TLS, each with its own certificate: branch, atm, courier, mobile-bank and so on.
type retailBank struct {
	t       *testing.T // of the line that is played now
	dir     string     // outlives the lines
	clock   *storyClock
	clients map[string]*client.Client
	node    *node
	config  Config
}

// openBank starts the service that a bank has configured, at the beginning of a time step of every profile. PKCS#11
// initialises once per process, so there is one bank at a time.
func openBank(t *testing.T, configure func(*Config)) *retailBank {
	t.Helper()
	return openBankAt(t, time.Now().UTC().Truncate(2*time.Minute), configure)
}

// openBankAt is openBank for a story that begins at another time than now.
func openBankAt(t *testing.T, begin time.Time, configure func(*Config)) *retailBank {
	t.Helper()
	dir := t.TempDir()
	path, err := dev{dir: dir, api: "127.0.0.1:0"}.setUp(t.Context())
	require.NoError(t, err)
	c, err := LoadConfig(path)
	require.NoError(t, err)
	configure(&c)
	c.API.Listen, c.Operator.Listen = freeAddress(t), freeAddress(t)
	require.NoError(t, c.Validate())
	b := &retailBank{t: t, dir: dir, clock: &storyClock{now: begin}, clients: map[string]*client.Client{}, config: c}
	b.serve(c)
	b.giveCertificates(c, filepath.Join(dir, "pki"))
	return b
}

// serve runs the node until the test ends.
func (b *retailBank) serve(c Config) {
	b.t.Helper()
	log, err := newLog(c.Log, io.Discard)
	require.NoError(b.t, err)
	n := newNode(c, log)
	n.clock, n.newDatabase, b.node = b.clock.Now, true, n
	require.NoError(b.t, n.start(b.t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	t := b.t
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
}

func (b *retailBank) giveCertificates(c Config, dir string) {
	b.t.Helper()
	authority, err := openPKI(dir)
	require.NoError(b.t, err)
	for _, one := range c.Clients {
		require.NoError(b.t, authority.client(one.Name))
		made, err := client.New(client.Options{BaseURL: "https://" + c.API.Listen, CAFile: authority.path("ca.crt"),
			CertFile: authority.path(one.Name + ".crt"), KeyFile: authority.path(one.Name + ".key")})
		require.NoError(b.t, err)
		b.t.Cleanup(made.Close)
		b.clients[one.Name] = made
	}
}

// system is a further client of the bank, for its configuration.
func system(name, role string) ClientConfig {
	return ClientConfig{Name: name, Certificates: []string{name}, Roles: []string{role}}
}

// line plays one line of the guide. What follows builds on it, so a line that fails ends the story.
func (b *retailBank) line(name string, play func(*testing.T)) {
	story := b.t
	defer func() { b.t = story }()
	played := story.Run(name, func(t *testing.T) {
		b.t = t
		play(t)
	})
	if !played {
		story.FailNow()
	}
}

func (b *retailBank) as(system string) *client.Client {
	b.t.Helper()
	require.Contains(b.t, b.clients, system)
	return b.clients[system]
}

// storyClock is the time, for the service and for everyone else.
type storyClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *storyClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *storyClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// toNextStep passes the time until a time step begins.
func (c *storyClock) toNextStep(step time.Duration) {
	now := c.Now()
	c.pass(now.Truncate(step).Add(step).Sub(now))
}

// issues makes a token at the branch or ATM; it must succeed.
func (b *retailBank) issues(at string, r wire.IssueRequest) wire.IssueAnswer {
	b.t.Helper()
	a, err := b.as(at).Issue(b.t.Context(), r)
	require.NoError(b.t, err)
	return a
}

// texts is the SMS that the courier sends: what it collected under this id.
func (b *retailBank) texts(id string) wire.CodeAnswer {
	b.t.Helper()
	sms, err := b.as("sms-gateway").CollectCode(b.t.Context(), id)
	require.NoError(b.t, err)
	return sms
}

func (b *retailBank) shows(at, serial string) wire.TokenAnswer {
	b.t.Helper()
	a, err := b.as(at).Token(b.t.Context(), serial)
	require.NoError(b.t, err)
	return a
}

// connects makes the token good for exactly these uses.
func (b *retailBank) connects(at, serial string, uses ...string) {
	b.t.Helper()
	_, err := b.as(at).SetUses(b.t.Context(), serial, wire.UsesRequest{Uses: append([]string{}, uses...)})
	require.NoError(b.t, err)
}

func (b *retailBank) deactivates(at, serial string) {
	b.t.Helper()
	a, err := b.as(at).Deactivate(b.t.Context(), serial)
	require.NoError(b.t, err)
	require.Equal(b.t, "deactivated", a.Status)
}

// verdict is what a system is answered about a password: "accepted offline", "accepted sms, bound", "refused mismatch".
func (b *retailBank) verdict(asked string, r wire.VerificationRequest) string {
	b.t.Helper()
	a, err := b.as(asked).Verify(b.t.Context(), r)
	require.NoError(b.t, err)
	if a.Result != "accepted" {
		require.False(b.t, a.Bound)
		return a.Result + " " + a.Reason
	}
	if a.Bound {
		return a.Result + " " + a.Kind + ", bound"
	}
	return a.Result + " " + a.Kind
}

// comparesAudit is the end of every story: what is stored is what was decided.
func (b *retailBank) comparesAudit(t *testing.T) {
	a, err := b.as("auditor").CompareAudit(t.Context())
	require.NoError(t, err)
	require.Empty(t, a.Discrepancies)
	log, err := b.as("auditor").AuditEntries(t.Context(), client.AuditQuery{Limit: 1000})
	require.NoError(t, err)
	require.Greater(t, len(log.Entries), 15, "there was something to compare")
}

// One service powers both banks' ways at once: each token is judged by the profile it was issued with.
func TestBothBanksProfilesRunSideBySide(t *testing.T) {
	b := openBank(t, func(c *Config) {
		c.Clients = append(c.Clients, system("internet-bank", "verifier"), system("atm", "issuer"), system("payment-gateway", "verifier"))
	})
	ramznama := maskan{retailBank: b, card: testCard(1), mobile: "09121234567"}
	parsian := parsian{b}
	mina := &parsianCustomer{card: testCard(11), mobile: "09127654321", pin: "27182818"}
	phone := b.handset("phone", "app")
	receipt := ramznama.issuesCardToken("app")
	long := phone.holds(bySerial(receipt.Serial, ramznama.card, b.texts(receipt.Activation.ID).Code))
	parsian.registers(mina, true)
	short := phone.holds(byCard(mina.card, b.texts(mina.activation.ID).Code))

	b.clock.toNextStep(2 * time.Minute)
	require.Equal(t, "refused mismatch", ramznama.buysAtInternetBank(short.passwordWith(mina.pin)))
	require.Equal(t, "refused mismatch", parsian.pays(mina, long.password(), nil))
	of120, of60, sms := long.password(), short.passwordWith(mina.pin), parsian.sends(mina, nil).Code
	b.clock.pass(119 * time.Second)
	require.Equal(t, "accepted sms", parsian.pays(mina, sms, nil))
	b.clock.pass(2 * time.Second)
	require.Equal(t, "refused mismatch", parsian.pays(mina, of60, nil), "60 seconds, and 60 of drift search")
	require.Equal(t, "accepted offline", ramznama.buysAtInternetBank(of120), "120 seconds, and 120 of drift search")
	b.comparesAudit(t)
}

// refusal is the code of the problem that a call was refused with; "" if it was not refused.
func refusal(err error) string {
	var p *wire.Problem
	switch {
	case err == nil:
		return ""
	case errors.As(err, &p):
		return p.Code
	}
	return "no refusal, but " + err.Error()
}

// handset is a customer's mobile phone. The reference phone keeps one token in its folder; a handset has a folder for each
// of its tokens, and one key.
type handset struct {
	bank    *retailBank
	id      string
	channel string        // the bank's app, or its web app
	fast    time.Duration // how far its clock is ahead of the bank's
	key     *rsa.PrivateKey
}

func (b *retailBank) handset(id, channel string) *handset {
	b.t.Helper()
	p, err := newPhone(b.folder())
	require.NoError(b.t, err)
	return &handset{bank: b, id: id, channel: channel, key: p.key}
}

func (b *retailBank) folder() string {
	b.t.Helper()
	dir, err := os.MkdirTemp(b.dir, "phone-")
	require.NoError(b.t, err)
	return dir
}

func (h *handset) now() time.Time { return h.bank.clock.Now().Add(h.fast) }

// activates types what the customer has into the phone; the error is the one that the phone shows.
func (h *handset) activates(typed activation) (app, error) {
	t := h.bank.t
	t.Helper()
	p := phone{dir: h.bank.folder(), key: h.key}
	typed.deviceID, typed.channel = h.id, h.channel
	_, err := p.activate(t.Context(), h.bank.as("mobile-bank"), typed)
	return app{handset: h, phone: p}, err
}

// holds is activates where it must succeed.
func (h *handset) holds(typed activation) app {
	h.bank.t.Helper()
	a, err := h.activates(typed)
	require.NoError(h.bank.t, err)
	return a
}

// device is how the phone names itself to the service, and its public key.
func (h *handset) device() *wire.Device {
	h.bank.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&h.key.PublicKey)
	require.NoError(h.bank.t, err)
	return &wire.Device{ID: h.id, Channel: h.channel, PublicKey: der}
}

// app is one token of a handset, as its owner sees it: it makes passwords, without the network.
type app struct {
	*handset
	phone phone
}

// deletes is the app's button that deletes a token: the service ends it, and the phone forgets it.
func (a app) deletes() {
	t := a.bank.t
	t.Helper()
	serial, err := a.phone.remove(t.Context(), a.bank.as("mobile-bank"))
	require.NoError(t, err)
	require.Equal(t, "deactivated", a.bank.shows("branch", serial).Status)
	_, err = a.phone.token()
	require.ErrorIs(t, err, os.ErrNotExist)
}

func (a app) password() string { return a.passwordWith("") }

// passwordWith makes the password that the phone shows after a PIN was typed.
func (a app) passwordWith(pin string) string {
	t := a.bank.t
	t.Helper()
	token, err := a.phone.confirmedToken()
	require.NoError(t, err)
	password, _, err := token.next(a.now(), typed{pin: seed.NewPIN(pin)})
	require.NoError(t, err)
	return password.Reveal()
}

// mistyped is a code or password with its last digit wrong.
func mistyped(digits string) string {
	last := len(digits) - 1
	return digits[:last] + strings.Map(func(d rune) rune { return '0' + (d-'0'+1)%10 }, digits[last:])
}

func byCard(card, code string) activation {
	return activation{class: "card", subject: seed.NewSubject(card), code: seed.NewCode(code)}
}

func bySerial(serial, subject, code string) activation {
	return activation{serial: serial, subject: seed.NewSubject(subject), code: seed.NewCode(code)}
}

// withoutID is what a problem tells, but for the request's id.
func withoutID(err error) wire.Problem {
	var p *wire.Problem
	if !errors.As(err, &p) {
		return wire.Problem{}
	}
	told := *p
	told.RequestID = ""
	return told
}
