package keyservice

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/seed"
)

func TestAnUnconfirmedTokenAcceptsNothing(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	p.serial = issued.Serial
	require.Equal(t, ReasonNotActive, w.try(p, seed.NewPassword("123456")).Reason)
	activated, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, w.code(issued)))
	require.NoError(t, err)
	require.Equal(t, Pending, activated.Status)
	p.receive(activated)
	require.Equal(t, ReasonNotActive, w.try(p, p.password()).Reason)
	_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: p.serial, Proof: make([]byte, 20)})
	require.Equal(t, CodeProofWrong, CodeOf(err))
	for range 2 {
		_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
		require.NoError(t, err, "a device that did not hear the answer may confirm again")
	}
	require.True(t, w.try(p, p.password()).Accepted, "and confirming used up no password")
}

func TestALostAnswerOfActivationIsRepeatedToTheSameDeviceOnly(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	first, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.NoError(t, err)
	w.restart()
	again, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.NoError(t, err)
	require.Equal(t, first.Seed, again.Seed)

	_, err = w.Activate(context.Background(), mobileBank, w.newPhone(1).request(card(1), issued, code))
	require.Equal(t, CodeDeviceOther, CodeOf(err))
	sameName := w.newPhone(1)
	sameName.id = p.id
	_, err = w.Activate(context.Background(), mobileBank, sameName.request(card(1), issued, code))
	require.Equal(t, CodeDeviceOther, CodeOf(err), "the key counts, not only the name")
	_, err = w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeCodeNotFound, CodeOf(err), "and the code is collected no more")
}

func TestActivationNeedsCodeAndSubjectAndChannel(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	wrongCode := seed.NewCode("00000000")
	if code.Reveal() == wrongCode.Reveal() {
		wrongCode = seed.NewCode("00000001")
	}
	_, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, wrongCode))
	require.Equal(t, CodeActivationWrong, CodeOf(err))
	otherSubject := err.Error()
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(2), issued, code))
	require.Equal(t, CodeActivationWrong, CodeOf(err))
	require.Equal(t, otherSubject, err.Error(), "the answer does not tell which was wrong")
	_, err = w.Activate(context.Background(), mobileBank, p.request("", issued, code))
	require.Equal(t, CodeActivationWrong, CodeOf(err), "a card's number must be repeated")
	pwa := p.request(card(1), issued, code)
	pwa.Channel = ChannelPWA
	_, err = w.Activate(context.Background(), mobileBank, pwa)
	require.Equal(t, CodeChannelOther, CodeOf(err))
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.NoError(t, err)
}

func TestAnAccountNeedsNoSubjectButARightOne(t *testing.T) {
	w := newWorld(t)
	for i, given := range []string{"", "IR-0001", "IR-0002"} {
		r := w.issueRequest("IR-0001", "offline-60")
		r.Class = ClassAccount
		issued, err := w.Issue(context.Background(), branch, r)
		require.NoError(t, err)
		_, err = w.Activate(context.Background(), mobileBank, w.newPhone(0).request(given, issued, w.code(issued)))
		require.Equal(t, i == 2, CodeOf(err) == CodeActivationWrong, "%q: %v", given, err)
		_, err = w.Deactivate(context.Background(), branch, issued.Serial)
		require.NoError(t, err)
	}
}

func TestFiveWrongCodesExhaustAndAFreshOneHelps(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	for i := range codeTries {
		_, err := w.Activate(context.Background(), mobileBank, p.request(card(2+i), issued, code))
		require.Equal(t, CodeActivationWrong, CodeOf(err))
	}
	w.restart()
	_, err := w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.Equal(t, CodeActivationExhausted, CodeOf(err), "the right code comes too late, also after a restart")
	_, err = w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeActivationExhausted, CodeOf(err))

	fresh, err := w.RenewCode(context.Background(), branch, issued.Serial)
	require.NoError(t, err)
	_, err = w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeCodeNotFound, CodeOf(err), "the old code is dead")
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), fresh, code))
	require.Equal(t, CodeActivationWrong, CodeOf(err))
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), fresh, w.code(fresh)))
	require.NoError(t, err)
}

func TestACodeLives24Hours(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	require.Equal(t, w.clock.Now().Add(24*time.Hour), issued.Activation.ExpiresAt)
	w.clock.add(24*time.Hour - time.Millisecond)
	require.Equal(t, code.Reveal(), w.code(issued).Reveal(), "the same code, as often as it is collected")
	w.clock.add(time.Millisecond)
	_, err := w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.Equal(t, CodeActivationExpired, CodeOf(err))
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.Equal(t, CodeActivationExpired, CodeOf(err))
}

func TestOnlyAStrongRSAKeyGetsASeed(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	small, even := phoneKeys()[0].PublicKey, phoneKeys()[0].PublicKey
	small.E, even.E = 3, 65538
	smooth := rsa.PublicKey{N: new(big.Int).Exp(big.NewInt(9973), big.NewInt(160), nil), E: 65537}
	prime, err := rand.Prime(rand.Reader, 2048)
	require.NoError(t, err)
	spki := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		require.NoError(t, err)
		return der
	}
	bad := map[string][]byte{
		"none": nil, "garbage": []byte("key"), "1024 bits": spki(&weak.PublicKey), "elliptic": spki(&curve.PublicKey),
		"exponent 3": spki(&small), "even exponent": spki(&even), "small factors": spki(&smooth),
		"one prime": spki(&rsa.PublicKey{N: prime, E: 65537}), "trailing bytes": append(spki(&phoneKeys()[0].PublicKey), 0),
	}
	for name, der := range bad {
		r := p.request(card(1), issued, code)
		r.KeyDER = der
		_, err := w.Activate(context.Background(), mobileBank, r)
		require.Equal(t, CodeDeviceKeyInvalid, CodeOf(err), name)
	}
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, code))
	require.NoError(t, err, "and no try was used up")
}

func TestAPinnedKeyIsTheOnlyOne(t *testing.T) {
	w := newWorld(t)
	p, thief := w.newPhone(0), w.newPhone(1)
	pin := sha256.Sum256(p.der)
	r := w.issueRequest(card(1), "offline-60")
	r.DeviceKeySHA256 = pin[:]
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(t, err)
	_, err = w.Activate(context.Background(), mobileBank, thief.request(card(1), issued, w.code(issued)))
	require.Equal(t, CodeDeviceKeyNotPinned, CodeOf(err))
	_, err = w.Activate(context.Background(), mobileBank, p.request(card(1), issued, w.code(issued)))
	require.NoError(t, err)
}

func TestASubjectHasOneLiveToken(t *testing.T) {
	w := newWorld(t)
	issued := w.issued(card(1), "offline-60")
	_, err := w.Issue(context.Background(), branch, w.issueRequest(card(1), "counter-6"))
	require.Equal(t, CodeLiveTokenExists, CodeOf(err))
	_, err = w.Deactivate(context.Background(), branch, issued.Serial)
	require.NoError(t, err)
	w.issued(card(1), "offline-60")
}

func TestTwoIssuesForOneCardAtOnceOneWins(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		var mu sync.Mutex
		codes := map[Code]int{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				_, err := w.Issue(context.Background(), branch, w.issueRequest(card(i), "offline-60"))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					codes["won"]++
				} else {
					codes[CodeOf(err)]++
				}
			})
		}
		all.Wait()
		require.Equal(t, map[Code]int{"won": 1, CodeLiveTokenExists: 7}, codes)
	}
}

func TestBadIssuesAreRefusedAndNameWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	bad := map[string]struct {
		spoil func(*IssueRequest)
		code  Code
	}{
		"class":             {func(r *IssueRequest) { r.Class = "gateway" }, CodeInvalid},
		"channel":           {func(r *IssueRequest) { r.Channel = "both" }, CodeInvalid},
		"profile":           {func(r *IssueRequest) { r.Profile = "offline-61" }, CodeProfileUnknown},
		"unknown use":       {func(r *IssueRequest) { r.Uses = []string{"pin"} }, CodeInvalid},
		"a use twice":       {func(r *IssueRequest) { r.Uses = []string{"login", "login"} }, CodeInvalid},
		"short pin":         {func(r *IssueRequest) { r.DeviceKeySHA256 = []byte("short") }, CodeInvalid},
		"Luhn":              {func(r *IssueRequest) { r.Subject = seed.NewSubject("6037991234567890") }, CodeSubjectInvalid},
		"short card":        {func(r *IssueRequest) { r.Subject = seed.NewSubject("79927398713") }, CodeSubjectInvalid},
		"letters in a card": {func(r *IssueRequest) { r.Subject = seed.NewSubject("603799123456789x") }, CodeSubjectInvalid},
		"empty account":     {func(r *IssueRequest) { r.Class, r.Subject = ClassAccount, seed.NewSubject("") }, CodeSubjectInvalid},
		"account with a /":  {func(r *IssueRequest) { r.Class, r.Subject = ClassAccount, seed.NewSubject("a/b") }, CodeSubjectInvalid},
	}
	before := len(w.entries())
	for name, b := range bad {
		r := w.issueRequest(card(1), "offline-60")
		b.spoil(&r)
		_, err := w.Issue(context.Background(), branch, r)
		require.Equal(t, b.code, CodeOf(err), name)
	}
	require.Len(t, w.entries(), before+1, "nothing was decided: only the reading of the log is new")
	w.issued(card(1), "offline-60")
}

func TestASuspendedTokenAcceptsNothingUntilResumed(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "offline-60")
	_, err := w.Suspend(context.Background(), branch, p.serial)
	require.NoError(t, err)
	require.Equal(t, ReasonNotActive, w.try(p, p.password()).Reason)
	_, err = w.Resume(context.Background(), branch, p.serial)
	require.NoError(t, err)
	typed := p.password()
	require.True(t, w.try(p, typed).Accepted)
	_, err = w.Suspend(context.Background(), branch, p.serial)
	require.NoError(t, err)
	_, err = w.Resume(context.Background(), branch, p.serial)
	require.NoError(t, err)
	require.Equal(t, ReasonAlreadyUsed, w.try(p, typed).Reason, "the watermark outlives it")
}

func TestUnknownSerialsAreRefusedEverywhere(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for serial, code := range map[string]Code{"402519938461": CodeTokenNotFound, "402519938462": CodeSerialInvalid, "6037991234567893": CodeSerialInvalid} {
		if code == CodeTokenNotFound {
			serial = makeSerial(serial[:11])
		}
		for name, err := range map[string]error{
			"view":     second(w.Token(ctx, branch, serial)),
			"verify":   second(w.Verify(ctx, coreBanking, VerifyRequest{Serial: serial, Use: "login", OTP: seed.NewPassword("123456")})),
			"activate": second(w.Activate(ctx, mobileBank, ActivateRequest{Serial: serial})),
			"confirm":  second(w.Confirm(ctx, mobileBank, ConfirmRequest{Serial: serial})),
			"remove":   second(w.Remove(ctx, mobileBank, RemoveRequest{Serial: serial})),
			"mobile":   second(w.setMobile(serial, newMobile)),
			"suspend":  second(w.Suspend(ctx, branch, serial)),
			"renew":    second(w.RenewCode(ctx, branch, serial)),
		} {
			require.Equal(t, code, CodeOf(err), "%s %s", name, serial)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestTheIssuerSeesTheLastFourDigitsOnly(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(7), "offline-60")
	view, err := w.Token(context.Background(), branch, p.serial)
	require.NoError(t, err)
	require.Equal(t, card(7)[12:], view.LastFour)
	require.Equal(t, Active, view.Status)
	for _, c := range []authz.Caller{mobileBank, smsGateway, coreBanking, auditor, {}} {
		_, err := w.Token(context.Background(), c, p.serial)
		require.Equal(t, CodeDenied, CodeOf(err), c.Name)
	}
	require.Empty(t, tail(seed.NewSubject("1")), "of a short account id, half is hidden")
	require.Equal(t, "c", tail(seed.NewSubject("abc")))
}
