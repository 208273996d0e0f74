package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
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

// A card that has nothing to activate is told apart from a wrong code by neither code nor words, and wrong codes count.
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
	require.Equal(t, 1, tok.state.CodeTries)
	require.Equal(t, CodeTooManySubjects, CodeOf(attempt(card(3), wrong)))
	require.Equal(t, CodeSubjectInvalid, CodeOf(attempt("6037991234567890", wrong)))
	require.NoError(t, attempt(card(1), right))
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
