package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the OAEP hash that every PKCS#11 module has
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ramzban/api/wire"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// phone is the reference phone: a folder with its RSA key and, once activated, its token. It is no part of the server
// and works without it.
type phone struct {
	dir string
	key *rsa.PrivateKey
}

// phoneToken is what the phone keeps of its token, in a file only its owner can read. Nothing in it depends on the PIN
// that the customer types: who has the file alone has nothing to try PINs against.
type phoneToken struct {
	Serial    string   `json:"serial"`
	Type      otp.Type `json:"type"`
	Hash      string   `json:"hash"`
	Digits    int      `json:"digits"`
	Period    int      `json:"period,omitempty"`       // seconds; 0 for counters
	Counter   uint64   `json:"counter,omitempty"`      // the next one
	Suite     string   `json:"suite,omitempty"`        // ocra
	PINDigits int      `json:"pin_digits,omitempty"`   // length of the PIN to ask for; 0: none
	Signs     bool     `json:"signs,omitempty"`        // each password is for one transaction
	Offset    int64    `json:"clock_offset,omitempty"` // milliseconds that the service's clock is ahead of this phone's
	Confirmed bool     `json:"confirmed"`              // the service knows that this phone has the seed
	Seed      []byte   `json:"seed"`
}

const (
	phoneKeyBits   = 2048
	phoneKeyFile   = "key.pem"
	phoneTokenFile = "token.json"
)

// newPhone makes the folder and the key; it never replaces one.
func newPhone(dir string) (phone, error) {
	if err := os.MkdirAll(dir, privateFolder); err != nil {
		return phone{}, fmt.Errorf("phone: %w: choose a folder you may write", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, phoneKeyBits)
	if err != nil {
		return phone{}, fmt.Errorf("phone: making its key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return phone{}, fmt.Errorf("phone: encoding its key: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	err = createFile(filepath.Join(dir, phoneKeyFile), block, privateFile)
	if errors.Is(err, os.ErrExist) {
		return phone{}, fmt.Errorf("phone: %s has a key already: choose another folder", dir)
	}
	if err != nil {
		return phone{}, fmt.Errorf("phone: %w: choose a folder you may write", err)
	}
	return phone{dir: dir, key: key}, nil
}

// openPhone reads the key.
func openPhone(dir string) (phone, error) {
	b, err := os.ReadFile(filepath.Join(dir, phoneKeyFile))
	if err != nil {
		return phone{}, fmt.Errorf("phone: %w: make one with `ramzban device new --dir %s`", err, dir)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return phone{}, fmt.Errorf("phone: %s is not a PEM key: make a new phone", filepath.Join(dir, phoneKeyFile))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return phone{}, fmt.Errorf("phone: its key cannot be read: %w: make a new phone", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return phone{}, fmt.Errorf("phone: its key is not an RSA key: make a new phone")
	}
	return phone{dir: dir, key: key}, nil
}

// publicKey returns the DER SubjectPublicKeyInfo.
func (p phone) publicKey() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&p.key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("phone: encoding its public key: %w", err)
	}
	return der, nil
}

// unwrap opens the delivered seed with the phone's key.
func (p phone) unwrap(a wire.ActivationAnswer) (phoneToken, error) {
	if a.Seed == nil {
		return phoneToken{}, errors.New("phone: the service delivered no seed: this token is not for a phone")
	}
	s, err := p.open(a.Seed.Wrapped)
	if err != nil {
		return phoneToken{}, err
	}
	return phoneToken{
		Serial: a.Serial, Type: otp.Type(a.OTP.Type), Hash: a.OTP.Hash, Digits: a.OTP.Digits, Period: a.OTP.Period,
		Suite: a.OTP.Suite, PINDigits: a.OTP.PINDigits, Signs: a.OTP.Signs, Seed: s,
	}, nil
}

func (p phone) open(wrapped []byte) ([]byte, error) {
	s, err := rsa.DecryptOAEP(sha1.New(), nil, p.key, wrapped, nil)
	if err != nil {
		return nil, fmt.Errorf("phone: the delivered seed was not wrapped for this key: %w", err)
	}
	return s, nil
}

// save makes the token survive the phone being switched off.
func (p phone) save(t phoneToken) error {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("phone: encoding its token: %w", err)
	}
	if err := replaceFile(filepath.Join(p.dir, phoneTokenFile), append(b, '\n')); err != nil {
		return fmt.Errorf("phone: %w: nothing was shown; make its folder writable", err)
	}
	return nil
}

// token reads what save wrote.
func (p phone) token() (phoneToken, error) {
	b, err := os.ReadFile(filepath.Join(p.dir, phoneTokenFile))
	if err != nil {
		return phoneToken{}, fmt.Errorf("phone: no token: %w: activate it with `ramzban device activate --dir %s`", err, p.dir)
	}
	var t phoneToken
	if err := json.Unmarshal(b, &t); err != nil {
		return phoneToken{}, fmt.Errorf("phone: its token cannot be read: %w: deactivate it and enrol again", err)
	}
	return t, nil
}

// proof shows that the phone with this public key has the seed; it uses up no password.
func (t phoneToken) proof(publicKey []byte) ([]byte, error) {
	return t.proofOf("ramzban/confirm/1", publicKey)
}

// proofOf is the proof under a tag, which says what it is for.
func (t phoneToken) proofOf(tag string, publicKey []byte) ([]byte, error) {
	digest := sha256.Sum256(publicKey)
	return t.mac(append([]byte(tag+"\x00"+t.Serial+"\x00"), digest[:]...))
}

// typed is what the customer gives the phone for one password; of most tokens nothing.
type typed struct {
	pin         seed.PIN
	transaction *otp.Transaction
}

// next returns the token's next password, and the token as it must be saved before the password is shown. A wrong PIN
// gives a wrong password; the phone cannot tell.
func (t phoneToken) next(now time.Time, in typed) (seed.Password, phoneToken, error) {
	pin, err := t.digest(in.pin)
	if err != nil {
		return seed.Password{}, t, err
	}
	factor, after, err := t.factor(now)
	if err != nil {
		return seed.Password{}, t, err
	}
	message, err := otp.Policy{Type: t.Type, Suite: t.Suite}.Message(factor, pin, in.transaction)
	if err != nil {
		return seed.Password{}, t, fmt.Errorf("phone: its token cannot be used: %w: use a newer version", err)
	}
	sum, err := t.mac(message)
	if err != nil {
		return seed.Password{}, t, err
	}
	p, err := otp.Truncate(sum, t.Digits)
	return p, after, err
}

// factor returns the moving factor, and the token after its use.
func (t phoneToken) factor(now time.Time) (uint64, phoneToken, error) {
	if t.counts() {
		after := t
		after.Counter++
		return t.Counter, after, nil
	}
	if t.Period < 1 {
		return 0, t, errors.New("phone: its token has no period: enrol again")
	}
	at := now.Add(time.Duration(t.Offset) * time.Millisecond)
	return uint64(at.Unix()) / uint64(t.Period), t, nil
}

// counts says whether the moving factor is a counter; else it is a time step.
func (t phoneToken) counts() bool { return t.Type == otp.HOTP || t.Type == otp.OCRA && t.Period == 0 }

// digest is how a PIN enters a password; nil if the token takes none. Only its form can be checked here.
func (t phoneToken) digest(pin seed.PIN) ([]byte, error) {
	if t.PINDigits == 0 {
		return nil, nil
	}
	v := pin.Reveal()
	if len(v) != t.PINDigits || strings.Trim(v, "0123456789") != "" {
		return nil, fmt.Errorf("phone: the PIN has %d digits: type it again", t.PINDigits)
	}
	h := otp.Policy{Suite: t.Suite}.PINHash().New()
	if h == nil {
		return nil, errors.New("phone: its token takes a PIN, but its suite does not: enrol again")
	}
	d := h()
	d.Write([]byte(v))
	return d.Sum(nil), nil
}

func (t phoneToken) mac(message []byte) ([]byte, error) {
	h, err := seed.ParseHash(t.Hash)
	if err != nil {
		return nil, fmt.Errorf("phone: %w", err)
	}
	m := hmac.New(h.New(), t.Seed)
	m.Write(message)
	return m.Sum(nil), nil
}
