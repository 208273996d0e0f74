package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"ramzban/api/client"
	"ramzban/api/wire"
)

// startLimit bounds how long the service may take to be ready, stopLimit to end.
const (
	startLimit = 60 * time.Second
	stopLimit  = 60 * time.Second
)

// service is the real binary, run as `ramzban dev run` in a folder of its own.
type service struct {
	t        testing.TB
	dir      string
	keys     string // the folder with the PKI, if it is another
	api, ops string
	cmd      *exec.Cmd
	exited   chan struct{}
	err      error // of the process, once exited is closed
	mu       sync.Mutex
	clients  map[string]*client.Client
}

// newService names the folder and the addresses; they stay the same over restarts.
func newService(t testing.TB) *service {
	s := &service{t: t, dir: t.TempDir(), api: freeAddress(t), ops: freeAddress(t), clients: map[string]*client.Client{}}
	t.Cleanup(s.kill)
	return s
}

func startService(t testing.TB) *service {
	s := newService(t)
	s.start()
	return s
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (s *service) start() {
	s.t.Helper()
	s.launch("dev", "run")
	s.waitReady()
}

// launch runs the binary with its output in files, so that they can be searched afterwards.
func (s *service) launch(args ...string) {
	s.t.Helper()
	s.cmd = exec.Command(ramzban, args...)
	s.cmd.Env = append(os.Environ(), "RAMZBAN_DEV_DIR="+s.dir, "RAMZBAN_API_ADDR="+s.api, "RAMZBAN_OPS_ADDR="+s.ops)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = s.appendTo("out.log"), s.appendTo("err.log")
	require.NoError(s.t, s.cmd.Start())
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		s.err = cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
}

func (s *service) appendTo(name string) *os.File {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (s *service) waitReady() {
	s.t.Helper()
	require.True(s.t, s.becomesReady(), "the service ended: %v\n%s", s.err, s.output())
}

// becomesReady waits until the service is ready, or has ended.
func (s *service) becomesReady() bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if status, err := get(ctx, "http://"+s.ops+"/readyz"); err == nil && status == http.StatusOK {
			return true
		}
		select {
		case <-s.exited:
			return false
		case <-ctx.Done():
			require.FailNow(s.t, "the service is not ready", "%s", s.output())
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// output is what the process printed, for messages.
func (s *service) output() string {
	var all []byte
	for _, name := range []string{"out.log", "err.log"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			return err.Error()
		}
		all = append(all, b...)
	}
	return string(all[max(0, len(all)-4000):])
}

// kill is kill -9, of this process alone.
func (s *service) kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// terminate asks the service to end, and returns how it did.
func (s *service) terminate() error {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.exited:
		return s.err
	case <-time.After(stopLimit):
		require.FailNow(s.t, "the service does not end", "%s", s.output())
		return errors.New("unreachable")
	}
}

// as returns the client with one of the development certificates.
func (s *service) as(name string) *client.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, made := s.clients[name]; made {
		return c
	}
	c, err := client.New(client.Options{
		BaseURL: "https://" + s.api, CAFile: s.pki("ca.crt"), CertFile: s.pki(name + ".crt"), KeyFile: s.pki(name + ".key"),
	})
	require.NoError(s.t, err)
	s.clients[name] = c
	s.t.Cleanup(c.Close)
	return c
}

func (s *service) pki(file string) string { return filepath.Join(cmp.Or(s.keys, s.dir), "pki", file) }

// customer is someone with a card and an activated phone. Use is what its passwords are good for.
type customer struct {
	card   string
	serial string
	token  phoneToken
}

const testUse = "second-pin"

// phoneKey is shared by the tests' phones: making one takes longer than all the rest of an enrolment.
var phoneKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, phoneKeyBits) })

// enrol walks a customer's token from issue to active, as the four systems of a bank do.
func (s *service) enrol(ctx context.Context, profile, card string) (customer, error) {
	issued, err := s.as("branch").Issue(ctx, wire.IssueRequest{
		Class: "card", Subject: card, Channel: "app", Profile: profile, Uses: []string{testUse}})
	if err != nil {
		return customer{}, fmt.Errorf("issue: %w", err)
	}
	return s.activate(ctx, issued, card)
}

func (s *service) issueAndCollect(t testing.TB, card string) (wire.IssueAnswer, string) {
	t.Helper()
	issued, err := s.as("branch").Issue(t.Context(), wire.IssueRequest{
		Class: "card", Subject: card, Channel: "app", Profile: "offline-60", Uses: []string{testUse}})
	require.NoError(t, err)
	code, err := s.as("sms-gateway").CollectCode(t.Context(), issued.Activation.ID)
	require.NoError(t, err)
	return issued, code.Code
}

func (s *service) activate(ctx context.Context, issued wire.IssueAnswer, card string) (customer, error) {
	key, err := phoneKey()
	if err != nil {
		return customer{}, err
	}
	p := phone{key: key}
	der, err := p.publicKey()
	if err != nil {
		return customer{}, err
	}
	code, err := s.as("sms-gateway").CollectCode(ctx, issued.Activation.ID)
	if err != nil {
		return customer{}, fmt.Errorf("collect: %w", err)
	}
	answer, err := s.as("mobile-bank").Activate(ctx, issued.Serial, wire.ActivationRequest{
		Subject: card, ActivationCode: code.Code, Device: &wire.Device{ID: "d1", Channel: "app", PublicKey: der}})
	if err != nil {
		return customer{}, fmt.Errorf("activate: %w", err)
	}
	t, err := p.unwrap(answer)
	if err != nil {
		return customer{}, err
	}
	proof, err := t.proof(der)
	if err != nil {
		return customer{}, err
	}
	if _, err := s.as("mobile-bank").Confirm(ctx, issued.Serial, wire.ConfirmationRequest{Proof: proof}); err != nil {
		return customer{}, fmt.Errorf("confirm: %w", err)
	}
	return customer{card: card, serial: issued.Serial, token: t}, nil
}

func (s *service) verify(ctx context.Context, serial, password string) (wire.VerificationAnswer, error) {
	return s.as("core-banking").Verify(ctx, wire.VerificationRequest{Serial: serial, Use: testUse, OTP: password})
}

// password makes the customer's next password; for a counter token the counter moves on.
func (c *customer) password(t testing.TB) string {
	t.Helper()
	p, after, err := c.token.next(time.Now(), typed{})
	require.NoError(t, err)
	c.token = after
	return p.Reveal()
}

// testCard returns the n-th of the tests' card numbers: 16 digits with a Luhn check digit.
func testCard(n int) string {
	digits := fmt.Sprintf("603799%09d", n)
	sum := 0
	for i := range len(digits) {
		d := int(digits[i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return fmt.Sprintf("%s%d", digits, (10-sum%10)%10)
}
