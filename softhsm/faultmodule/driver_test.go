package faultmodule_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"ramzban/softhsm"
	"ramzban/softhsm/faultmodule"
)

const label = softhsm.Label

// token is the SoftHSM token of all tests, and program the driver's path. Each driver is a process of its own, so
// PKCS#11 is initialised anew in each.
var (
	token   *softhsm.Token
	program string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramzban-faultmodule-")
	if err == nil {
		defer os.RemoveAll(dir)
		token, err = softhsm.Provision(context.Background(), dir)
	}
	if err == nil {
		program = filepath.Join(dir, "driver")
		err = compileDriver(program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// driver is a C program (testdata/driver.c) that loaded the module under test and obeys the test line by line.
type driver struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// answer is what one call came to: its CKR, and a handle, a number or bytes in hex.
type answer struct {
	rv    uint64
	value uint64
	bytes string
}

func (d *driver) do(command, text string, numbers ...any) answer {
	d.t.Helper()
	d.send(command, text, numbers...)
	return d.receive()
}

func (d *driver) send(command, text string, numbers ...any) {
	fmt.Fprintln(d.in, append([]any{command, text}, numbers...)...)
}

func (d *driver) receive() answer {
	d.t.Helper()
	require.True(d.t, d.out.Scan(), "the driver ended")
	var a answer
	_, err := fmt.Sscanf(d.out.Text(), "%x %d %s", &a.rv, &a.value, &a.bytes)
	require.NoError(d.t, err)
	return a
}

// must is do for calls that have to succeed; it returns the value.
func (d *driver) must(command, text string, numbers ...any) uint64 {
	d.t.Helper()
	a := d.do(command, text, numbers...)
	require.EqualValues(d.t, 0, a.rv, "%s %s %v", command, text, numbers)
	return a.value
}

// refused is do for calls that have to fail with the CKR given.
func (d *driver) refused(ckr uint64, command, text string, numbers ...any) {
	d.t.Helper()
	a := d.do(command, text, numbers...)
	require.Equal(d.t, fmt.Sprintf("%#x", ckr), fmt.Sprintf("%#x", a.rv), "%s %s %v", command, text, numbers)
}

// begin initialises the module, opens a session and logs in; it returns the session.
func (d *driver) begin() uint64 {
	d.t.Helper()
	d.must("init", "-")
	s := d.must("open", "-", d.must("slot", label))
	d.must("login", pin(), s)
	return s
}

// signsWith checks that the handle stands for the key of this fill.
func (d *driver) signsWith(fill byte, session, key uint64) {
	d.t.Helper()
	seed := make([]byte, 32)
	for i := range seed {
		seed[i] = fill
	}
	mac := hmac.New(sha256.New, seed)
	mac.Write([]byte("message"))
	a := d.do("sign", "-", session, key)
	require.EqualValues(d.t, 0, a.rv)
	require.Equal(d.t, hex.EncodeToString(mac.Sum(nil)), a.bytes)
}

// setup makes a fault module before the token, and a driver that loaded the module.
func setup(t *testing.T) (*driver, *faultmodule.Control) {
	t.Helper()
	c := newControl(t)
	cmd := exec.Command(program, c.Module())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		c.Clear()
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	})
	return &driver{t: t, in: in, out: bufio.NewScanner(out)}, c
}

func pin() string { return token.PIN.Reveal() }

func newControl(t *testing.T) *faultmodule.Control {
	t.Helper()
	c, err := faultmodule.New(t.TempDir(), token.Module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func compileDriver(path string) error {
	out, err := exec.Command("cc", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/driver.c", "-ldl").CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile the driver: %w\n%s", err, out)
	}
	return nil
}
