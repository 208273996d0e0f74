package keyservice

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// A customer who was given no serial activates with card number and code alone.
func TestActivationByCardAndCode(t *testing.T) {
	w := newWorld(t)
	w.optedIn(card(1), "second-pin")
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	r := p.request(card(1), issued, w.code(issued))
	r.Serial, r.Class = "", ClassCard
	activated, err := w.Activate(context.Background(), mobileBank, r)
	require.NoError(t, err)
	require.Equal(t, issued.Serial, activated.Serial, "the SMS token is not meant")
	again, err := w.Activate(context.Background(), mobileBank, r)
	require.NoError(t, err)
	require.Equal(t, activated.Seed, again.Seed, "a lost answer is repeated")
	p.receive(activated)
	_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: p.serial, Proof: p.proof()})
	require.NoError(t, err)
	require.True(t, w.try(p, p.password()).Accepted)
}

// A card that has nothing to activate is told apart from a wrong code by neither code nor words, and failing for too many
// cards is noticed.
func TestAnUnknownCardLooksLikeAWrongCode(t *testing.T) {
	w := newWorld(t)
	w.failing.limit = 2
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	attempt := func(subject, code string) error {
		r := p.request(subject, issued, seed.NewCode(code))
		r.Serial, r.Class = "", ClassCard
		_, err := w.Activate(context.Background(), mobileBank, r)
		return err
	}
	right := w.code(issued).Reveal()
	wrong := string('0'+(right[0]-'0'+1)%10) + right[1:]
	known := attempt(card(1), wrong)
	require.Equal(t, CodeActivationWrong, CodeOf(known))
	require.Equal(t, known.Error(), attempt(card(2), wrong).Error())
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	require.Zero(t, tok.state.CodeTries, "the code is not used up by who has no serial")
	require.Equal(t, CodeTooManySubjects, CodeOf(attempt(card(3), wrong)))
	require.Equal(t, CodeSubjectInvalid, CodeOf(attempt("6037991234567890", wrong)))
	require.NoError(t, attempt(card(1), right))
}

// nameless is the request for a card without a serial.
func (p *phone) nameless(subject string, code seed.Code) ActivateRequest {
	r := p.request(subject, IssuedToken{}, code)
	r.Class = ClassCard
	return r
}

// wrongCode is a code that the token does not have.
func wrongCode(right seed.Code) seed.Code {
	c := right.Reveal()
	return seed.NewCode(string('0'+(c[0]-'0'+1)%10) + c[1:])
}

func (w *world) activating(r ActivateRequest) error {
	return second(w.Activate(context.Background(), mobileBank, r))
}

// Strangers who know a card number cannot use up its customer's code. They are slowed down, over a restart too, and the
// customer's way round them is the serial; or waiting, which ends the run of misses.
func TestStrangersDoNotUseUpACustomersCode(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	wrong, right := p.nameless(card(1), wrongCode(code)), p.nameless(card(1), code)
	for range 3 * codeTries {
		require.Equal(t, CodeActivationWrong, CodeOf(w.activating(wrong)))
		w.clock.add(max(w.held(card(1)), 0))
	}
	require.Equal(t, CodeActivationWrong, CodeOf(w.activating(wrong)))
	w.restart()
	err := w.activating(right)
	require.Equal(t, CodeActivationThrottled, CodeOf(err), "the right one is not looked at")
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, w.held(card(1)), e.RetryAfter)
	require.Equal(t, limits.MaxDelay, e.RetryAfter)
	require.NoError(t, w.activating(p.request(card(1), issued, code)), "by serial nothing holds the customer up")

	w.clock.add(e.RetryAfter)
	require.NoError(t, w.activating(right), "the device asks again")
	require.Zero(t, w.activationGuesses(card(1)).Run)
	require.Len(t, w.activationGuesses(card(1)).Days, 1, "and no guess of the window is given back")
	w.requireNothingFound()
}

func (w *world) activationGuesses(subject string) budget {
	p, err := w.HSM.Pseudonym(context.Background(), ClassCard, seed.NewSubject(subject))
	require.NoError(w.t, err)
	b, _, err := w.loadBudget(context.Background(), p, activationUse, false)
	require.NoError(w.t, err)
	return b
}

// held is how long no code of this card is looked at.
func (w *world) held(subject string) time.Duration {
	_, wait := w.activationGuesses(subject).gate(limits, w.clock.Now())
	return wait
}

// digesting counts the codes, real or not, that are made in the HSM.
type digesting struct {
	HSM
	made int
}

func (d *digesting) Digest(ctx context.Context, purpose string, data []byte) (seed.MACed, error) {
	d.made++
	return d.HSM.Digest(ctx, purpose, data)
}

func (d *digesting) DigestWith(ctx context.Context, key seed.KeyRef, purpose string, data []byte) ([]byte, error) {
	d.made++
	return d.HSM.DigestWith(ctx, key, purpose, data)
}

// Without a right code nobody learns anything of a card: whatever it has, and whatever the device is, the answers are those
// of a card that has nothing, in the same order, after the same work.
func TestACardTellsNothingWithoutItsCode(t *testing.T) {
	w := newWorld(t)
	p := w.newPhone(0)
	cards := w.cardsOfEveryKind(p)
	type answer struct {
		err   string
		retry time.Duration
		work  int
	}
	answers := map[string][]answer{}
	for name, c := range cards {
		counted := &digesting{HSM: w.Service.HSM}
		w.Service.HSM = counted
		for _, device := range []*phone{p, w.newPhone(2)} {
			for _, channel := range []string{ChannelApp, ChannelPWA} {
				r := device.nameless(c.subject, c.code)
				r.Channel, counted.made = channel, 0
				err := w.activating(r)
				var e *Error
				require.ErrorAs(t, err, &e, name)
				answers[name] = append(answers[name], answer{err.Error(), e.RetryAfter, counted.made})
			}
		}
		w.Service.HSM = counted.HSM
	}
	for name, got := range answers {
		require.Equal(t, answers["nothing"], got, name)
	}
	require.Equal(t, 1, answers["nothing"][0].work)
	require.Contains(t, answers["nothing"][2].err, CodeActivationWrong)
	require.Contains(t, answers["nothing"][3].err, CodeActivationThrottled, "also the limit comes at the same place")
}

// nameless is a card and a code that does not, or no longer, belong to it.
type nameless struct {
	subject string
	code    seed.Code
}

// cardsOfEveryKind are cards with tokens of every status and channel.
func (w *world) cardsOfEveryKind(p *phone) map[string]nameless {
	expired := nameless{card(40), w.code(w.issued(card(40), "offline-60"))}
	w.clock.add(codeLifetime)
	worn := w.issued(card(41), "offline-60")
	exhausted := nameless{card(41), w.code(worn)}
	for range codeTries {
		require.Equal(w.t, CodeActivationWrong, CodeOf(w.activating(p.request(card(41), worn, wrongCode(exhausted.code)))))
	}
	all := map[string]nameless{
		"nothing": {card(45), seed.NewCode("12345678")}, "opted in only": {card(44), seed.NewCode("12345678")},
		"expired": expired, "exhausted": exhausted,
		"issued": {card(42), wrongCode(w.code(w.issued(card(42), "offline-60")))},
		"pinned": {card(43), wrongCode(w.code(w.pinnedTo(card(43), w.newPhone(1))))},
	}
	w.optedIn(card(44), "second-pin")
	for i, status := range []Status{Pending, Active, Suspended, Deactivated} {
		for channel, n := range map[string]int{ChannelApp: 10, ChannelHardware: 20} {
			c := w.customer(channel, card(n+i))
			c.become(status)
			code := c.typed // it is dead, or no longer kept
			if status == Pending {
				code = wrongCode(code)
			}
			all[string(status)+" "+channel] = nameless{card(n + i), code}
		}
	}
	return all
}

func (w *world) pinnedTo(subject string, p *phone) IssuedToken {
	r := w.issueRequest(subject, "offline-60")
	sum := sha256.Sum256(p.der)
	r.DeviceKeySHA256 = sum[:]
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(w.t, err)
	return issued
}

// Who has the right code is told what else is wrong, and that is no guess.
func TestARightCodeIsToldTheRest(t *testing.T) {
	w := newWorld(t)
	p, other := w.newPhone(0), w.newPhone(1)
	code := w.code(w.pinnedTo(card(1), p))
	require.Equal(t, CodeDeviceKeyNotPinned, CodeOf(w.activating(other.nameless(card(1), code))))
	pwa := p.nameless(card(1), code)
	pwa.Channel = ChannelPWA
	require.Equal(t, CodeChannelOther, CodeOf(w.activating(pwa)))
	require.NoError(t, w.activating(p.nameless(card(1), code)))

	code = w.code(w.issued(card(2), "offline-60"))
	require.NoError(t, w.activating(p.nameless(card(2), code)))
	require.Equal(t, CodeDeviceOther, CodeOf(w.activating(other.nameless(card(2), code))))
	require.Zero(t, w.activationGuesses(card(1)).Sequence+w.activationGuesses(card(2)).Sequence)
}

// A repeat is no second guess; but what was not looked at is looked at when its time has come.
func TestRepeatsOfWrongCodesWithoutASerial(t *testing.T) {
	w := newWorld(t)
	p := w.newPhone(0)
	code := w.code(w.issued(card(1), "offline-60"))
	wrong, right := p.nameless(card(1), wrongCode(code)), p.nameless(card(1), code)
	wrong.IdempotencyKey, right.IdempotencyKey = "wrong", "right"
	for range 2 * codeTries {
		require.Equal(t, CodeActivationWrong, CodeOf(w.activating(wrong)))
	}
	require.Equal(t, 1, w.activationGuesses(card(1)).Run)
	wrong.IdempotencyKey = ""
	for range limits.FreeMisses - 1 {
		require.Equal(t, CodeActivationWrong, CodeOf(w.activating(wrong)))
	}
	require.Equal(t, CodeActivationThrottled, CodeOf(w.activating(right)))
	w.clock.add(w.held(card(1)))
	require.NoError(t, w.activating(right))
	require.NoError(t, w.activating(right), "and its answer is repeated")
}

// Taking guesses back by removing their row, or putting an older one back, is seen.
func TestGuessesAtCodesAreNotTakenBack(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	wrong := p.nameless(card(1), wrongCode(w.code(issued)))
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	key := budgetKey(tok.Subject, activationUse)
	older := w.row(key)
	require.Equal(t, CodeActivationWrong, CodeOf(w.activating(wrong)))
	newest := w.row(key)
	w.attack(nil, key)
	require.Equal(t, CodeTampered, CodeOf(w.activating(wrong)))
	w.attack([]store.Put{older})
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Equal(t, []Discrepancy{{Serial: issued.Serial, What: "guess budget", Logged: 1, Stored: 0}}, found)
	w.attack([]store.Put{newest})
	w.requireNothingFound()
}

func TestAnIssuerFindsACustomersTokens(t *testing.T) {
	w := newWorld(t)
	views := func(subject string) []TokenView {
		v, err := w.SubjectTokens(context.Background(), branch, ClassCard, seed.NewSubject(subject))
		require.NoError(t, err)
		return v
	}
	require.Empty(t, views(card(1)))
	p := w.enrol(card(1), "offline-60")
	sms := w.optedIn(card(1), "second-pin")
	require.Equal(t, []TokenView{w.shown(sms.Serial), w.shown(p.serial)}, views(card(1)))
	require.Empty(t, views(card(2)))
	_, err := w.SubjectTokens(context.Background(), mobileBank, ClassCard, seed.NewSubject(card(1)))
	require.Equal(t, CodeDenied, CodeOf(err))
	found, err := w.CompareAudit(context.Background(), auditor)
	require.NoError(t, err)
	require.Empty(t, found)
}

// The branch lets a customer activate again whom strangers hold up.
func TestAnIssuerUnlocksActivation(t *testing.T) {
	w := newWorld(t)
	issued, p := w.issued(card(1), "offline-60"), w.newPhone(0)
	code := w.code(issued)
	for range limits.FreeMisses {
		require.Equal(t, CodeActivationWrong, CodeOf(w.activating(p.nameless(card(1), wrongCode(code)))))
	}
	require.Equal(t, CodeActivationThrottled, CodeOf(w.activating(p.nameless(card(1), code))))
	require.NoError(t, second(w.Unlock(context.Background(), branch, issued.Serial)))
	require.NoError(t, w.activating(p.nameless(card(1), code)))
}
