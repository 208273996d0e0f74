package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

func deviceOTPCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "otp --dir DIR",
		Short: "Make a password, offline",
		Long: "Makes a password, offline. If the token takes a PIN, it is read from " + pinEnv + " or from\n" +
			"standard input. It is kept nowhere, and a wrong one gives a wrong password: only the service can tell.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := openPhone(dir)
			if err != nil {
				return err
			}
			return p.runOTP(c)
		},
	}
	dirFlag(c, &dir)
	return c
}

func (p phone) runOTP(c *cobra.Command) error {
	t, err := p.confirmedToken()
	if err != nil {
		return err
	}
	in, err := t.ask(secretsOf(c))
	if err != nil {
		return err
	}
	if err := showPassword(c.OutOrStdout(), p, time.Now(), in); err != nil || !t.Signs {
		return err
	}
	_, err = fmt.Fprintf(c.ErrOrStderr(), "this password is for resynchronisation only: pay with `ramzban device sign --dir %s`\n", p.dir)
	return err
}

func deviceSignCommand() *cobra.Command {
	var dir, amount, currency string
	c := &cobra.Command{
		Use:   "sign --dir DIR --amount AMOUNT --currency CURRENCY",
		Short: "Make a password for one transaction, offline",
		Long: "Makes a password for one transaction, offline. The payee is read from " + payeeEnv + " or from\n" +
			"standard input, as it may be a card number; then the PIN, if the token takes one, from " + pinEnv + "\n" +
			"or from the next line.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := openPhone(dir)
			if err != nil {
				return err
			}
			return p.runSign(c, otp.Transaction{Amount: amount, Currency: currency})
		},
	}
	dirFlag(c, &dir)
	c.Flags().StringVar(&amount, "amount", "", "`AMOUNT` in the currency's smallest unit")
	c.Flags().StringVar(&currency, "currency", "", "`CURRENCY` in three capital letters (ISO 4217), such as IRR")
	return c
}

func (p phone) runSign(c *cobra.Command, transaction otp.Transaction) error {
	t, err := p.confirmedToken()
	if err != nil {
		return err
	}
	if !t.Signs {
		return fmt.Errorf("phone: its token signs no transactions: make a password with `ramzban device otp --dir %s`", p.dir)
	}
	secrets := secretsOf(c)
	payee, err := secrets.read(payeeEnv, "payee")
	if err != nil {
		return err
	}
	transaction.Payee = seed.NewSubject(payee)
	if err := transaction.Validate(); err != nil {
		return fmt.Errorf("--amount, --currency, payee: %w", err)
	}
	in, err := t.ask(secrets)
	if err != nil {
		return err
	}
	in.transaction = &transaction
	return showPassword(c.OutOrStdout(), p, time.Now(), in)
}

// ask reads what the token needs of the customer for each password.
func (t phoneToken) ask(from secretReader) (typed, error) {
	if t.PINDigits == 0 {
		return typed{}, nil
	}
	pin, err := from.read(pinEnv, "PIN")
	return typed{pin: seed.NewPIN(pin)}, err
}

// confirmedToken returns the token if its passwords mean anything to the service.
func (p phone) confirmedToken() (phoneToken, error) {
	t, err := p.token()
	if err != nil {
		return phoneToken{}, err
	}
	if !t.Confirmed {
		return phoneToken{}, fmt.Errorf("phone: its token is not confirmed yet: run `ramzban device activate --dir %s` again", p.dir)
	}
	return t, nil
}

// showPassword saves a counter before it shows its password: a password shown twice would be refused the second time.
func showPassword(w io.Writer, p phone, now time.Time, in typed) error {
	t, err := p.confirmedToken()
	if err != nil {
		return err
	}
	password, after, err := t.next(now, in)
	if err != nil {
		return err
	}
	if t.counts() {
		if err := p.save(after); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w, password.Reveal())
	return err
}
