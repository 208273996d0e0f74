package keyservice

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP as makers do it
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

// The maker knows the seed of RFC 4226 appendix D, whose device makes these passwords.
const makerSeed = "12345678901234567890"

var appendixD = []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"}

// wrapped is a seed as its maker wraps it, in software, to the service's import key.
func (w *world) wrapped(plain string) []byte {
	der, err := w.ImportKey(context.Background(), mobileBank)
	require.NoError(w.t, err)
	key, err := x509.ParsePKIXPublicKey(der)
	require.NoError(w.t, err)
	made, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key.(*rsa.PublicKey), []byte(plain), nil)
	require.NoError(w.t, err)
	return made
}

func (w *world) issuedHardware(subject string) IssuedToken {
	r := w.issueRequest(subject, "counter-6")
	r.Channel = ChannelHardware
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(w.t, err)
	return issued
}

func (w *world) handOver(subject string, issued IssuedToken, maker []byte) (ActivatedToken, error) {
	return w.Activate(context.Background(), mobileBank, ActivateRequest{
		Serial: issued.Serial, Subject: seed.NewSubject(subject), Code: w.code(issued), MakerSeed: maker,
	})
}

func (w *world) confirmOTP(serial, typed string) error {
	_, err := w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: serial, OTP: seed.NewPassword(typed)})
	return err
}

func (w *world) typed(serial, typed string) Verdict {
	v, err := w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: serial, Use: "second-pin", OTP: seed.NewPassword(typed)})
	require.NoError(w.t, err)
	return v
}

// A hardware token from issue to its tenth password: what its maker printed in RFC 4226 is what is accepted.
func TestAHardwareTokensPasswordsAreRFC4226s(t *testing.T) {
	w := newWorld(t)
	issued := w.issuedHardware(card(1))
	require.Equal(t, Issued, issued.Status)
	activated, err := w.handOver(card(1), issued, w.wrapped(makerSeed))
	require.NoError(t, err)
	require.Equal(t, Pending, activated.Status)
	require.Nil(t, activated.Seed, "the device has it")
	require.Equal(t, ReasonNotActive, w.typed(issued.Serial, appendixD[0]).Reason)

	require.NoError(t, w.confirmOTP(issued.Serial, appendixD[2]), "its button was pressed before")
	w.restart()
	require.Equal(t, Active, w.shown(issued.Serial).Status)
	for _, used := range appendixD[:3] {
		require.False(t, w.typed(issued.Serial, used).Accepted, "%s is used up", used)
		require.NoError(t, w.unlocked(card(1)))
	}
	for _, next := range appendixD[3:] {
		require.True(t, w.typed(issued.Serial, next).Accepted, next)
	}
}

// An answer that was lost is given again: to the same maker's seed, and to the password that confirmed.
func TestAHardwareTokensLostAnswersAreRepeated(t *testing.T) {
	w := newWorld(t)
	issued, maker := w.issuedHardware(card(1)), w.wrapped(makerSeed)
	code := w.code(issued)
	request := ActivateRequest{Serial: issued.Serial, Subject: seed.NewSubject(card(1)), Code: code, MakerSeed: maker}
	for range 2 {
		_, err := w.Activate(context.Background(), mobileBank, request)
		require.NoError(t, err)
	}
	request.MakerSeed = w.wrapped(makerSeed)
	_, err := w.Activate(context.Background(), mobileBank, request)
	require.Equal(t, CodeDeviceOther, CodeOf(err))

	for range 2 {
		require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]))
	}
	require.Equal(t, CodeTransition, CodeOf(w.confirmOTP(issued.Serial, appendixD[1])), "it is confirmed once")
	require.Equal(t, ReasonAlreadyUsed, w.typed(issued.Serial, appendixD[0]).Reason)
	require.True(t, w.typed(issued.Serial, appendixD[1]).Accepted)
}

// Guessing the password that confirms is bounded, also over a restart.
func TestWrongPasswordsDoNotConfirm(t *testing.T) {
	w := newWorld(t)
	issued := w.issuedHardware(card(1))
	_, err := w.handOver(card(1), issued, w.wrapped(makerSeed))
	require.NoError(t, err)
	for range codeTries {
		require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(issued.Serial, "000000")))
		w.restart()
	}
	made := w.hsm.made()
	err = w.confirmOTP(issued.Serial, appendixD[0])
	require.Equal(t, CodeActivationExhausted, CodeOf(err))
	require.ErrorContains(t, err, "issue a new one", "it says what helps")
	require.Equal(t, made, w.hsm.made(), "the right one is not looked at any more")
	_, err = w.Deactivate(context.Background(), branch, issued.Serial)
	require.NoError(t, err)
	w.issuedHardware(card(1))
}

// Nor is looking for the password that confirmed free of charge once it has: after five wrong ones none is looked at.
func TestWrongPasswordsOfAConfirmedTokenAreCounted(t *testing.T) {
	w := newWorld(t)
	issued := w.issuedHardware(card(1))
	_, err := w.handOver(card(1), issued, w.wrapped(makerSeed))
	require.NoError(t, err)
	require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]))
	var wrong error
	for range codeTries {
		require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]), "it is repeated between them")
		wrong = w.confirmOTP(issued.Serial, appendixD[1])
		require.Equal(t, CodeTransition, CodeOf(wrong))
		w.restart()
	}
	made := w.hsm.made()
	last := w.confirmOTP(issued.Serial, appendixD[0])
	require.EqualError(t, last, wrong.Error())
	require.Equal(t, made, w.hsm.made(), "it is not looked at any more")
	require.True(t, w.typed(issued.Serial, appendixD[1]).Accepted, "the customer is not held up")
}

// What the customer got wrong before the device was there takes nothing from the tries of its password.
func TestConfirmingHasTriesOfItsOwn(t *testing.T) {
	w := newWorld(t)
	issued, maker := w.issuedHardware(card(1)), w.wrapped(makerSeed)
	for range codeTries - 1 {
		_, err := w.handOver(card(2), issued, maker)
		require.Equal(t, CodeActivationWrong, CodeOf(err))
	}
	_, err := w.handOver(card(1), issued, maker)
	require.NoError(t, err)
	require.Equal(t, CodeProofWrong, CodeOf(w.confirmOTP(issued.Serial, "000000")))
	require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]))
}

// A seed that the HSM cannot take is the caller's mistake and no outage, and the right one may follow.
func TestABadMakerSeedIsRefused(t *testing.T) {
	w := newWorld(t)
	issued := w.issuedHardware(card(1))
	other, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &phoneKeys()[0].PublicKey, []byte(makerSeed), nil)
	require.NoError(t, err)
	flipped := w.wrapped(makerSeed)
	flipped[100] ^= 1
	for name, bad := range map[string][]byte{
		"garbage": []byte("seed"), "to another key": other, "damaged": flipped, "too short": w.wrapped(makerSeed[:8]),
	} {
		_, err := w.handOver(card(1), issued, bad)
		require.Equal(t, CodeSeedInvalid, CodeOf(err), name)
		require.Equal(t, Issued, w.shown(issued.Serial).Status)
	}
	_, err = w.handOver(card(1), issued, w.wrapped(makerSeed))
	require.NoError(t, err)
}

// A branch that knows the device says at issue which delivery of a maker it is: no other is taken.
func TestHardwareIsPinnedToItsMakersBlob(t *testing.T) {
	w := newWorld(t)
	pinned := w.wrapped(makerSeed)
	sum := sha256.Sum256(pinned)
	r := w.issueRequest(card(1), "counter-6")
	r.Channel, r.DeviceKeySHA256 = ChannelHardware, sum[:]
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(t, err)
	for name, other := range map[string][]byte{"another seed": w.wrapped("09876543210987654321"), "wrapped anew": w.wrapped(makerSeed)} {
		_, err = w.handOver(card(1), issued, other)
		require.Equal(t, CodeDeviceKeyNotPinned, CodeOf(err), name)
	}
	_, err = w.handOver(card(1), issued, pinned)
	require.NoError(t, err)
	require.NoError(t, w.confirmOTP(issued.Serial, appendixD[0]))
}

// Phones and hardware tokens prove themselves each in its own way, and are named each in its own way.
func TestHardwareAndPhonesAreNotTakenForEachOther(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	hardware, phone := w.issuedHardware(card(1)), w.newPhone(0)
	maker, code := w.wrapped(makerSeed), w.code(hardware)
	both := phone.request(card(1), hardware, code)
	both.MakerSeed = maker
	neither := ActivateRequest{Serial: hardware.Serial, Subject: seed.NewSubject(card(1)), Code: code}
	for name, r := range map[string]ActivateRequest{"both": both, "neither": neither} {
		_, err := w.Activate(ctx, mobileBank, r)
		require.Equal(t, CodeInvalid, CodeOf(err), name)
	}
	_, err := w.Activate(ctx, mobileBank, phone.request(card(1), hardware, code))
	require.Equal(t, CodeChannelOther, CodeOf(err))
	onPhone := w.issued(card(2), "counter-6")
	_, err = w.handOver(card(2), onPhone, maker)
	require.Equal(t, CodeChannelOther, CodeOf(err))

	_, err = w.handOver(card(1), hardware, maker)
	require.NoError(t, err)
	activated, err := w.Activate(ctx, mobileBank, phone.request(card(2), onPhone, w.code(onPhone)))
	require.NoError(t, err)
	phone.receive(activated)
	proof, typed := phone.proof(), seed.NewPassword(appendixD[0])
	for name, r := range map[string]struct {
		ConfirmRequest
		code Code
	}{
		"a proof of hardware":   {ConfirmRequest{hardware.Serial, proof, seed.Password{}}, CodeInvalid},
		"both of hardware":      {ConfirmRequest{hardware.Serial, proof, typed}, CodeInvalid},
		"nothing of hardware":   {ConfirmRequest{Serial: hardware.Serial}, CodeInvalid},
		"a password of a phone": {ConfirmRequest{onPhone.Serial, nil, phone.at(0)}, CodeInvalid},
		"both of a phone":       {ConfirmRequest{onPhone.Serial, proof, phone.at(0)}, CodeInvalid},
		"nothing of a phone":    {ConfirmRequest{Serial: onPhone.Serial}, CodeInvalid},
		"five digits":           {ConfirmRequest{hardware.Serial, nil, seed.NewPassword("75522")}, CodeOTPMalformed},
		"letters":               {ConfirmRequest{hardware.Serial, nil, seed.NewPassword("75522x")}, CodeOTPMalformed},
	} {
		_, err := w.Confirm(ctx, mobileBank, r.ConfirmRequest)
		require.Equal(t, r.code, CodeOf(err), name)
	}
	require.NoError(t, w.confirmOTP(hardware.Serial, appendixD[0]), "none of these was a try")
}

// The import key is shown to who activates, and that is logged.
func TestTheImportKeyIsShownAndLogged(t *testing.T) {
	w := newWorld(t)
	before := len(w.entries())
	_, err := w.ImportKey(context.Background(), mobileBank)
	require.NoError(t, err)
	_, err = w.ImportKey(context.Background(), coreBanking)
	require.Equal(t, CodeDenied, CodeOf(err))
	log := w.entries()
	require.Equal(t, []string{"import-key.read done", "import-key.read denied"}, []string{
		log[before].Action + " " + string(log[before].Outcome), log[before+1].Action + " " + string(log[before+1].Outcome),
	})
}

// This seed makes the same password for the counters 0 and 4: what was used is not accepted again, as the look-ahead
// would have it, and does not count as a guess.
func TestAUsedPasswordIsNotTakenForALaterOneThatIsEqual(t *testing.T) {
	w := newWorld(t)
	issued := w.issuedHardware(card(1))
	_, err := w.handOver(card(1), issued, w.wrapped("00000000000000427139"))
	require.NoError(t, err)
	require.NoError(t, w.confirmOTP(issued.Serial, "789159"))
	for range 5 {
		require.Equal(t, ReasonAlreadyUsed, w.typed(issued.Serial, "789159").Reason)
	}
}
