package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ramzban/api/wire"
)

// demoLimit bounds the whole demonstration, the start of the service included.
const demoLimit = 2 * time.Minute

func devDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show a token from enrolment to an accepted password, and the same password refused; then end",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), demoLimit)
			defer cancel()
			return runDemo(ctx, c.OutOrStdout())
		},
	}
}

// demo is the demonstration under way.
type demo struct {
	dev
	narrator
	now func() time.Time

	phone     phone
	issued    wire.IssueAnswer
	code      wire.CodeAnswer
	activated wire.ActivationAnswer
	token     phoneToken
	password  string
	sms       wire.CodeAnswer
}

// runDemo starts the real service in a folder and on ports of its own, walks through it, and ends it. The folder is kept
// if something went wrong: the service's log is in it.
func runDemo(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "ramzban-demo-")
	if err != nil {
		return fmt.Errorf("demonstration: %w", err)
	}
	d := &demo{narrator: narrator{out: out}, now: time.Now, dev: dev{dir: dir}}
	if err := d.run(ctx); err != nil {
		return fmt.Errorf("demonstration, step %d: %w: the service's log is in %s", d.steps, err, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("demonstration: %w: delete %s", err, dir)
	}
	return d.print("\nThat was all: the service has ended, and everything it made is deleted.")
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.api, d.ops, err = freePorts(); err != nil {
		return err
	}
	if err := d.introduce(); err != nil {
		return err
	}
	child, err := startChild(ctx, d.dev, "service", "dev", "run")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.end()) }()
	if err := child.waitReady(ctx); err != nil {
		return err
	}
	if d.phone, err = newPhone(filepath.Join(d.dir, "phone")); err != nil {
		return err
	}
	return d.walk(ctx)
}

func (d *demo) introduce() error {
	return d.print("%s", wrap("Ramzban: a customer's passwords, from the phone and by SMS. The service runs on https://"+d.api+
		" with an HSM in software, a database and certificates made for this moment. Everything secret that is shown is "+
		"throw-away, and the card number is a test number.", ""))
}

// freePorts finds two free loopback addresses.
func freePorts() (api, ops string, err error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	o, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", errors.Join(err, a.Close())
	}
	return a.Addr().String(), o.Addr().String(), errors.Join(a.Close(), o.Close())
}

// call shows a request and its answer. Any other status than the one promised is an error.
func (d *demo) call(ctx context.Context, q question, status int, out any) error {
	key := ""
	if q.key != "" {
		key = "\n   Idempotency-Key: " + q.key
	}
	if err := d.print("   %s → %s %s%s%s", q.as, q.method, q.path, key, show(q.in)); err != nil {
		return err
	}
	if err := d.exchange(ctx, q, status, out); err != nil {
		return err
	}
	mark := ""
	if q.repeated {
		mark = "\n   Idempotency-Replayed: true"
	}
	return d.print("   ← %d %s%s%s", status, http.StatusText(status), mark, show(out))
}
