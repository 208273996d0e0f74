package keyservice

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/keyservice/seed"
)

// customer is one card with one token, walked to a status, and everything that an operation on it may need.
type customer struct {
	w       *world
	subject string
	serial  string
	code    string // id of a code that was asked for
	typed   seed.Code
	phone   *phone // of the channel app
	fob     string // of the channel hardware: its seed …
	maker   []byte // … and that as its maker wrapped it
}

// The ways of making customers, by channel. Each starts a token as Issue leaves it.
func (w *world) customer(channel, subject string) *customer {
	c := &customer{w: w, subject: subject, phone: w.newPhone(0)}
	issued := IssuedToken{}
	switch channel {
	case ChannelApp:
		issued = w.pinned(subject)
	case ChannelHardware:
		c.fob = "fob " + subject
		issued, c.maker = w.issuedHardware(subject), w.wrapped(c.fob)
	case ChannelSMS:
		issued = w.optedIn(subject, "second-pin")
		made, err := w.challenged(coreBanking, subject, nil)
		require.NoError(w.t, err)
		c.code = made.ID
	}
	c.serial = issued.Serial
	if channel != ChannelSMS {
		c.code = issued.Activation.ID
	}
	collected, err := w.CollectCode(context.Background(), smsGateway, c.code)
	require.NoError(w.t, err)
	c.typed = collected.Code
	return c
}

// become walks the customer's token on to a status.
func (c *customer) become(status Status) {
	walk := map[Status][]func(*customer) string{
		Issued: nil, Pending: {activate}, Active: {activate, confirm}, Suspended: {activate, confirm, suspend}, Deactivated: {activate, confirm, deactivate},
	}[status]
	if c.phoneless() {
		walk = walk[min(2, len(walk)):]
	}
	for _, step := range walk {
		require.Equal(c.w.t, "ok", step(c))
	}
}

// phoneless says that there was never anything to activate.
func (c *customer) phoneless() bool {
	return c.maker == nil && c.w.shown(c.serial).Channel == ChannelSMS
}

// The operations: each says how it was answered, "ok" or the code or reason of the refusal.
func answered(err error) string {
	if err == nil {
		return "ok"
	}
	return string(CodeOf(err))
}

func judged(accepted bool, why Reason, err error) string {
	if err != nil || accepted {
		return answered(err)
	}
	return string(why)
}

func activate(c *customer) string {
	r := ActivateRequest{Serial: c.serial, Subject: seed.NewSubject(c.subject), Code: c.typed, MakerSeed: c.maker}
	if c.maker == nil {
		r = c.phone.request(c.subject, IssuedToken{Serial: c.serial}, c.typed)
	}
	activated, err := c.w.Activate(context.Background(), mobileBank, r)
	if err == nil && c.maker == nil {
		c.phone.receive(activated)
		c.phone.pin = pin
	}
	return answered(err)
}

func confirm(c *customer) string {
	r := ConfirmRequest{Serial: c.serial, OTP: c.press(0)}
	if c.maker == nil {
		r = ConfirmRequest{Serial: c.serial, Proof: make([]byte, 20)}
		if c.phone.seed != nil {
			r.Proof = c.phone.proof()
		}
	}
	return answered(second(c.w.Confirm(context.Background(), mobileBank, r)))
}

func suspend(c *customer) string {
	return answered(second(c.w.Suspend(context.Background(), branch, c.serial)))
}

func deactivate(c *customer) string {
	return answered(second(c.w.Deactivate(context.Background(), branch, c.serial)))
}

// press is the password of the customer's hardware token after n others.
func (c *customer) press(n uint64) seed.Password { return seed.NewPassword(pressed(c.w.t, c.fob, n)) }

func remove(c *customer) string {
	proof := make([]byte, 20)
	if c.phone.seed != nil {
		proof = c.phone.removal()
	}
	return answered(c.w.remove(c.serial, proof))
}

// now is the customer's right password of now, if the token can make any.
func (c *customer) now() seed.Password {
	switch {
	case c.maker != nil:
		return c.press(1)
	case c.phone.seed != nil:
		return c.phone.at(c.phone.factor())
	}
	return seed.NewPassword((c.typed.Reveal() + "000000")[:6])
}

// pair is two consecutive passwords.
func (c *customer) pair() (seed.Password, seed.Password) {
	if c.phone.seed != nil {
		return c.phone.at(c.phone.factor()), c.phone.at(c.phone.factor() + 1)
	}
	return c.press(4), c.press(5)
}

var operations = map[string]func(*customer) string{
	"activate":   activate,
	"confirm":    confirm,
	"suspend":    suspend,
	"deactivate": deactivate,
	"remove":     remove,
	"renew": func(c *customer) string {
		return answered(second(c.w.RenewCode(context.Background(), branch, c.serial)))
	},
	"collect": func(c *customer) string {
		return answered(second(c.w.CollectCode(context.Background(), smsGateway, c.code)))
	},
	"resume":    func(c *customer) string { return answered(second(c.w.Resume(context.Background(), branch, c.serial))) },
	"uses":      func(c *customer) string { return answered(c.w.connect(c.serial, "login")) },
	"pin":       func(c *customer) string { return answered(c.w.setPIN(c.serial, "31415926")) },
	"mobile":    func(c *customer) string { return answered(second(c.w.setMobile(c.serial, newMobile))) },
	"unlock":    func(c *customer) string { return answered(second(c.w.Unlock(context.Background(), branch, c.serial))) },
	"view":      func(c *customer) string { return answered(second(c.w.Token(context.Background(), branch, c.serial))) },
	"challenge": func(c *customer) string { return answered(second(c.w.challenged(coreBanking, c.subject, nil))) },
	"end all": func(c *customer) string {
		return answered(second(c.w.DeactivateSubject(context.Background(), branch, ClassCard, seed.NewSubject(c.subject))))
	},
	"issue": func(c *customer) string {
		r := c.w.issueRequest(c.subject, "offline-60")
		if c.phoneless() {
			r.Channel, r.Profile = ChannelSMS, "sms-120"
		}
		return answered(second(c.w.Issue(context.Background(), branch, r)))
	},
	"resync": func(c *customer) string {
		first, then := c.pair()
		v, err := c.w.Resync(context.Background(), mobileBank, ResyncRequest{Serial: c.serial, First: first, Second: then})
		return judged(v.Accepted, v.Reason, err)
	},
	"verify": func(c *customer) string {
		v, err := c.w.Verify(context.Background(), coreBanking, VerifyRequest{Serial: c.serial, Use: "second-pin", OTP: c.now()})
		return judged(v.Accepted, v.Reason, err)
	},
	"by subject": func(c *customer) string {
		v, err := c.w.Verify(context.Background(), coreBanking, bySubject(c.subject, c.now()))
		return judged(v.Accepted, v.Reason, err)
	},
}

const (
	no    = string(CodeTransition)
	gone  = string(CodeCodeNotFound)
	wrong = string(CodeInvalid) // never for a token of this kind
	idle  = string(ReasonNotActive)
	miss  = string(ReasonMismatch) // by subject, an idle token looks like a wrong password
	out   = string(CodeNotOptedIn)
	taken = string(CodeLiveTokenExists)
)

// answers is how each operation is answered, in the order of the statuses of the channel.
var answers = map[string]struct {
	statuses []Status
	of       map[string][]string
}{
	ChannelApp: {[]Status{Issued, Pending, Active, Suspended, Deactivated}, map[string][]string{
		"renew":      {"ok", no, no, no, no},
		"collect":    {"ok", gone, gone, gone, gone},
		"activate":   {"ok", "ok", no, no, no}, // pending: the same device, again
		"confirm":    {no, "ok", "ok", no, no}, // active: the same device, again
		"suspend":    {no, no, "ok", no, no},
		"resume":     {no, no, no, "ok", no},
		"deactivate": {"ok", "ok", "ok", "ok", no},
		"remove":     {no, "ok", "ok", "ok", no},
		"mobile":     {"ok", "ok", "ok", "ok", no},
		"uses":       {"ok", "ok", "ok", "ok", no},
		"pin":        {"ok", "ok", "ok", "ok", no},
		"unlock":     {"ok", "ok", "ok", "ok", no},
		"resync":     {idle, idle, "ok", idle, idle},
		"verify":     {idle, idle, "ok", idle, idle},
		"by subject": {miss, miss, "ok", miss, miss},
		"challenge":  {out, out, out, out, out},
		"issue":      {taken, taken, taken, taken, "ok"},
		"view":       {"ok", "ok", "ok", "ok", "ok"},
		"end all":    {"ok", "ok", "ok", "ok", "ok"},
	}},
	ChannelHardware: {[]Status{Issued, Pending, Active, Suspended, Deactivated}, map[string][]string{
		"renew":      {"ok", no, no, no, no},
		"collect":    {"ok", gone, gone, gone, gone},
		"activate":   {"ok", "ok", no, no, no},
		"confirm":    {no, "ok", "ok", no, no},
		"suspend":    {no, no, "ok", no, no},
		"resume":     {no, no, no, "ok", no},
		"deactivate": {"ok", "ok", "ok", "ok", no},
		"remove":     {wrong, wrong, wrong, wrong, wrong},
		"mobile":     {"ok", "ok", "ok", "ok", no},
		"uses":       {"ok", "ok", "ok", "ok", no},
		"pin":        {wrong, wrong, wrong, wrong, no},
		"unlock":     {"ok", "ok", "ok", "ok", no},
		"resync":     {idle, idle, "ok", idle, idle},
		"verify":     {idle, idle, "ok", idle, idle},
		"by subject": {miss, miss, "ok", miss, miss},
		"challenge":  {out, out, out, out, out},
		"issue":      {taken, taken, taken, taken, "ok"},
		"view":       {"ok", "ok", "ok", "ok", "ok"},
		"end all":    {"ok", "ok", "ok", "ok", "ok"},
	}},
	ChannelSMS: {[]Status{Active, Suspended, Deactivated}, map[string][]string{
		"renew":      {no, no, no},
		"collect":    {"ok", gone, gone},
		"activate":   {no, no, no},
		"confirm":    {no, no, no},
		"suspend":    {"ok", no, no},
		"resume":     {no, "ok", no},
		"deactivate": {"ok", "ok", no},
		"remove":     {wrong, wrong, wrong},
		"mobile":     {"ok", "ok", no},
		"uses":       {"ok", "ok", no},
		"pin":        {wrong, wrong, no},
		"unlock":     {"ok", "ok", no},
		"resync":     {wrong, wrong, wrong},
		"verify":     {"ok", idle, idle},
		"by subject": {"ok", miss, miss},
		"challenge":  {"ok", out, out},
		"issue":      {taken, taken, "ok"},
		"view":       {"ok", "ok", "ok"},
		"end all":    {"ok", "ok", "ok"},
	}},
}

// Every operation on a token of every channel in every status: what the tables do not allow is refused with its reason,
// and leaves the status as it was.
func TestEveryOperationInEveryStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := 0
	for channel, table := range answers {
		require.Len(t, table.of, len(operations), "no operation is left out")
		for name, want := range table.of {
			for i, status := range table.statuses {
				n++
				c := w.customer(channel, card(n))
				c.become(status)
				require.Equal(t, status, w.shown(c.serial).Status)
				require.Equal(t, want[i], operations[name](c), "%s of a token of channel %s that is %s", name, channel, status)
				if want[i] != "ok" {
					require.Equal(t, status, w.shown(c.serial).Status, "%s of a token of channel %s", name, channel)
				}
			}
		}
	}
}

// The passwords that were asked for die with the token, and with its code rows; a new token knows nothing of them.
func TestPendingSMSPasswordsDieWithTheToken(t *testing.T) {
	w := newWorld(t)
	c := w.customer(ChannelSMS, card(1))
	w.row(codeKey(c.code))
	require.Equal(t, "ok", suspend(c))
	require.Equal(t, gone, operations["collect"](c))
	require.Equal(t, miss, operations["by subject"](c))
	require.Equal(t, "ok", operations["resume"](c))
	require.Equal(t, "ok", operations["collect"](c), "a short suspension voids nothing")

	require.Equal(t, "ok", deactivate(c))
	items, err := w.db.Get(context.Background(), codeKey(c.code))
	require.NoError(t, err)
	require.Zero(t, items[0].Version)
	tok, err := w.load(context.Background(), c.serial)
	require.NoError(t, err)
	require.Empty(t, tok.state.Challenges)
	require.Nil(t, tok.Seed)
	w.optedIn(card(1), "second-pin")
	require.Equal(t, gone, operations["collect"](c))
	require.Equal(t, miss, operations["by subject"](c))
}
