package api_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as the HSM does it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	pquerna "github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
	"github.com/stretchr/testify/require"

	"ramzban/api"
	"ramzban/api/wire"
	"ramzban/hsm"
	"ramzban/keyservice"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/softhsm"
)

// hsmLog is what the HSM side logs, over all tests of the package.
var hsmLog logBuffer

// opened is the SoftHSM of this process: PKCS#11 initialises once. It is opened by the first test that needs it.
var opened = sync.OnceValues(func() (*hsm.HSM, error) {
	token, err := softhsm.Provision(context.Background(), hsmDir)
	if err != nil {
		return nil, err
	}
	hsmPIN = token.PIN
	conf := token.Config()
	conf.Log = debugLog(&hsmLog)
	openedHSM, err = hsm.Open(context.Background(), conf)
	return openedHSM, err
})

var (
	hsmDir    string
	hsmPIN    seed.PIN
	openedHSM *hsm.HSM
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "api")
		if err != nil {
			panic(err)
		}
		hsmDir = dir
		code := m.Run()
		if openedHSM != nil {
			err = openedHSM.Close()
		}
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

func debugLog(b *logBuffer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// bank is the whole service, every part real: SoftHSM, Badger, use cases, and the API over mutual TLS.
type bank struct {
	*world
	db      *badgerstore.Store
	now     *clock
	service *keyservice.Service
	denials api.Rate // that one client may cause; zero: the default
}

// clock is the use cases' clock; the API's own is the real one, because certificates are held against it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// birth is when the use cases' clock begins.
var birth = time.Date(2026, 3, 21, 9, 30, 20, 0, time.UTC)

func openBank(t testing.TB) *bank {
	t.Helper()
	b := &bank{now: &clock{now: birth}}
	b.openForRoles(t)
	return b
}

// openForRoles opens the service for one client of each role; the officer is one of two.
func (b *bank) openForRoles(t testing.TB) {
	t.Helper()
	second := authz.Client{Name: "the-officer-2", Certificates: []string{"officer-2"}, Roles: []authz.Role{authz.Officer}}
	directory, err := authz.NewDirectory(append(roleNames(), second))
	require.NoError(t, err)
	b.open(t, newAuthority(t, "test authority"), keyservice.Persons{Directory: directory, Officers: []string{"the-officer", "the-officer-2"}})
}

// open opens the service for the clients of a directory, and these officers.
func (b *bank) open(t testing.TB, ca *authority, p keyservice.Persons) {
	t.Helper()
	module, err := opened()
	require.NoError(t, err)
	log := &logBuffer{}
	entries := audit.NewLog("node-1")
	b.db, err = badgerstore.Open(badgerstore.Options{Dir: t.TempDir(), Node: "node-1", Clock: b.now.time, Sequencer: entries.Sequence, Log: debugLog(log)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.db.Close()) })
	service, err := keyservice.New(t.Context(), keyservice.Config{
		HSM: module, Store: b.db, Audit: entries, Node: "node-1", Uses: []string{"second-pin", "login"}, FailedSubjects: 1000, Clock: b.now.time, Log: debugLog(log),
		Guess: guessLimits, Profiles: profiles(), Persons: p,
	})
	require.NoError(t, err)
	b.service = service
	b.world = startAs(t, ca, service, func(o *api.Options) {
		o.Log, o.Directory, o.Denials = debugLog(log), p.Directory, b.denials
	})
	b.log = log
}

var guessLimits = keyservice.GuessLimits{FreeMisses: 3, BaseDelay: time.Second, MaxDelay: time.Hour, WindowDays: 30, MaxMisses: 100}

func profiles() map[string]keyservice.Profile {
	all := map[string]keyservice.Profile{}
	for name, p := range map[string]otp.Policy{
		"offline-60": {Type: otp.TOTP, Hash: seed.SHA1, Digits: 8, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute},
		"sms-120":    {Type: otp.SMS, Hash: seed.SHA256, Digits: 6, Validity: 2 * time.Minute},
		"pin-60": {
			Type: otp.OCRA, Hash: seed.SHA1, Digits: 6, Suite: pinSuite, PINDigits: 8,
			Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute,
		},
		"counter-6": {Type: otp.HOTP, Hash: seed.SHA1, Digits: 6, LookAhead: 10, ResyncAhead: 100},
	} {
		all[name] = keyservice.Profile{Policy: p, Guess: guessLimits}
	}
	return all
}

// rows is everything stored but the audit log: what a refused request must not change.
func (b *bank) rows() map[string]string {
	b.t.Helper()
	snap, err := b.db.Snapshot(b.t.Context())
	require.NoError(b.t, err)
	defer snap.Close()
	all := map[string]string{}
	require.NoError(b.t, snap.Scan(b.t.Context(), "", "", func(it store.Item) error {
		if !strings.HasPrefix(string(it.Key), string(audit.Prefix)) && !strings.HasPrefix(string(it.Key), "\x00") {
			all[string(it.Key)] = fmt.Sprintf("%d %x", it.Version, it.Value)
		}
		return nil
	}))
	return all
}

// post sends a wire type as this client and returns the answer.
func (b *bank) post(client, path string, in any) reply {
	b.t.Helper()
	return b.sendJSON(client, http.MethodPost, path, in)
}

func (b *bank) put(client, path string, in any) reply {
	b.t.Helper()
	return b.sendJSON(client, http.MethodPut, path, in)
}

func (b *bank) sendJSON(client, method, path string, in any, headers ...string) reply {
	b.t.Helper()
	body := ""
	if in != nil {
		encoded, err := json.Marshal(in)
		require.NoError(b.t, err)
		body = string(encoded)
	}
	return b.send(client, method, path, body, headers...)
}

// decode reads a successful answer.
func decode[A any](t testing.TB, r reply) A {
	t.Helper()
	var a A
	require.Less(t, r.status, 300, r.body)
	require.NoError(t, json.Unmarshal([]byte(r.body), &a))
	return a
}

// luhn completes digits with their check digit.
func luhn(digits string) string {
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return fmt.Sprintf("%s%d", digits, (10-sum%10)%10)
}

// card is a valid card number, different for each n.
func card(n int) string { return luhn(fmt.Sprintf("603799%09d", n)) }

func issueCard(n int) wire.IssueRequest {
	return wire.IssueRequest{Class: "card", Subject: card(n), Channel: "app", Profile: "offline-60", Uses: []string{"second-pin"}}
}

func (b *bank) issue(n int) wire.IssueAnswer {
	b.t.Helper()
	return decode[wire.IssueAnswer](b.t, b.post("issuer", "/v1/tokens", issueCard(n)))
}

func (b *bank) collect(id string) wire.CodeAnswer {
	b.t.Helper()
	return decode[wire.CodeAnswer](b.t, b.post("courier", "/v1/codes/"+id+"/collection", nil))
}

// phone is a customer's device with software of its own: the standard library and an independent OTP library.
type phone struct {
	bank   *bank
	card   string
	der    []byte
	serial string
	seed   []byte
}

// phoneKey is made once: RSA keys are slow to make, and no test depends on a fresh one.
var phoneKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func (b *bank) activation(n int, code string, key any) wire.ActivationRequest {
	b.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	require.NoError(b.t, err)
	return wire.ActivationRequest{
		Subject: card(n), ActivationCode: code, Device: &wire.Device{ID: "device-1", Channel: "app", PublicKey: der},
	}
}

// activated takes a new token of card n to pending on a phone.
func (b *bank) activated(n int) *phone {
	b.t.Helper()
	p, _ := b.activate(n, b.issue(n))
	return p
}

// activate takes an issued token of card n to pending on a phone, and returns what the phone was told, too.
func (b *bank) activate(n int, issued wire.IssueAnswer) (*phone, wire.OTP) {
	b.t.Helper()
	key, err := phoneKey()
	require.NoError(b.t, err)
	r := b.activation(n, b.collect(issued.Activation.ID).Code, &key.PublicKey)
	a := decode[wire.ActivationAnswer](b.t, b.post("activator", "/v1/tokens/"+issued.Serial+"/activation", r))
	p := &phone{bank: b, card: card(n), der: r.Device.PublicKey, serial: issued.Serial}
	p.seed, err = rsa.DecryptOAEP(sha1.New(), nil, key, a.Seed.Wrapped, nil)
	require.NoError(b.t, err)
	return p, a.OTP
}

// enrolled takes a new token of card n to active.
func (b *bank) enrolled(n int) *phone {
	b.t.Helper()
	p := b.activated(n)
	p.confirm()
	return p
}

func (p *phone) confirm() {
	p.bank.t.Helper()
	r := p.bank.post("activator", "/v1/tokens/"+p.serial+"/confirmation", wire.ConfirmationRequest{Proof: p.proof()})
	require.Equal(p.bank.t, "active", decode[wire.StatusAnswer](p.bank.t, r).Status)
}

func (p *phone) proof() []byte { return p.proofOf("ramzban/confirm/1") }

func (p *phone) proofOf(tag string) []byte {
	key := sha256.Sum256(p.der)
	m := hmac.New(sha1.New, p.seed)
	m.Write([]byte(tag + "\x00" + p.serial + "\x00"))
	m.Write(key[:])
	return m.Sum(nil)
}

// password is the phone's password of now.
func (p *phone) password() string { return p.passwordAt(p.bank.now.time()) }

func (p *phone) passwordAt(now time.Time) string {
	made, err := totp.GenerateCodeCustom(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(p.seed), now,
		totp.ValidateOpts{Period: 60, Digits: pquerna.DigitsEight, Algorithm: pquerna.AlgorithmSHA1})
	require.NoError(p.bank.t, err)
	return made
}

func (p *phone) request() wire.VerificationRequest {
	return wire.VerificationRequest{Serial: p.serial, Use: "second-pin", OTP: p.password()}
}

// shown lists a secret in every form it could be written in.
func shown(secret []byte) []string {
	return []string{
		string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint(secret),
		base64.RawStdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
		base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret),
	}
}
