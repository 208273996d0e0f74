package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice/seed"
)

// activation is what a customer types into the phone, and what the phone adds.
type activation struct {
	serial   string // of some banks' customers; without it, the card or account says which token
	class    string // "card" or "account"; used without a serial only
	subject  seed.Subject
	code     seed.Code
	deviceID string
	channel  string
}

func deviceActivateCommand() *cobra.Command {
	var dir string
	var o client.Options
	var a activation
	c := &cobra.Command{
		Use:   "activate --dir DIR [--serial SERIAL]",
		Short: "Activate a token on this phone, through the mobile-bank backend's certificate",
		Long: "Activates a token on this phone and proves to the service that the phone has its seed. Speaks to the\n" +
			"service as the mobile-bank backend would. The card number and the activation code are read from\n" +
			subjectEnv + " and " + codeEnv + ", or as two lines from standard input (an empty\n" +
			"first line for an account token without a number). A bank that prints no serials leaves --serial out: the\n" +
			"card number and the code are enough then. Run it again if the answer was lost.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := a.check(); err != nil {
				return err
			}
			if err := a.readSecrets(secretsOf(c)); err != nil {
				return err
			}
			return runActivate(c.Context(), c.OutOrStdout(), dir, o, a)
		},
	}
	dirFlag(c, &dir)
	clientFlags(c, &o, "mobile-bank")
	f := c.Flags()
	f.StringVar(&a.serial, "serial", "", "the token's `SERIAL`, from the customer's receipt, if there is one")
	f.StringVar(&a.class, "class", "card", "without a serial: what the token is for, `CLASS` card or account")
	f.StringVar(&a.deviceID, "device-id", "reference-phone", "the bank's name for the device, `ID`")
	f.StringVar(&a.channel, "channel", "app", "app or pwa, `CHANNEL`")
	return c
}

// check finds what is mistyped before anything is asked.
func (a activation) check() error {
	if err := checkSerial(a.serial); a.serial != "" && err != nil {
		return fmt.Errorf("--serial: %w", err)
	}
	if a.class != "card" && a.class != "account" {
		return fmt.Errorf("--class must be card or account, not %q", a.class)
	}
	if a.channel != "app" && a.channel != "pwa" {
		return fmt.Errorf("--channel must be app or pwa, not %q", a.channel)
	}
	return nil
}

// clientFlags asks where the service is and who calls; the defaults are those of `ramzban dev run`.
func clientFlags(c *cobra.Command, o *client.Options, name string) {
	serviceFlags(c, o)
	f := c.Flags()
	f.StringVar(&o.CertFile, "cert", "var/dev/pki/"+name+".crt", "`FILE` with the caller's certificate")
	f.StringVar(&o.KeyFile, "key", "var/dev/pki/"+name+".key", "`FILE` with its private key")
}

// serviceFlags asks where the service is.
func serviceFlags(c *cobra.Command, o *client.Options) {
	f := c.Flags()
	f.StringVar(&o.BaseURL, "url", "https://127.0.0.1:8443", "the service's `URL`")
	f.StringVar(&o.CAFile, "ca", "var/dev/pki/ca.crt", "`FILE` with the CA of the service's certificate")
}

// readSecrets reads what must not stand in a command line.
func (a *activation) readSecrets(from secretReader) error {
	subject, err := from.read(subjectEnv, "card number or account")
	if err != nil {
		return err
	}
	code, err := from.read(codeEnv, "activation code")
	if err != nil {
		return err
	}
	a.subject, a.code = seed.NewSubject(subject), seed.NewCode(code)
	return nil
}

func runActivate(ctx context.Context, w io.Writer, dir string, o client.Options, a activation) error {
	p, err := openPhone(dir)
	if err != nil {
		return err
	}
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	t, err := p.activate(ctx, api, a)
	if err != nil {
		return err
	}
	return t.explain(w, dir)
}

// explain tells what the token makes and how.
func (t phoneToken) explain(w io.Writer, dir string) error {
	made := fmt.Sprintf("%s, %s", t.Type, t.Hash)
	if t.Suite != "" {
		made = t.Suite
	}
	if t.PINDigits > 0 {
		made += fmt.Sprintf(", with a PIN of %d digits", t.PINDigits)
	}
	command := "otp --dir " + dir
	if t.Signs {
		command = "sign --dir " + dir + " --amount AMOUNT --currency CURRENCY"
	}
	_, err := fmt.Fprintf(w, "token %s is active on this phone (%s): make a password with\n  ramzban device %s\n", t.Serial, made, command)
	return err
}

// activate asks for the seed, keeps it, and proves that it has it. A phone whose answer was lost may do all of it again.
func (p phone) activate(ctx context.Context, api *client.Client, a activation) (phoneToken, error) {
	if t, err := p.token(); err == nil && t.Confirmed {
		return phoneToken{}, fmt.Errorf("phone: it holds the token %s already: use another folder for another token", t.Serial)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return phoneToken{}, err
	}
	der, err := p.publicKey()
	if err != nil {
		return phoneToken{}, err
	}
	answer, err := a.send(ctx, api, der)
	if err != nil {
		return phoneToken{}, fmt.Errorf("activation: %w", explainCall(err))
	}
	t, err := p.unwrap(answer)
	if err != nil {
		return phoneToken{}, err
	}
	return p.confirm(ctx, api, t, der)
}

// send asks for the seed, by the serial if the customer has one.
func (a activation) send(ctx context.Context, api *client.Client, publicKey []byte) (wire.ActivationAnswer, error) {
	device := &wire.Device{ID: a.deviceID, Channel: a.channel, PublicKey: publicKey}
	if a.serial == "" {
		return api.ActivateSubject(ctx, wire.SubjectActivationRequest{
			Class: a.class, Subject: a.subject.Reveal(), ActivationCode: a.code.Reveal(), Device: device})
	}
	return api.Activate(ctx, a.serial, wire.ActivationRequest{
		Subject: a.subject.Reveal(), ActivationCode: a.code.Reveal(), Device: device})
}

func (p phone) confirm(ctx context.Context, api *client.Client, t phoneToken, publicKey []byte) (phoneToken, error) {
	if err := p.save(t); err != nil {
		return phoneToken{}, err
	}
	proof, err := t.proof(publicKey)
	if err != nil {
		return phoneToken{}, err
	}
	if _, err := api.Confirm(ctx, t.Serial, wire.ConfirmationRequest{Proof: proof}); err != nil {
		return phoneToken{}, fmt.Errorf("confirmation: %w: run `ramzban device activate --dir %s` again", explainCall(err), p.dir)
	}
	t.Confirmed = true
	return t, p.save(t)
}
