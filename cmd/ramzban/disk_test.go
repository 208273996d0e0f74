package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// disk is a file system on a loop device that can be made to fail: cut short, it answers every access beyond its end with
// an I/O error, as a broken disk does.
type disk struct {
	t      testing.TB
	device string
	dir    string // where it is mounted
}

func newDisk(t testing.TB) *disk {
	top := t.TempDir()
	image := filepath.Join(top, "image")
	d := &disk{t: t, dir: filepath.Join(top, "disk")}
	require.NoError(t, os.Mkdir(d.dir, 0o700))
	asRoot(t, "truncate", "--size=1G", image)
	asRoot(t, "mkfs.ext4", "-q", image)
	d.device = strings.TrimSpace(asRoot(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { asRoot(t, "losetup", "--detach", d.device) })
	d.mount()
	t.Cleanup(func() { asRoot(t, "umount", d.dir) })
	return d
}

func (d *disk) mount() {
	asRoot(d.t, "mount", d.device, d.dir)
	asRoot(d.t, "chown", strconv.Itoa(os.Getuid()), d.dir)
	asRoot(d.t, "chmod", "700", d.dir)
}

// cut lets the disk fail, or with 0 work again.
func (d *disk) cut(bytes uint64) {
	asRoot(d.t, "env", helperEnv+"=cut", os.Args[0], d.device, strconv.FormatUint(bytes, 10))
}

// runCut is the helper process of cut: it sets the size limit of a loop device.
func runCut() error {
	device, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = device.Close() }()
	limit, err := strconv.ParseUint(os.Args[2], 10, 64)
	if err != nil {
		return err
	}
	status, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if err != nil {
		return err
	}
	status.Sizelimit = limit
	return unix.IoctlLoopSetStatus64(int(device.Fd()), status)
}

// repair makes the disk whole again, as an administrator would.
func (d *disk) repair() {
	asRoot(d.t, "umount", d.dir)
	d.cut(0)
	asRoot(d.t, "sh", "-c", "e2fsck -fy "+d.device+" || [ $? -lt 4 ]") // 1 and 2: repaired
	d.mount()
}

func asRoot(t testing.TB, command ...string) string {
	t.Helper()
	c := rootCommandLine(command...)
	c.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s: %v: %s", needsRoot, command, out)
	return string(out)
}

// needsRoot stands before what a failed command said.
const needsRoot = "this needs root, or sudo that asks for no password (`sudo -v` first)"

func rootCommandLine(command ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		command = append([]string{"sudo", "-n"}, command...)
	}
	return exec.Command(command[0], command[1:]...)
}

// When the engine fails the process ends with one line; when the disk is good again, everything acknowledged is there.
func TestEngineErrorEndsTheProcessAndRestartsClean(t *testing.T) {
	d := newDisk(t)
	b := newBank(newService(t))
	require.NoError(t, os.Symlink(d.dir, filepath.Join(b.dir, "badger")))
	b.start()
	for range 8 {
		require.NoError(t, b.open(t.Context()))
	}
	loaded := make(chan struct{})
	go func() { b.load(t.Context(), 4); close(loaded) }() // ends when the service does
	require.Eventually(t, func() bool { return b.acceptances() > 100 }, startLimit, 5*time.Millisecond)
	d.cut(1 << 20)
	<-loaded
	<-b.exited
	require.Error(t, b.err)
	stderr, err := os.ReadFile(filepath.Join(b.dir, "err.log"))
	require.NoError(t, err)
	requireOneLine(t, string(stderr), "the database failed", "start the service again")

	d.repair()
	b.start()
	b.check(t.Context())
	require.NoError(t, b.terminate())
}
