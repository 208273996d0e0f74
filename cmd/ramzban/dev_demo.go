package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	out   io.Writer
	wrote error // of out, the first
	steps int
	now   func() time.Time

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
	d := &demo{out: out, now: time.Now, dev: dev{dir: dir}}
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
	child, err := startChild(ctx, d.dev)
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

func (d *demo) title(what, why string) {
	d.steps++
	_ = d.print("\n%d. %s\n%s\n", d.steps, what, wrap(why, "   "))
}

func (d *demo) print(format string, a ...any) error {
	if _, err := fmt.Fprintf(d.out, format+"\n", a...); err != nil && d.wrote == nil {
		d.wrote = fmt.Errorf("showing the demonstration: %w", err)
	}
	return d.wrote
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

// exchange calls the service without showing it.
func (d *demo) exchange(ctx context.Context, q question, status int, out any) error {
	got, err := d.ask(ctx, q)
	if err != nil {
		return err
	}
	if got.replayed != q.repeated {
		return fmt.Errorf("%s %s: is the answer a repeated one? It should be %v", q.method, q.path, q.repeated)
	}
	if got.status != status {
		return fmt.Errorf("%s %s should answer %d but answered %d: %s", q.method, q.path, status, got.status, got.body)
	}
	return json.Unmarshal(got.body, out)
}

// longString is what does not fit 80 columns: keys and wrapped seeds.
var longString = regexp.MustCompile(`"[^" ]{48,}"`)

// show writes JSON in as few lines as it needs below the line that announces it, with long strings cut.
func show(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return " (cannot be shown: " + err.Error() + ")"
	}
	text := longString.ReplaceAllStringFunc(string(b), func(s string) string {
		return fmt.Sprintf("%s…%s(%d%scharacters)\"", s[:25], unbroken, len(s)-2, unbroken)
	})
	text = brackets.ReplaceAllString(text, "$1$2")
	text = wrap(strings.ReplaceAll(text, `": `, `":`+unbroken), "    ")
	return "\n" + strings.ReplaceAll(text[1:], unbroken, " ") // all lines but the first stand behind the bracket
}

// brackets are those of indented JSON, with the line ends inside them.
var brackets = regexp.MustCompile(`([\[{])\n *|\n *([\]}])`)

// unbroken stands for a space at which no line ends: JSON has no such character.
const unbroken = "\x00"

// wrap breaks text into lines of at most 80 columns, each with the indent.
func wrap(text, indent string) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > 80 {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}
