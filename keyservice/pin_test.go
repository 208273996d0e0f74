package keyservice

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // the suite's hash of the PIN
	"crypto/sha512"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/audit"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

const pin = "27182818"

func (w *world) setPIN(serial, pin string) error {
	_, err := w.SetPIN(context.Background(), branch, serial, seed.NewPIN(pin))
	return err
}

// pinned issues a token whose passwords take a PIN, and sets it.
func (w *world) pinned(subject string) IssuedToken {
	issued := w.issued(subject, "pin-60")
	require.NoError(w.t, w.setPIN(issued.Serial, pin))
	return issued
}

func (w *world) digest(serial string) ([]byte, error) {
	t, err := w.load(context.Background(), serial)
	require.NoError(w.t, err)
	return w.pinDigest(context.Background(), t)
}

func TestThePINIsKeptAsTheDigestTheSuiteWants(t *testing.T) {
	w := newWorld(t)
	issued := w.issued(card(1), "pin-60")
	_, err := w.digest(issued.Serial)
	require.Equal(t, CodePINMissing, CodeOf(err))
	status, err := w.SetPIN(context.Background(), branch, issued.Serial, seed.NewPIN(pin))
	require.NoError(t, err)
	require.Equal(t, Issued, status)
	w.restart()
	digest, err := w.digest(issued.Serial)
	require.NoError(t, err)
	want := sha1.Sum([]byte(pin))
	require.Equal(t, want[:], digest)

	require.NoError(t, w.setPIN(issued.Serial, "00000000"), "a forgotten PIN is set anew")
	digest, err = w.digest(issued.Serial)
	require.NoError(t, err)
	want = sha1.Sum([]byte("00000000"))
	require.Equal(t, want[:], digest)

	long := w.issued(card(2), "pin-512")
	require.NoError(t, w.setPIN(long.Serial, "1234"))
	digest, err = w.digest(long.Serial)
	require.NoError(t, err)
	want512 := sha512.Sum512([]byte("1234"))
	require.Equal(t, want512[:], digest)

	none := w.issued(card(3), "offline-60")
	digest, err = w.digest(none.Serial)
	require.NoError(t, err)
	require.Nil(t, digest)
}

func TestWhatCannotBeAPINIsRefused(t *testing.T) {
	w := newWorld(t)
	issued := w.issued(card(1), "pin-60")
	for _, bad := range []string{"", "2718281", "271828182", "2718281x", "۲۷۱۸۲۸۱۸", "２７１８", " 2718281", "2718281\n"} {
		require.Equal(t, CodeInvalid, CodeOf(w.setPIN(issued.Serial, bad)), "%q", bad)
	}
	_, err := w.digest(issued.Serial)
	require.Equal(t, CodePINMissing, CodeOf(err))
	plain := w.issued(card(2), "offline-60")
	require.Equal(t, CodeInvalid, CodeOf(w.setPIN(plain.Serial, pin)), "its passwords take none")
}

// hidden is what no row may hold in clear: the secrets of a customer whose PIN is pin and whose number is mobile.
func hidden() [][]byte {
	short, long := sha1.Sum([]byte(pin)), sha512.Sum512([]byte(pin))
	return [][]byte{[]byte(pin), short[:], long[:], []byte(mobile), []byte(mobile[1:]), []byte(card(1)), []byte(mobile[4:])}
}

// rows calls fn with every stored row, the log's too.
func (w *world) rows(fn func(store.Item)) {
	snap, err := w.db.Snapshot(context.Background())
	require.NoError(w.t, err)
	defer snap.Close()
	require.NoError(w.t, snap.Scan(context.Background(), "", "", func(it store.Item) error {
		fn(it)
		return nil
	}))
}

// Neither PIN nor digest nor mobile number nor card number stands in any stored byte.
func TestNothingOfTheCustomerIsStoredInClear(t *testing.T) {
	w := newWorld(t)
	r := w.issueRequest(card(1), "pin-60")
	r.Mobile = seed.NewMobile(mobile)
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(t, err)
	w.optedIn(card(1), "second-pin")
	require.NoError(t, w.setPIN(issued.Serial, pin))
	collected, err := w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
	require.NoError(t, err)
	seen, found := 0, map[string]bool{}
	w.rows(func(it store.Item) {
		seen++
		for _, secret := range append(hidden(), []byte(collected.Code.Reveal())) {
			require.False(t, bytes.Contains(it.Value, secret) || bytes.Contains([]byte(it.Key), secret), "row %.20q", it.Key)
		}
		found["serial"] = found["serial"] || bytes.Contains(it.Value, []byte(issued.Serial))
	})
	require.Greater(t, seen, 10)
	require.True(t, found["serial"], "what is not secret is found this way")
}

// A PIN or mobile number of one token cannot be moved to another, even under a right seal.
func TestEncryptedFieldsBelongToTheirToken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	mine, theirs := w.pinned(card(1)), w.pinned(card(2))
	a, err := w.load(ctx, mine.Serial)
	require.NoError(t, err)
	b, err := w.load(ctx, theirs.Serial)
	require.NoError(t, err)
	moved := a
	moved.PIN = b.PIN
	_, err = w.pinDigest(ctx, moved)
	require.ErrorIs(t, err, seed.ErrBadBlob)
	require.NoError(t, w.keepMobile(ctx, &a.record, seed.NewMobile(mobile)))
	b.Mobile = a.Mobile
	_, err = w.mobile(ctx, b.record)
	require.ErrorIs(t, err, seed.ErrBadBlob)
	moved.PIN = &moved.LastFour
	_, err = w.pinDigest(ctx, moved)
	require.ErrorIs(t, err, seed.ErrBadBlob, "nor can one field pass for another")
}

// In the database, without the HSM, the exchange is seen at once: the seal is over the fields too.
func TestExchangedPINsAndNumbersAreSeen(t *testing.T) {
	w := newWorld(t)
	mine, theirs := w.optedIn(card(1), "second-pin").Serial, w.optedIn(card(2), "second-pin").Serial
	first, second := w.pinned(card(3)).Serial, w.pinned(card(4)).Serial
	w.exchange(mine, theirs, func(a, b *record) { a.Mobile, b.Mobile = b.Mobile, a.Mobile })
	w.exchange(first, second, func(a, b *record) { a.PIN, b.PIN = b.PIN, a.PIN })
	for _, serial := range []string{mine, theirs, first, second} {
		_, err := w.Token(context.Background(), branch, serial)
		require.Equal(t, CodeTampered, CodeOf(err))
		log := w.entries()
		require.Equal(t, audit.Tampered, log[len(log)-2].Outcome)
		require.Equal(t, serial, log[len(log)-2].Serial)
	}
}

func TestTheMobileNumberIsMaskedAndGoesToTheCourierWhole(t *testing.T) {
	w := newWorld(t)
	for given, shown := range map[string]string{
		mobile: "0912***4567", "+989121234567": "+9891***4567", "9121234567": "9121***4567", "": "",
	} {
		r := w.issueRequest(card(1), "offline-60")
		r.Mobile = seed.NewMobile(given)
		issued, err := w.Issue(context.Background(), branch, r)
		require.NoError(t, err)
		require.Equal(t, shown, w.shown(issued.Serial).Mobile)
		code, err := w.CollectCode(context.Background(), smsGateway, issued.Activation.ID)
		require.NoError(t, err)
		require.Equal(t, given, code.Mobile.Reveal())
		require.Equal(t, "activation", code.Kind)
		_, err = w.Deactivate(context.Background(), branch, issued.Serial)
		require.NoError(t, err)
		require.Empty(t, w.shown(issued.Serial).Mobile, "with the token the number is forgotten")
	}
	for _, bad := range []string{"091212345", "0912123456789012", "0912 123 4567", "00++9121234567", "+", "۰۹۱۲۱۲۳۴۵۶۷", mobile + "\n"} {
		r := w.issueRequest(card(1), "offline-60")
		r.Mobile = seed.NewMobile(bad)
		_, err := w.Issue(context.Background(), branch, r)
		require.Equal(t, CodeInvalid, CodeOf(err), "%q", bad)
	}
}

// recordingHSM is the real HSM; it keeps, not copies, every buffer of the service's that held a PIN's digest in clear.
type recordingHSM struct {
	HSM
	digests, messages [][]byte
}

func (r *recordingHSM) Encrypt(ctx context.Context, aad, plaintext []byte) (seed.Encrypted, error) {
	if bytes.HasSuffix(aad, pinAAD("")) {
		r.digests = append(r.digests, plaintext)
	}
	return r.HSM.Encrypt(ctx, aad, plaintext)
}

func (r *recordingHSM) Decrypt(ctx context.Context, aad []byte, e seed.Encrypted) ([]byte, error) {
	plain, err := r.HSM.Decrypt(ctx, aad, e)
	if bytes.HasSuffix(aad, pinAAD("")) {
		r.digests = append(r.digests, plain)
	}
	return plain, err
}

func (r *recordingHSM) UseSeed(ctx context.Context, w seed.Wrapped, h seed.Hash, fn func(seed.MAC) error) error {
	return r.HSM.UseSeed(ctx, w, h, func(mac seed.MAC) error {
		return fn(func(message []byte) ([]byte, error) {
			r.messages = append(r.messages, message[:cap(message)])
			return mac(message)
		})
	})
}

// Whatever becomes of the password, each buffer that held the digest, alone or in a message, is wiped.
func TestTheServiceWipesItsDigestsOfPINs(t *testing.T) {
	w := newWorld(t)
	p := w.enrol(card(1), "pin-60")
	recorded := &recordingHSM{HSM: w.Service.HSM}
	w.Service.HSM = recorded
	wiped := func(what string, digests int) {
		require.Len(t, recorded.digests, digests, what)
		for _, b := range append(recorded.digests, recorded.messages...) {
			require.NotEmpty(t, b, what)
			require.Zero(t, bytes.Trim(b, "\x00"), what)
		}
		recorded.digests, recorded.messages = nil, nil
	}
	p.pin = pin
	require.NoError(t, w.setPIN(p.serial, pin))
	wiped("set", 1)
	require.True(t, w.try(p, p.password()).Accepted)
	require.NotEmpty(t, recorded.messages)
	wiped("accepted", 1)
	require.False(t, w.try(p, p.wrong()).Accepted)
	require.Greater(t, len(recorded.messages), 1)
	wiped("refused", 1)
	require.True(t, w.resync(p, p.at(p.factor()+2), p.at(p.factor()+3)).Accepted)
	require.NotEmpty(t, recorded.messages)
	wiped("resynchronised", 1)
	w.store.before = func(store.Change) error { return errors.New("the disk is full") }
	require.Error(t, w.setPIN(p.serial, pin))
	wiped("not set", 1)
}
