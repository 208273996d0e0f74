package faultmodule_test

import (
	"bufio"
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

	"ramzban/softhsm/faultmodule"
)

const (
	pin   = "1234"
	label = "fault-test"
)

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
	d.must("login", pin, s)
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

// setup makes a SoftHSM token, a fault module before it, and a driver that loaded the module.
func setup(t *testing.T) (*driver, *faultmodule.Control) {
	t.Helper()
	c := newControl(t, newToken(t))
	cmd := exec.Command(compileDriver(t), c.Module())
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

func newControl(t *testing.T, module string) *faultmodule.Control {
	t.Helper()
	c, err := faultmodule.New(t.TempDir(), module)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func compileDriver(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "driver")
	out, err := exec.Command("cc", "-Wall", "-Werror", "-pthread", "-o", path, "testdata/driver.c", "-ldl").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}
