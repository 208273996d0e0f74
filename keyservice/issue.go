package keyservice

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"ramzban/keyservice/authz"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
	"ramzban/keyservice/store"
)

// The classes of tokens.
const (
	ClassCard    = "card"    // bound to a card number, which activation must repeat
	ClassAccount = "account" // bound to an account id
)

// The channels a token may live in.
const (
	ChannelApp      = "app"      // a phone's app …
	ChannelPWA      = "pwa"      // … or its web app, never both
	ChannelHardware = "hardware" // a device of its own, whose maker knows the seed
	ChannelSMS      = "sms"      // the customer's mobile number: no device, the server makes each password
)

// channelTypes says which profiles fit a channel.
var channelTypes = map[string][]otp.Type{
	ChannelApp:      {otp.TOTP, otp.HOTP, otp.OCRA},
	ChannelPWA:      {otp.TOTP, otp.HOTP, otp.OCRA},
	ChannelHardware: {otp.HOTP},
	ChannelSMS:      {otp.SMS},
}

// The kinds of passwords.
const (
	KindOffline = "offline" // made by the customer's device
	KindSMS     = "sms"     // made for one challenge and sent
)

// IssueRequest asks for a token.
type IssueRequest struct {
	IdempotencyKey  string       // optional: a repeat with the same key gets the first answer
	Class           string       // "card" or "account"
	Subject         seed.Subject // card number (16–19 digits, Luhn) or account id (1–64 of A-Z a-z 0-9 . _ -)
	Channel         string       // "app", "pwa", "hardware" or "sms": where it may live
	Mobile          seed.Mobile  // optional: where the courier sends codes, 10 to 15 digits with or without a leading +
	Profile         string       // name of a configured profile
	Uses            []string     // what its passwords are good for, e.g. "second-pin"; may be connected later
	DeviceKeySHA256 []byte       // optional: SHA-256 of the only SubjectPublicKeyInfo (DER) it may be activated for; of hardware, of its wrapped seed
}

// IssuedToken answers Issue and RenewCode.
type IssuedToken struct {
	Serial     string
	Status     Status
	Activation *Activation // nil if there is nothing to activate: SMS tokens are active at once
	Repeated   bool        // this is the answer to an earlier request with the same idempotency key
}

// Issue makes a token without a seed: a serial, and an activation code that waits to be collected. An SMS token gets its
// seed at once and is active: there is no device to wait for. A subject has at most one live token per class and kind.
func (s *Service) Issue(ctx context.Context, c authz.Caller, r IssueRequest) (IssuedToken, error) {
	if err := s.authorise(ctx, c, authz.IssueToken, ""); err != nil {
		return IssuedToken{}, err
	}
	if err := s.checkIssue(r); err != nil {
		return IssuedToken{}, err
	}
	issued, done, err := decideOnce(ctx, s, c, authz.IssueToken, "", r.once(), func() (issuedRow, decision, error) {
		t, d, err := s.issue(ctx, r)
		return t.issuedRow(), d, err
	})
	if err != nil {
		return IssuedToken{}, err
	}
	return issued.answer(done.repeated), nil
}

// issue decides once: it refuses if a live token exists, else makes every row of a new one.
func (s *Service) issue(ctx context.Context, r IssueRequest) (token, decision, error) {
	who, err := s.see(ctx, r.Class, r.Subject)
	if err != nil {
		return token{}, decision{}, err
	}
	live := liveKey(r.Class, kindOf(r.Channel), who.subject)
	items, err := s.Store.Get(ctx, live)
	if err != nil {
		return token{}, decision{}, storeError(err)
	}
	if items[0].Version != 0 {
		if _, err := unmac[pointer](s, items[0], "live token"); err != nil {
			return token{}, decision{}, err
		}
		return token{}, refuse(CodeLiveTokenExists, "this subject has a live token of this class and kind: deactivate it first"), nil
	}
	t, err := s.newToken(ctx, r, who.subject)
	if err != nil {
		return token{}, decision{}, err
	}
	d, err := s.firstRows(ctx, t, live)
	for _, older := range who.older { // nor is there one under an older pseudonym
		d.change.Require = append(d.change.Require, store.Require{Key: liveKey(r.Class, kindOf(r.Channel), older)})
	}
	return t, d, err
}

// newToken draws everything random about a token and fills in its record.
func (s *Service) newToken(ctx context.Context, r IssueRequest, pseudonym seed.MACed) (token, error) {
	digits, err := s.HSM.RandomDigits(ctx, serialLength-1)
	if err != nil {
		return token{}, err
	}
	salt, err := s.HSM.Random(ctx, 16)
	if err != nil {
		return token{}, err
	}
	p := s.Profiles[r.Profile]
	t := token{record: record{
		Serial: makeSerial(digits), Class: r.Class, Channel: r.Channel, Uses: append([]string{}, r.Uses...), Status: Issued, Subject: pseudonym,
		Salt: salt, Profile: r.Profile, Policy: p.Policy, Guess: p.Guess, KeyPin: r.DeviceKeySHA256, CreatedAt: s.Clock().UnixMilli(),
	}}
	if t.LastFour, err = s.HSM.Encrypt(ctx, lastFourAAD(t.Serial), []byte(tail(r.Subject))); err != nil {
		return token{}, err
	}
	if err := s.keepMobile(ctx, &t.record, r.Mobile); err != nil {
		return token{}, err
	}
	if t.kind() == KindSMS {
		return s.openSMS(ctx, t)
	}
	t.Code, err = s.newCode(ctx, t.record)
	return t, err
}

// openSMS gives an SMS token its seed, which no device ever gets, and makes it active.
func (s *Service) openSMS(ctx context.Context, t token) (token, error) {
	born, err := s.newSeed(ctx, t.record, nil)
	if err != nil {
		return token{}, err
	}
	t.Status, t.Derive, t.Seed = Active, &born.Derive, &born.ForStore
	return t, nil
}

// firstRows makes the decision that writes a new token: record, state, code if it has one, the subject's live row, and
// the guess budgets it does not have yet. A serial or code id that is taken is a conflict, and everything is drawn anew.
func (s *Service) firstRows(ctx context.Context, t token, live store.Key) (decision, error) {
	pointers := []store.Key{live}
	if t.Code != nil {
		pointers = append(pointers, codeKey(t.Code.ID))
	}
	t.require = []store.Require{{Key: recordKey(t.Serial)}, {Key: stateRowKey(t.Serial)}}
	d, err := s.save(ctx, t)
	if err != nil {
		return decision{}, err
	}
	d.entry.Serial = t.Serial
	for _, key := range pointers {
		if err := s.addPointer(key, t.Serial, &d); err != nil {
			return decision{}, err
		}
	}
	return d, s.addBudgets(ctx, t, append([]string{resyncUse, activationUse}, t.Uses...), &d)
}

// addPointer adds a new row that names the token.
func (s *Service) addPointer(key store.Key, serial string, d *decision) error {
	row, err := s.mac(key, pointer{Schema: schema, Serial: serial})
	if err != nil {
		return err
	}
	d.change.Require = append(d.change.Require, store.Require{Key: key})
	d.change.Put = append(d.change.Put, row)
	return nil
}

// addBudgets gives the token's subject a guess budget for each of these uses it has none for. A budget is made with the
// token's use, never with the first guess, so that deleting one is seen.
func (s *Service) addBudgets(ctx context.Context, t token, uses []string, d *decision) error {
	keys := make([]store.Key, len(uses))
	for i, use := range uses {
		keys[i] = budgetKey(t.Subject, use)
	}
	items, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return storeError(err)
	}
	for _, it := range items {
		if it.Version != 0 {
			continue
		}
		row, err := s.mac(it.Key, budget{Schema: schema})
		if err != nil {
			return err
		}
		d.change.Require = append(d.change.Require, store.Require{Key: it.Key})
		d.change.Put = append(d.change.Put, row)
	}
	return nil
}

// commitment is what audit entries show of a subject: a digest that nobody can search without the token's salt.
func (r record) commitment() []byte {
	if r.Subject.Sum == nil {
		return nil
	}
	sum := sha256.Sum256(slices.Concat([]byte("ramzban/subject-commitment/1\x00"), r.Salt, r.Subject.Sum))
	return sum[:]
}

// tail is the last four characters of a subject, and of short account ids at most half.
func tail(s seed.Subject) string {
	v := s.Reveal()
	return v[len(v)-min(4, len(v)/2):]
}

// checkIssue returns an *Error that says what is wrong with the request.
func (s *Service) checkIssue(r IssueRequest) error {
	p, known := s.Profiles[r.Profile]
	types, channel := channelTypes[r.Channel]
	switch {
	case !channel:
		return &Error{Code: CodeInvalid, Detail: `channel must be "app", "pwa", "hardware" or "sms"`}
	case !known:
		return &Error{Code: CodeProfileUnknown, Detail: "no profile of this name is configured"}
	case !slices.Contains(types, p.Policy.Type):
		return &Error{Code: CodeInvalid, Detail: fmt.Sprintf("channel %s takes profiles of type %s, and this one is %s", r.Channel, oneOf(types), p.Policy.Type)}
	case len(r.DeviceKeySHA256) != 0 && r.Channel == ChannelSMS:
		return &Error{Code: CodeInvalid, Detail: "device_key_sha256 is not for the channel sms: there is no device"}
	case len(r.DeviceKeySHA256) != 0 && len(r.DeviceKeySHA256) != sha256.Size:
		return &Error{Code: CodeInvalid, Detail: "device_key_sha256 must be 32 bytes"}
	}
	if err := checkMobile(r.Mobile); err != nil {
		return err
	}
	if bad := s.checkUses(r.Uses); bad != nil {
		return bad
	}
	return checkSubject(r.Class, r.Subject)
}

// oneOf lists alternatives as a sentence does.
func oneOf[S ~string](all []S) string {
	list := ""
	for i, s := range all {
		switch {
		case i == 0:
		case i == len(all)-1:
			list += " or "
		default:
			list += ", "
		}
		list += string(s)
	}
	return list
}
