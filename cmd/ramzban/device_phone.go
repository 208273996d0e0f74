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

// phoneToken is what the phone keeps of its token, in a file only its owner can read.
type phoneToken struct {
	Serial    string   `json:"serial"`
	Type      otp.Type `json:"type"`
	Hash      string   `json:"hash"`
	Digits    int      `json:"digits"`
	Period    int      `json:"period,omitempty"`  // seconds; totp
	Counter   uint64   `json:"counter,omitempty"` // the next one; hotp
	Confirmed bool     `json:"confirmed"`         // the service knows that this phone has the seed
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
	return phoneToken{Serial: a.Serial, Type: otp.Type(a.OTP.Type), Hash: a.OTP.Hash, Digits: a.OTP.Digits, Period: a.OTP.Period, Seed: s}, nil
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
	digest := sha256.Sum256(publicKey)
	message := append([]byte("ramzban/confirm/1\x00"+t.Serial+"\x00"), digest[:]...)
	return t.mac(message)
}

// next returns the token's next password, and the token as it must be saved before the password is shown.
func (t phoneToken) next(now time.Time) (seed.Password, phoneToken, error) {
	factor := t.Counter
	switch t.Type {
	case otp.HOTP:
		t.Counter++
	case otp.TOTP:
		if t.Period < 1 {
			return seed.Password{}, t, errors.New("phone: its token has no period: enrol again")
		}
		factor = uint64(now.Unix()) / uint64(t.Period)
	default:
		return seed.Password{}, t, fmt.Errorf("phone: tokens of type %q are unknown: use a newer version", t.Type)
	}
	sum, err := t.mac(otp.Message(factor))
	if err != nil {
		return seed.Password{}, t, err
	}
	p, err := otp.Truncate(sum, t.Digits)
	return p, t, err
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
