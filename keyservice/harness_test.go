package keyservice

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as the HSM does it
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/hsm"
	"ramzban/keyservice/audit"
	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/pgstore"
	"ramzban/keyservice/store/pgstore/pgtest"
	"ramzban/softhsm"
)

// A real SoftHSM serves every test of the package: PKCS#11 initialises once per process.
var theHSM *hsm.HSM

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "keyservice")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		token, err := softhsm.Provision(context.Background(), dir)
		if err != nil {
			panic(err)
		}
		if err = token.Hold(context.Background(), furtherKeys()); err != nil {
			panic(err)
		}
		if theHSM, err = hsm.Open(context.Background(), token.Config()); err != nil {
			panic(err)
		}
		defer func() { _ = theHSM.Close() }()
		return pgtest.Run(m)
	}())
}

// The callers of the demo, one role each.
var (
	branch      = authz.Caller{Name: "branch", Roles: []authz.Role{authz.Issuer}}
	mobileBank  = authz.Caller{Name: "mobile-bank", Roles: []authz.Role{authz.Activator}}
	smsGateway  = authz.Caller{Name: "sms-gateway", Roles: []authz.Role{authz.Courier}}
	coreBanking = authz.Caller{Name: "core-banking", Roles: []authz.Role{authz.Verifier}}
	auditor     = authz.Caller{Name: "auditor", Roles: []authz.Role{authz.Auditor}}
)

// world is one key service with its store, clock and ways to make things go wrong.
type world struct {
	*Service
	t        testing.TB
	node     string
	dir      string // of the embedded database
	dsn      string // of the cluster's
	open     func() (database, error)
	db       database
	clock    *fakeClock
	skew     time.Duration // of the node's clock, which is ahead by it
	hsm      *faultyHSM
	revealed *sync.Map // the keys beyond the first that its HSM shows
	store    *faultyStore

	logbook *audit.Log
}

// database is an open engine.
type database interface {
	store.Store
	Close() error
}

type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// entryKey is the row of an entry of the one node.
func entryKey(index uint64) store.Key {
	return audit.EntryKey(audit.Position{Node: "node-1", Index: index})
}

// faultyHSM is the real HSM; while fail is set, seeds cannot be used. It counts the MACs made under seeds. Of the master
// keys it has the first versions, and those that were revealed.
type faultyHSM struct {
	HSM
	mu       sync.Mutex
	fail     error
	macs     int
	searched int       // how often its keys were looked for again
	revealed *sync.Map // of seed.KeyRef; the nodes of a cluster share it
	unsigned error     // while set, no checkpoint can be signed

	destroying func(seed.KeyRef) error // if set, what it answers to the destruction of a key; nil: the real one does it
}

// has says whether the node's HSM shows a key.
func (f *faultyHSM) has(ref seed.KeyRef) bool {
	_, shown := f.revealed.Load(ref)
	return ref.Version == 1 || shown
}

func (f *faultyHSM) failing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

func (f *faultyHSM) setFailing(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *faultyHSM) Rewrap(ctx context.Context, w seed.Wrapped, h seed.Hash) (seed.Wrapped, error) {
	if err := f.failing(); err != nil {
		return seed.Wrapped{}, err
	}
	return f.HSM.Rewrap(ctx, w, h)
}

func (f *faultyHSM) Keys(ctx context.Context) ([]seed.MasterKey, error) {
	all, err := f.HSM.Keys(ctx)
	return slices.DeleteFunc(all, func(m seed.MasterKey) bool { return !f.has(m.Key) }), err
}

func (f *faultyHSM) Use(refs []seed.KeyRef) error {
	for _, ref := range refs {
		if !f.has(ref) {
			return fmt.Errorf("%w: %s", seed.ErrKeyNotFound, ref)
		}
	}
	return f.HSM.Use(refs)
}

func (f *faultyHSM) CheckSeal(ctx context.Context, purpose string, data []byte, seal seed.MACed) error {
	if !f.has(seal.Key) {
		return fmt.Errorf("%w: %s", seed.ErrKeyNotFound, seal.Key)
	}
	return f.HSM.CheckSeal(ctx, purpose, data, seal)
}

func (f *faultyHSM) Refresh(ctx context.Context) error {
	f.mu.Lock()
	f.searched++
	f.mu.Unlock()
	return f.HSM.Refresh(ctx)
}

func (f *faultyHSM) DestroyKey(ctx context.Context, ref seed.KeyRef) error {
	if f.destroying != nil {
		if err := f.destroying(ref); err != nil {
			return err
		}
	}
	return f.HSM.DestroyKey(ctx, ref)
}

func (f *faultyHSM) SignAudit(ctx context.Context, message []byte) (seed.Signature, error) {
	if f.unsigned != nil {
		return seed.Signature{}, f.unsigned
	}
	return f.HSM.SignAudit(ctx, message)
}

func (f *faultyHSM) UseSeed(ctx context.Context, w seed.Wrapped, h seed.Hash, fn func(seed.MAC) error) error {
	if err := f.failing(); err != nil {
		return err
	}
	return f.HSM.UseSeed(ctx, w, h, func(mac seed.MAC) error {
		return fn(func(message []byte) ([]byte, error) {
			f.mu.Lock()
			f.macs++
			f.mu.Unlock()
			return mac(message)
		})
	})
}

func (f *faultyHSM) made() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.macs
}

// faultyStore is the real store. before, if set, is asked before each commit and may answer in its place; after, if
// set, may replace the answer of a commit that was made. reading, if set, is told of each read.
type faultyStore struct {
	store.Store
	before, after func(store.Change) error
	reading       func([]store.Key)
}

func (f *faultyStore) Get(ctx context.Context, keys ...store.Key) ([]store.Item, error) {
	if f.reading != nil {
		f.reading(keys)
	}
	return f.Store.Get(ctx, keys...)
}

func (f *faultyStore) Commit(ctx context.Context, c store.Change) (uint64, error) {
	if f.before != nil {
		if err := f.before(c); err != nil {
			return 0, err
		}
	}
	index, err := f.Store.Commit(ctx, c)
	if err == nil && f.after != nil {
		err = f.after(c)
	}
	return index, err
}

func profiles() map[string]Profile {
	profiles := map[string]Profile{}
	for name, p := range policies() {
		profiles[name] = Profile{Policy: p, Guess: limits}
	}
	return profiles
}

func policies() map[string]otp.Policy {
	return map[string]otp.Policy{
		"offline-60": {Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute},
		"sha-256":    {Type: otp.TOTP, Hash: seed.SHA256, Digits: 8, Period: 30 * time.Second, Validity: time.Minute, DriftSearch: 30 * time.Second, DriftBound: time.Minute},
		"sha-512":    {Type: otp.TOTP, Hash: seed.SHA512, Digits: 7, Period: 30 * time.Second, Validity: time.Minute, DriftSearch: 30 * time.Second, DriftBound: time.Minute},
		"unbound-60": {Type: otp.TOTP, Hash: seed.SHA1, Digits: 6, Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute, AllowUnbound: true},
		"counter-6":  {Type: otp.HOTP, Hash: seed.SHA1, Digits: 6, LookAhead: 10, ResyncAhead: 100},
		"counter-8":  {Type: otp.HOTP, Hash: seed.SHA1, Digits: 8, LookAhead: 3, ResyncAhead: 6},
	}
}

// otherProfiles are those whose passwords take more than a moving factor.
func otherProfiles() map[string]Profile {
	profiles := map[string]Profile{}
	for name, p := range map[string]otp.Policy{
		"sms-120": {Type: otp.SMS, Hash: seed.SHA256, Digits: 6, Validity: 2 * time.Minute},
		"pin-60": {
			Type: otp.OCRA, Hash: seed.SHA1, Digits: 6, Suite: "OCRA-1:HOTP-SHA1-6:QN08-PSHA1-T1M", PINDigits: 8,
			Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute,
		},
		"signing-60": {
			Type: otp.OCRA, Hash: seed.SHA256, Digits: 6, Suite: "OCRA-1:HOTP-SHA256-6:QH64-T1M", Signs: true,
			Period: time.Minute, Validity: time.Minute, DriftSearch: time.Minute, DriftBound: 3 * time.Minute,
		},
		"pin-512": {
			Type: otp.OCRA, Hash: seed.SHA256, Digits: 8, Suite: "OCRA-1:HOTP-SHA256-8:C-QH40-PSHA512", PINDigits: 4, Signs: true,
			LookAhead: 10, ResyncAhead: 100,
		},
	} {
		profiles[name] = Profile{Policy: p, Guess: limits}
	}
	return profiles
}

// birth is when the worlds' clocks begin.
var birth = time.Date(2026, 3, 21, 9, 30, 20, 0, time.UTC)

// newWorld is a service of one node.
func newWorld(t testing.TB) *world {
	dir := t.TempDir()
	w := &world{t: t, node: "node-1", dir: dir, clock: &fakeClock{now: birth}}
	w.open = func() (database, error) {
		return badgerstore.Open(badgerstore.Options{Dir: dir, Node: w.node, Clock: w.clock.Now, Sequencer: w.logbook.Sequence, Log: slog.New(slog.DiscardHandler)})
	}
	w.begin()
	return w
}

// newCluster is a service of several nodes that share a database. Their clocks are ahead of the world's by so much.
func newCluster(t testing.TB, skews ...time.Duration) []*world {
	dsn, clock := pgtest.Database(t), &fakeClock{now: birth}
	revealed := &sync.Map{}
	var nodes []*world
	for i, skew := range skews {
		w := &world{t: t, node: fmt.Sprintf("node-%d", i+1), dsn: dsn, clock: clock, skew: skew, revealed: revealed}
		w.open = func() (database, error) {
			return pgstore.Open(context.Background(), pgstore.Options{DSN: dsn, Node: w.node, Sequencer: w.logbook.Sequence, Log: slog.New(slog.DiscardHandler)})
		}
		w.begin()
		nodes = append(nodes, w)
	}
	return nodes
}

// begin starts the node for the rest of the test.
func (w *world) begin() {
	if w.revealed == nil {
		w.revealed = &sync.Map{}
	}
	w.hsm = &faultyHSM{HSM: theHSM, revealed: w.revealed}
	w.start()
	w.t.Cleanup(func() { require.NoError(w.t, w.db.Close()) })
}

// start starts the service on what is stored.
func (w *world) start() {
	w.logbook = audit.NewLog(w.node)
	var err error
	w.db, err = w.open()
	require.NoError(w.t, err)
	w.store = &faultyStore{Store: w.db}
	w.restart()
}

// now is the node's clock.
func (w *world) now() time.Time { return w.clock.Now().Add(w.skew) }

// restart forgets everything the service holds in memory.
func (w *world) restart() {
	all := profiles()
	maps.Copy(all, otherProfiles())
	s, err := New(context.Background(), Config{
		HSM: w.hsm, Store: w.store, Audit: w.logbook, Node: w.node, Profiles: all, Uses: []string{"second-pin", "login"}, Guess: limits, FailedSubjects: 1000,
		Clock: w.now, Log: slog.New(slog.DiscardHandler), Persons: persons(),
	})
	require.NoError(w.t, err)
	w.Service = s
}

// phone is a customer's device: it makes passwords in software, at a clock of its own.
type phone struct {
	w       *world
	key     *rsa.PrivateKey
	der     []byte
	id      string
	serial  string
	seed    []byte
	policy  otp.Policy
	drift   time.Duration
	counter uint64
	pin     string // what the customer types, if the suite takes a PIN
}

// phoneKeys are made once: RSA key generation is slow, and no test depends on a fresh one.
var phoneKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	keys := make([]*rsa.PrivateKey, 4)
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

func (w *world) newPhone(key int) *phone {
	k := phoneKeys()[key]
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	require.NoError(w.t, err)
	return &phone{w: w, key: k, der: der, id: fmt.Sprintf("device-%d", key)}
}

// card makes a valid test card number of an index.
func card(i int) string {
	digits := fmt.Sprintf("603799%09d", i)
	return fmt.Sprintf("%s%d", digits, luhnDigit(digits))
}

func (w *world) issueRequest(subject, profile string) IssueRequest {
	return IssueRequest{Class: ClassCard, Subject: seed.NewSubject(subject), Channel: ChannelApp, Profile: profile, Uses: []string{"second-pin"}}
}

func (w *world) issued(subject, profile string) IssuedToken {
	issued, err := w.Issue(context.Background(), branch, w.issueRequest(subject, profile))
	require.NoError(w.t, err)
	return issued
}

func (w *world) code(issued IssuedToken) seed.Code {
	code, err := w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.NoError(w.t, err)
	return code.Code
}

func (p *phone) request(subject string, issued IssuedToken, code seed.Code) ActivateRequest {
	return ActivateRequest{Serial: issued.Serial, Subject: seed.NewSubject(subject), Code: code, DeviceID: p.id, Channel: ChannelApp, KeyDER: p.der}
}

// receive opens the seed that was delivered to the phone.
func (p *phone) receive(a ActivatedToken) {
	opened, err := rsa.DecryptOAEP(sha1.New(), nil, p.key, a.Seed, nil)
	require.NoError(p.w.t, err)
	p.serial, p.seed, p.policy = a.Serial, opened, a.Policy
}

func (p *phone) mac(message []byte) []byte {
	m := hmac.New(p.policy.Hash.New(), p.seed)
	m.Write(message)
	return m.Sum(nil)
}

func (p *phone) proof() []byte {
	sum := sha256.Sum256(p.der)
	return p.mac(ConfirmMessage(p.serial, sum[:]))
}

// at is the password of one moving factor, bound to nothing.
func (p *phone) at(factor uint64) seed.Password { return p.signed(factor, nil) }

// signed is the password of one moving factor for a transaction.
func (p *phone) signed(factor uint64, transaction *otp.Transaction) seed.Password {
	var pin []byte
	if h := p.policy.PINHash(); h != 0 {
		digest := h.New()()
		digest.Write([]byte(p.pin))
		pin = digest.Sum(nil)
	}
	message, err := p.policy.Message(factor, pin, transaction)
	require.NoError(p.w.t, err)
	made, err := otp.Truncate(p.mac(message), p.policy.Digits)
	require.NoError(p.w.t, err)
	return made
}

// factor is the phone's moving factor now.
func (p *phone) factor() uint64 {
	if p.policy.Counted() {
		return p.counter
	}
	return uint64(p.w.clock.Now().Add(p.drift).Unix() / int64(p.policy.Period/time.Second))
}

// password makes the phone's password of now; a counter moves on.
func (p *phone) password() seed.Password {
	made := p.at(p.factor())
	p.counter++
	return made
}

// wrong is a password that no moving factor near now makes.
func (p *phone) wrong() seed.Password {
	near := map[string]bool{}
	for f := max(p.factor(), 60) - 60; f < p.factor()+60; f++ {
		near[p.at(f).Reveal()] = true
	}
	for i := range len(near) + 1 {
		if typed := fmt.Sprintf("%0*d", p.policy.Digits, i); !near[typed] {
			return seed.NewPassword(typed)
		}
	}
	panic("unreachable: more candidates than near passwords")
}

// enrol walks a new token of a card to active on a new phone.
func (w *world) enrol(subject, profile string) *phone {
	issued, p := w.issued(subject, profile), w.newPhone(0)
	activated, err := w.Activate(context.Background(), mobileBank, p.request(subject, issued, w.code(issued)))
	require.NoError(w.t, err)
	p.receive(activated)
	status, err := w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
	require.NoError(w.t, err)
	require.Equal(w.t, Active, status)
	return p
}

func (w *world) try(p *phone, typed seed.Password) Verdict {
	v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: p.serial, Use: "second-pin", OTP: typed})
	require.NoError(w.t, err)
	return v
}

func (w *world) entries() []LoggedEntry {
	var all []LoggedEntry
	for {
		page, err := w.AuditEntries(context.Background(), auditor, AuditQuery{From: uint64(len(all)), Limit: MaxAuditPage})
		require.NoError(w.t, err)
		all = append(all, page.Entries...)
		if len(page.Entries) < MaxAuditPage {
			return all
		}
	}
}
