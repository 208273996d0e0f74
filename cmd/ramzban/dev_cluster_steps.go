package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// clusterRounds is how many passwords are sent to both nodes.
const clusterRounds = 5

func (d *clusterDemo) walk(ctx context.Context) error {
	if err := d.introduce(); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.enrol, d.race, d.killOne, d.carryOn, d.audit} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *clusterDemo) introduce() error {
	return d.print("%s", wrap(fmt.Sprintf("Ramzban on two nodes: %s on https://%s and %s on https://%s, two services that share one PostgreSQL, "+
		"made for this moment with an HSM in software and certificates. Everything secret that is shown is throw-away, and the card "+
		"number is a test number.", d.nodes[0].name, d.nodes[0].api, d.nodes[1].name, d.nodes[1].api), ""))
}

func (d *clusterDemo) enrol(ctx context.Context) error {
	d.title("A card's token is enrolled, each call on another node than the one before",
		"No node keeps anything that another needs: any balancer will do. `make demo` shows what travels.")
	issued, err := callNode(d, 0, "branch", "POST /v1/tokens", func(c *client.Client) (wire.IssueAnswer, error) {
		return c.Issue(ctx, wire.IssueRequest{Class: "card", Subject: demoCard, Channel: "app", Profile: "counter-6", Uses: []string{demoUse}})
	})
	if err != nil {
		return err
	}
	code, err := callNode(d, 1, "sms-gateway", "POST /v1/codes/…/collection", func(c *client.Client) (wire.CodeAnswer, error) {
		return c.CollectCode(ctx, issued.Activation.ID)
	})
	if err != nil {
		return err
	}
	key, err := d.phone.publicKey()
	if err != nil {
		return err
	}
	activated, err := callNode(d, 0, "mobile-bank", "POST /v1/tokens/…/activation", func(c *client.Client) (wire.ActivationAnswer, error) {
		return c.Activate(ctx, issued.Serial, wire.ActivationRequest{
			Subject: demoCard, ActivationCode: code.Code, Device: &wire.Device{ID: demoDevice, Channel: "app", PublicKey: key}})
	})
	if err != nil {
		return err
	}
	return d.confirm(ctx, key, activated)
}

func (d *clusterDemo) confirm(ctx context.Context, key []byte, activated wire.ActivationAnswer) (err error) {
	if d.token, err = d.phone.unwrap(activated); err != nil {
		return err
	}
	proof, err := d.token.proof(key)
	if err != nil {
		return err
	}
	status, err := callNode(d, 1, "mobile-bank", "POST /v1/tokens/…/confirmation", func(c *client.Client) (wire.StatusAnswer, error) {
		return c.Confirm(ctx, d.token.Serial, wire.ConfirmationRequest{Proof: proof})
	})
	if err != nil {
		return err
	}
	return errors.Join(d.print("\n   token %s is %s", d.token.Serial, status.Status), expect("status", "active", status.Status))
}

// callNode calls a node as the bearer of one of the certificates, and shows that.
func callNode[T any](d *clusterDemo, node int, as, what string, call func(*client.Client) (T, error)) (T, error) {
	var none T
	n := d.nodes[node]
	c, err := n.as(as)
	if err != nil {
		return none, err
	}
	answer, err := call(c)
	if err != nil {
		return none, fmt.Errorf("%s on node %s: %w", what, n.name, err)
	}
	return answer, d.print("   %-12s → %-8s %s", as, n.name, what)
}

// nextPassword is the phone's; it counts on.
func (d *clusterDemo) nextPassword() (string, error) {
	password, after, err := d.token.next(time.Now(), typed{})
	d.token = after
	return password.Reveal(), err
}

// verify asks a node about a password and returns its verdict in words.
func (n *clusterNode) verify(ctx context.Context, serial, password string) (string, error) {
	c, err := n.as("core-banking")
	if err != nil {
		return "", err
	}
	a, err := c.Verify(ctx, wire.VerificationRequest{Serial: serial, Use: demoUse, OTP: password})
	if err != nil {
		return "", fmt.Errorf("verifying on node %s: %w", n.name, err)
	}
	if a.Reason != "" {
		return a.Result + ": " + a.Reason, nil
	}
	return a.Result, nil
}

// verdicts sends a password to all nodes at the same moment.
func (d *clusterDemo) verdicts(ctx context.Context, password string) ([]string, error) {
	said, errs := make([]string, len(d.nodes)), make([]error, len(d.nodes))
	start := make(chan struct{})
	var calls sync.WaitGroup
	for i, n := range d.nodes {
		calls.Go(func() {
			<-start
			said[i], errs[i] = n.verify(ctx, d.token.Serial, password)
		})
	}
	close(start)
	calls.Wait()
	return said, errors.Join(errs...)
}

func (d *clusterDemo) race(ctx context.Context) error {
	d.title("The same password is sent to both nodes at the same moment",
		"Each password of the phone once to each node: whichever decides first accepts it, the other one finds it used.")
	if err := d.print("   %-10s %-24s %s", "password", d.nodes[0].name, d.nodes[1].name); err != nil {
		return err
	}
	for range clusterRounds {
		password, err := d.nextPassword()
		if err != nil {
			return err
		}
		said, err := d.verdicts(ctx, password)
		if err != nil {
			return err
		}
		if err := d.print("   %-10s %-24s %s", password, said[0], said[1]); err != nil {
			return err
		}
		slices.Sort(said)
		if err := expect("verdicts", "accepted, refused: already_used", strings.Join(said, ", ")); err != nil {
			return err
		}
		d.used = password
	}
	return nil
}

func (d *clusterDemo) killOne(ctx context.Context) error {
	killed, left := d.nodes[0], d.nodes[1]
	d.title(fmt.Sprintf("Node %s is killed", killed.name), "As a power cut would, with kill -9. Of what it decided nothing is lost.")
	if err := d.print("   kill -9 %d", killed.process.cmd.Process.Pid); err != nil {
		return err
	}
	if err := killed.process.kill(); err != nil {
		return err
	}
	killed.process = nil
	if _, err := killed.verify(ctx, d.token.Serial, d.used); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("node %s was killed, and answers: %w", killed.name, err)
	}
	if err := d.print("   core-banking → %s: connection refused", killed.name); err != nil {
		return err
	}
	return d.expectVerdict(ctx, left, d.used, "refused: already_used")
}

func (d *clusterDemo) expectVerdict(ctx context.Context, n *clusterNode, password, want string) error {
	said, err := n.verify(ctx, d.token.Serial, password)
	if err != nil {
		return err
	}
	if err := d.print("   core-banking → %s: %s, %s", n.name, password, said); err != nil {
		return err
	}
	return expect("result", want, said)
}

func (d *clusterDemo) carryOn(ctx context.Context) error {
	left := d.nodes[1]
	d.title(fmt.Sprintf("Node %s carries on", left.name), "The customer pays with the next password, and notices nothing.")
	password, err := d.nextPassword()
	if err != nil {
		return err
	}
	if err := d.expectVerdict(ctx, left, password, "accepted"); err != nil {
		return err
	}
	return d.expectVerdict(ctx, left, password, "refused: already_used")
}

func (d *clusterDemo) audit(ctx context.Context) error {
	left := d.nodes[1]
	d.title("The auditor compares the database with the logs of both nodes",
		"Each node has a log of its own. Together they must tell one story, and it must be the database's.")
	auditor, err := left.as("auditor")
	if err != nil {
		return err
	}
	entries, logs, err := readEntries(ctx, auditor, entriesQuery{limit: auditPage, serial: d.token.Serial})
	if err != nil {
		return err
	}
	var table bytes.Buffer
	if err := printEntries(&table, entries, logs, false); err != nil {
		return err
	}
	if err := d.print("%s\n", strings.TrimRight(table.String(), "\n")); err != nil {
		return err
	}
	compared, err := auditor.CompareAudit(ctx)
	if err != nil {
		return fmt.Errorf("comparing: %w", err)
	}
	var verdict bytes.Buffer
	if err := printComparison(&verdict, compared.Discrepancies, false); err != nil {
		return err
	}
	return errors.Join(d.print("   ramzban audit compare: %s", strings.TrimSpace(verdict.String())), expect("number of logs", "2", fmt.Sprint(logs)))
}
