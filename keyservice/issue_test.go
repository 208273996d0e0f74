package keyservice

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

const mobile = "09121234567"

// optedIn issues an SMS token of a card.
func (w *world) optedIn(subject string, uses ...string) IssuedToken {
	r := w.issueRequest(subject, "sms-120")
	r.Channel, r.Mobile, r.Uses = ChannelSMS, seed.NewMobile(mobile), uses
	issued, err := w.Issue(context.Background(), branch, r)
	require.NoError(w.t, err)
	return issued
}

func TestAnSMSTokenIsActiveAtOnce(t *testing.T) {
	w := newWorld(t)
	issued := w.optedIn(card(1), "second-pin")
	require.Equal(t, Active, issued.Status)
	require.Nil(t, issued.Activation, "there is nothing to activate")
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	require.NotNil(t, tok.Seed)
	require.NotNil(t, tok.Derive)
	require.Nil(t, tok.Delivery)
	err = w.HSM.UseSeed(context.Background(), *tok.Seed, tok.Policy.Hash, func(mac seed.MAC) error {
		_, err := mac([]byte("anything"))
		return err
	})
	require.NoError(t, err, "the seed works")
	_, err = w.Activate(context.Background(), mobileBank, w.newPhone(0).request(card(1), issued, seed.NewCode("12345678")))
	require.Equal(t, CodeTransition, CodeOf(err))
	_, err = w.Confirm(context.Background(), mobileBank, ConfirmRequest{Serial: issued.Serial, Proof: make([]byte, 32)})
	require.Equal(t, CodeTransition, CodeOf(err))
	_, err = w.RenewCode(context.Background(), branch, issued.Serial)
	require.Equal(t, CodeTransition, CodeOf(err))
}

// A card may have one token that makes passwords offline and one for SMS, and no second of either kind.
func TestOneLiveTokenOfEachKind(t *testing.T) {
	w := newWorld(t)
	offline, sms := w.issued(card(1), "offline-60"), w.optedIn(card(1), "second-pin")
	again := w.issueRequest(card(1), "sms-120")
	again.Channel = ChannelSMS
	for _, r := range []IssueRequest{w.issueRequest(card(1), "counter-6"), again} {
		_, err := w.Issue(context.Background(), branch, r)
		require.Equal(t, CodeLiveTokenExists, CodeOf(err), r.Channel)
	}
	_, err := w.Deactivate(context.Background(), branch, sms.Serial)
	require.NoError(t, err)
	require.Equal(t, Issued, w.shown(offline.Serial).Status, "opting out of SMS leaves the other token alone")
	_, err = w.Issue(context.Background(), branch, w.issueRequest(card(1), "counter-6"))
	require.Equal(t, CodeLiveTokenExists, CodeOf(err))
	w.optedIn(card(1), "second-pin")
}

func (w *world) shown(serial string) TokenView {
	v, err := w.Token(context.Background(), branch, serial)
	require.NoError(w.t, err)
	return v
}

// Every use of a new token has its guess budget, shared by the subject's tokens, and so have resynchronising and activating.
func TestBudgetsAreMadeWithTheToken(t *testing.T) {
	w := newWorld(t)
	w.issued(card(1), "offline-60")
	issued := w.optedIn(card(1), "second-pin", "login")
	tok, err := w.load(context.Background(), issued.Serial)
	require.NoError(t, err)
	for _, use := range []string{"second-pin", "login", resyncUse, activationUse} {
		w.row(budgetKey(tok.Subject, use))
	}
	bare := w.optedIn(card(2))
	require.Empty(t, w.shown(bare.Serial).Uses, "uses may be connected later")
	tok, err = w.load(context.Background(), bare.Serial)
	require.NoError(t, err)
	items, err := w.db.Get(context.Background(), budgetKey(tok.Subject, resyncUse), budgetKey(tok.Subject, "second-pin"))
	require.NoError(t, err)
	require.NotZero(t, items[0].Version)
	require.Equal(t, store.Item{Key: items[1].Key}, items[1])
}

func TestNoUseHasASlash(t *testing.T) {
	w := newWorld(t)
	for _, use := range []string{"", "/resync", "a/b"} {
		c := w.Config
		c.Uses = []string{"login", use}
		_, err := New(context.Background(), c)
		require.ErrorContains(t, err, "slash", use)
	}
}

// A channel takes the profiles that its devices can serve, and what has no device is pinned to none.
func TestChannelsAndProfilesFit(t *testing.T) {
	w := newWorld(t)
	fits := map[string][]string{
		ChannelApp: {"offline-60", "counter-6", "pin-60"}, ChannelPWA: {"offline-60", "counter-6", "pin-60"},
		ChannelHardware: {"counter-6"}, ChannelSMS: {"sms-120"},
	}
	n := 0
	for channel, profiles := range fits {
		for _, profile := range []string{"offline-60", "counter-6", "pin-60", "sms-120"} {
			for _, pinned := range []bool{false, true} {
				n++
				r := w.issueRequest(card(n), profile)
				r.Channel = channel
				if pinned {
					r.DeviceKeySHA256 = make([]byte, 32)
				}
				_, err := w.Issue(context.Background(), branch, r)
				allowed := slices.Contains(profiles, profile) && (!pinned || channel != ChannelSMS)
				if allowed {
					require.NoError(t, err, "%s of %s", profile, channel)
				} else {
					require.Equal(t, CodeInvalid, CodeOf(err), "%s of %s", profile, channel)
				}
			}
		}
	}
}

// What is lost on the way to an SMS token leaves nothing behind: no seed, no row.
func TestAnSMSTokenIsMadeWholeOrNotAtAll(t *testing.T) {
	w := newWorld(t)
	r := w.issueRequest(card(1), "sms-120")
	r.Channel = ChannelSMS
	before := w.stored()
	w.store.before = func(store.Change) error { return store.ErrFailed }
	_, err := w.Issue(context.Background(), branch, r)
	require.Equal(t, CodeStorageUnavailable, CodeOf(err))
	require.Equal(t, before, w.stored())
	w.store.before = nil
	_, err = w.Issue(context.Background(), branch, r)
	require.NoError(t, err)
}
