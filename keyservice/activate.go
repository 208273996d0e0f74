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

	Serial   string
	Subject  seed.Subject // required for cards; for accounts optional, but checked when given
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

// Activate makes the token's seed in the HSM and delivers it to one device, wrapped to the device's key. The same
// device may ask again until the token is confirmed, and gets the same answer.
func (s *Service) Activate(ctx context.Context, c authz.Caller, r ActivateRequest) (ActivatedToken, error) {
	var activated token
	o := r.once()
	o.again = func() (d decision, err error) {
		activated, d, err = s.activatedBefore(ctx, r.Serial)
		return d, err
	}
	repeated, err := s.changeOnce(ctx, c, authz.ActivateToken, r.Serial, o, func(t token) (token, *Error, error) {
		dev, bad := parseDevice(r)
		if bad != nil {
			return t, bad, nil
		}
		if no := s.activatable(t, r, dev); no != nil {
			return t, no, nil
		}
		right, err := s.rightCode(ctx, t, r)
		if err != nil {
			return t, nil, err
		}
		if !right {
			t.state.CodeTries++
			return t, &Error{Code: CodeActivationWrong, Detail: "the activation code does not belong to this serial and subject"}, nil
		}
		activated, err = s.enrol(ctx, t, dev)
		return activated, nil, err
	})
	if err != nil {
		return ActivatedToken{}, err
	}
	return ActivatedToken{
		Serial: activated.Serial, Status: activated.Status, Seed: activated.Delivery, Policy: activated.Policy, Repeated: repeated,
		ServerTime: s.Clock().UTC(), // of a repeat too: a phone sets its clock by it
	}, nil
}

// device is a phone's checked key.
type device struct {
	deviceRecord
	key *rsa.PublicKey
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
	return device{deviceRecord{ID: r.DeviceID, KeySHA256: sum[:]}, key}, nil
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
func (s *Service) activatable(t token, r ActivateRequest, dev device) *Error {
	switch {
	case t.Status != Issued && t.Status != Pending:
		return notWhile(t.Status, "a token is activated once; a new device needs a new token")
	case r.Channel != t.Channel:
		return &Error{Code: CodeChannelOther, Detail: "the token was issued for the other channel"}
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
		p, err := s.HSM.Pseudonym(ctx, t.Class, r.Subject)
		if err != nil {
			return false, err
		}
		subject = p.Sum
	}
	sameSubject := hmac.Equal(subject, t.Subject.Sum)
	return sameCode(code, r.Code) && sameSubject, nil
}

// enrol gives the token its seed and device; a token that has them already is left as it is.
func (s *Service) enrol(ctx context.Context, t token, dev device) (token, error) {
	if t.Status == Pending {
		return t, nil
	}
	born, err := s.newSeed(ctx, t.record, dev.key)
	if err != nil {
		return t, err
	}
	t.Status, t.Device = Pending, &dev.deviceRecord
	t.Derive, t.Seed, t.Delivery = &born.Derive, &born.ForStore, born.ForDevice
	return t, nil
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

// ConfirmRequest proves that the phone has the seed.
type ConfirmRequest struct {
	Serial string
	Proof  []byte        // see ConfirmMessage
	OTP    seed.Password // of hardware tokens, which can make nothing else: a password, which is used up
}

// ConfirmMessage is what a device MACs with its seed to prove that it has it: "ramzban/confirm/1" 0x00 serial 0x00 and
// the SHA-256 of its SubjectPublicKeyInfo (DER). No password is ever made of a message this long.
func ConfirmMessage(serial string, keySHA256 []byte) []byte {
	return slices.Concat([]byte("ramzban/confirm/1\x00"), []byte(serial), []byte{0}, keySHA256)
}

// Confirm makes a pending token active once its device proves that it has the seed. It uses up no password. A device
// that did not hear the answer may confirm again.
func (s *Service) Confirm(ctx context.Context, c authz.Caller, r ConfirmRequest) (Status, error) {
	err := s.change(ctx, c, authz.ConfirmToken, r.Serial, func(t token) (token, *Error, error) {
		if t.Status != Pending && t.Status != Active || t.Device == nil {
			return t, notWhile(t.Status, "only a pending token can be confirmed"), nil
		}
		right, err := s.rightProof(ctx, t, r.Proof)
		if err != nil {
			return t, nil, err
		}
		if !right {
			return t, &Error{Code: CodeProofWrong, Detail: "the device does not have this token's seed: activate it again"}, nil
		}
		t.Status, t.Delivery, t.Code = Active, nil, nil
		return t, nil, nil
	})
	if err != nil {
		return "", err
	}
	return Active, nil
}

func (s *Service) rightProof(ctx context.Context, t token, proof []byte) (bool, error) {
	right := false
	err := s.HSM.UseSeed(ctx, *t.Seed, t.Policy.Hash, func(mac seed.MAC) error {
		sum, err := mac(ConfirmMessage(t.Serial, t.Device.KeySHA256))
		right = hmac.Equal(sum, proof)
		return err
	})
	return right, err
}
