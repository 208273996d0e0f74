package failover

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP and HOTP as the key service does them
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"sync"
	"testing"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"github.com/stretchr/testify/require"

	"ramzban/keyservice"
	"ramzban/keyservice/seed"
)

// customer has a counter token on a phone.
type customer struct {
	serial string
	secret string // base32
	next   uint64 // the counter of the next password; every lower one was accepted or is known to be used up
}

// phoneKey is made once: RSA key generation is slow, and nothing here depends on a fresh one.
var phoneKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// enrol walks the token of a new customer to active.
func enrol(t *testing.T, n *node, number int) *customer {
	t.Helper()
	ctx := context.Background()
	card := seed.NewSubject(card(number))
	issued, err := n.Issue(ctx, bank, keyservice.IssueRequest{
		Class: keyservice.ClassCard, Subject: card, Channel: keyservice.ChannelApp, Profile: profile, Uses: []string{use}})
	require.NoError(t, err)
	code, err := n.CollectCode(ctx, bank, issued.Activation.ID)
	require.NoError(t, err)
	key, err := phoneKey()
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	activated, err := n.Activate(ctx, bank, keyservice.ActivateRequest{
		Serial: issued.Serial, Subject: card, Code: code.Code, DeviceID: fmt.Sprint("phone-", number), Channel: keyservice.ChannelApp, KeyDER: der})
	require.NoError(t, err)
	secret, err := rsa.DecryptOAEP(sha1.New(), nil, key, activated.Seed, nil)
	require.NoError(t, err)
	fingerprint := sha256.Sum256(der)
	proof := hmac.New(sha1.New, secret)
	proof.Write(keyservice.ConfirmMessage(issued.Serial, fingerprint[:]))
	status, err := n.Confirm(ctx, bank, keyservice.ConfirmRequest{Serial: issued.Serial, Proof: proof.Sum(nil)})
	require.NoError(t, err)
	require.Equal(t, keyservice.Active, status)
	return &customer{serial: issued.Serial, secret: base32.StdEncoding.EncodeToString(secret)}
}

// password is the phone's for one counter (RFC 4226).
func (c *customer) password(counter uint64) (seed.Password, error) {
	code, err := hotp.GenerateCodeCustom(c.secret, counter, hotp.ValidateOpts{Digits: otp.DigitsEight, Algorithm: otp.AlgorithmSHA1})
	return seed.NewPassword(code), err
}

// card makes a valid test card number (ISO/IEC 7812-1, annex B).
func card(number int) string {
	digits, sum := fmt.Sprintf("603799%09d", number), 0
	for i, d := range digits {
		d := int(d - '0')
		if i%2 == 0 {
			d = d*2/10 + d*2%10
		}
		sum += d
	}
	return fmt.Sprintf("%s%d", digits, (10-sum%10)%10)
}
