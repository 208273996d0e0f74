package keyservice

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"slices"
	"sync"
	"time"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// ActivateRequest binds an issued token to one device.
type ActivateRequest struct {
	IdempotencyKey string // optional: a repeat with the same key gets the first answer

	Serial   string       // the token; without it, the one that class and subject have to make passwords offline
	Class    string       // only without a serial
	Subject  seed.Subject // required for cards and without a serial; for accounts optional, but checked when given
	Code     seed.Code
	DeviceID string
	Channel  string
	KeyDER   []byte // SubjectPublicKeyInfo (DER), RSA of 2048 to 4096 bits

	MakerSeed []byte // of hardware tokens, instead of a device: the seed as its maker wrapped it to ImportKey
}

// ActivatedToken carries the seed to the phone, wrapped.
type ActivatedToken struct {
	Serial     string
	Status     Status
	Seed       []byte // RSA-OAEP (SHA-1, MGF1-SHA-1, no label) under the device's key; nil for hardware tokens
	Policy     otp.Policy
	ServerTime time.Time
	Repeated   bool // this is the answer to an earlier request with the same idempotency key
}

// Activate makes the token's seed in the HSM and delivers it to one device, wrapped to the device's key. The seed of a
// hardware token comes from its maker instead, and nothing is delivered. The same device may ask again until the token
// is confirmed, and gets the same answer.
func (s *Service) Activate(ctx context.Context, c authz.Caller, r ActivateRequest) (ActivatedToken, error) {
	if err := s.authorise(ctx, c, authz.ActivateToken, r.Serial); err != nil {
		return ActivatedToken{}, err
	}
	who, err := s.whoActivates(ctx, r)
	if err != nil {
		return ActivatedToken{}, err
	}
	unlock, err := s.locks.lock(ctx, who.serials...)
	if err != nil {
		return ActivatedToken{}, err
	}
	defer unlock()
	activated, done, err := s.activate(ctx, c, r, who)
	if err != nil {
		return ActivatedToken{}, err
	}
	return ActivatedToken{
		Serial: activated.Serial, Status: activated.Status, Seed: activated.Delivery, Policy: activated.Policy, Repeated: done.repeated,
		ServerTime: s.Clock().UTC(), // of a repeat too: a phone sets its clock by it
	}, nil
}

// whoActivates checks how the request names its token, and finds what to lock.
func (s *Service) whoActivates(ctx context.Context, r ActivateRequest) (owner, error) {
	if r.Serial != "" {
		return owner{serials: []string{r.Serial}}, checkSerial(r.Serial)
	}
	if err := checkSubject(r.Class, r.Subject); err != nil {
		return owner{}, err
	}
	return s.ownerOf(ctx, r.Class, r.Subject)
}

// activate decides the request, once if it carries an idempotency key. A caller that names subjects may fail for few of
// them only.
func (s *Service) activate(ctx context.Context, c authz.Caller, r ActivateRequest, who owner) (activated token, done settled, err error) {
	leave, full := func() {}, error(nil)
	if r.Serial == "" {
		leave, full = s.failing.enter(c.Name, who.limited(), s.Clock())
	}
	o := r.once()
	o.again = func(first LoggedEntry) (d decision, err error) {
		activated, d, err = s.activatedBefore(ctx, first.Serial)
		return d, err
	}
	_, done, err = decideOnce(ctx, s, c, authz.ActivateToken, r.Serial, o, func() (_ struct{}, d decision, err error) {
		if full != nil {
			return struct{}{}, d, s.tooManySubjects(ctx, c, authz.ActivateToken, "", full)
		}
		if r.Serial == "" {
			activated, d, err = s.activationBySubject(ctx, r, who)
		} else {
			activated, d, err = s.activation(ctx, r)
		}
		return struct{}{}, d, err
	})
	if full == nil && (done.repeated || err == nil || slices.Contains(undecided, CodeOf(err))) {
		leave()
	}
	return activated, done, err
}

// activation decides one activation by serial, from the store as it is now.
func (s *Service) activation(ctx context.Context, r ActivateRequest) (activated token, d decision, err error) {
	d, err = s.changeOf(ctx, r.Serial, func(t token) (_ token, refused *Error, err error) {
		activated, refused, err = s.bindDevice(ctx, t, r)
		return activated, refused, err
	})
	return activated, d, err
}

const wrongActivation = "the activation code does not belong to this serial and subject"

// bindDevice gives the token to the request's device, or says why not. A wrong code uses up a try.
func (s *Service) bindDevice(ctx context.Context, t token, r ActivateRequest) (token, *Error, error) {
	dev, bad := parseHolder(r)
	if bad != nil {
		return t, bad, nil
	}
	if no := s.activatable(t, dev); no != nil {
		return t, no, nil
	}
	right, err := s.rightCode(ctx, t, r)
	if err != nil {
		return t, nil, err
	}
	if !right {
		t.state.CodeTries++
		return t, &Error{Code: CodeActivationWrong, Detail: wrongActivation}, nil
	}
	return s.enrol(ctx, t, dev)
}

// device is what a token is activated on: a phone with its checked key, or a hardware token with its maker's seed.
type device struct {
	deviceRecord
	channel string
	key     *rsa.PublicKey // nil for hardware
	maker   []byte         // the seed as the maker wrapped it; nil for phones
}

// parseHolder returns what the token is to be activated on, or why it cannot be.
func parseHolder(r ActivateRequest) (device, *Error) {
	phone := r.DeviceID != "" || len(r.KeyDER) > 0 || r.Channel != "" && r.Channel != ChannelHardware
	switch {
	case phone == (len(r.MakerSeed) > 0):
		return device{}, &Error{Code: CodeInvalid, Detail: "name the device, or for a hardware token give maker_seed; exactly one of them"}
	case phone:
		return parseDevice(r)
	}
	sum := sha256.Sum256(r.MakerSeed)
	return device{deviceRecord: deviceRecord{KeySHA256: sum[:]}, channel: ChannelHardware, maker: r.MakerSeed}, nil
}

// parseDevice returns the phone's key, or why it is not one we would give a seed to.
func parseDevice(r ActivateRequest) (device, *Error) {
	if r.DeviceID == "" || len(r.DeviceID) > 128 {
		return device{}, &Error{Code: CodeInvalid, Detail: "the device id must be 1 to 128 characters"}
	}
	parsed, err := x509.ParsePKIXPublicKey(r.KeyDER)
	key, isRSA := parsed.(*rsa.PublicKey)
	if err != nil || !isRSA {
		return device{}, &Error{Code: CodeDeviceKeyInvalid, Detail: "the device's public key must be an RSA key as DER SubjectPublicKeyInfo"}
	}
	if unsound(key) {
		return device{}, &Error{Code: CodeDeviceKeyInvalid, Detail: "the device's RSA key must have 2048 to 4096 bits, an odd exponent of at least 65537, and no small factor"}
	}
	sum := sha256.Sum256(r.KeyDER)
	return device{deviceRecord: deviceRecord{ID: r.DeviceID, KeySHA256: sum[:]}, channel: r.Channel, key: key}, nil
}

// unsound says that whatever is wrapped to the key is not safe: it is short, or plainly not the product of two primes.
func unsound(key *rsa.PublicKey) bool {
	bits := key.N.BitLen()
	return bits < 2048 || bits > 4096 || key.E < 65537 || key.E%2 == 0 ||
		new(big.Int).GCD(nil, nil, key.N, smallPrimes()).Cmp(big.NewInt(1)) != 0 || key.N.ProbablyPrime(1)
}

// smallPrimes is the product of all primes below 10,000.
var smallPrimes = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for n := int64(2); n < 10_000; n++ {
		if p := big.NewInt(n); p.ProbablyPrime(0) { // exact for numbers below 2^64
			product.Mul(product, p)
		}
	}
	return product
})

// activatable says why this device may not activate the token, whatever the code; nil if it may.
func (s *Service) activatable(t token, dev device) *Error {
	switch {
	case t.Status != Issued && t.Status != Pending:
		return notWhile(t.Status, "a token is activated once; a new device needs a new token")
	case dev.channel != t.Channel:
		return &Error{Code: CodeChannelOther, Detail: "the token was issued for channel " + t.Channel}
	case t.KeyPin != nil && !bytes.Equal(t.KeyPin, dev.KeySHA256):
		return &Error{Code: CodeDeviceKeyNotPinned, Detail: "the token was issued for another device key"}
	case t.Device != nil && (t.Device.ID != dev.ID || !bytes.Equal(t.Device.KeySHA256, dev.KeySHA256)):
		return &Error{Code: CodeDeviceOther, Detail: "the token is being activated on another device: deactivate it and issue a new one"}
	}
	return s.codeDead(t)
}

// rightCode checks activation code and subject together, so that a wrong answer does not tell which was wrong.
func (s *Service) rightCode(ctx context.Context, t token, r ActivateRequest) (bool, error) {
	code, err := s.makeCode(ctx, t.record)
	if err != nil {
		return false, err
	}
	subject := t.Subject.Sum
	if t.Class == ClassCard || r.Subject.Reveal() != "" {
		if subject, err = s.HSM.PseudonymWith(ctx, t.Subject.Key, t.Class, r.Subject); err != nil {
			return false, err
		}
	}
	sameSubject := hmac.Equal(subject, t.Subject.Sum)
	return sameCode(code, r.Code) && sameSubject, nil
}

// enrol gives the token its seed and device; a token that has them already is left as it is.
func (s *Service) enrol(ctx context.Context, t token, dev device) (token, *Error, error) {
	if t.Status == Pending {
		return t, nil, nil
	}
	if dev.maker != nil {
		return s.enrolHardware(ctx, t, dev)
	}
	born, err := s.newSeed(ctx, t.record, dev.key)
	if err != nil {
		return t, nil, err
	}
	t.Derive, t.Seed, t.Delivery = &born.Derive, &born.ForStore, born.ForDevice
	return t.pending(dev), nil, nil
}

// pending says that the device has the seed; what it must prove next has tries of its own.
func (t token) pending(dev device) token {
	t.Status, t.Device, t.state.CodeTries = Pending, &dev.deviceRecord, 0
	return t
}

// newSeed makes the seed of a token in the HSM, wrapped for the store and, if there is one, to the device's key.
func (s *Service) newSeed(ctx context.Context, r record, key *rsa.PublicKey) (seed.Enrolled, error) {
	nonce, err := s.HSM.Random(ctx, 16)
	if err != nil {
		return seed.Enrolled{}, err
	}
	context, err := derivationContext(r, nonce)
	if err != nil {
		return seed.Enrolled{}, err
	}
	return s.HSM.Enrol(ctx, seed.Derivation{Context: context, Hash: r.Policy.Hash}, key)
}

// derivationContext is different for every seed: CBOR of scheme, serial, nonce, purpose, hash and length in bytes.
func derivationContext(r record, nonce []byte) ([]byte, error) {
	return store.Encode([]any{"ramzban/derive/1", r.Serial, nonce, "otp", r.Policy.Hash.String(), r.Policy.Hash.SeedLength()})
}
