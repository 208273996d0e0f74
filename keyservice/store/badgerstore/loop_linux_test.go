package badgerstore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const imageSize = 128 << 20

// newImage makes a file that holds an ext4 file system which belongs to this user.
func newImage(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(imageSize))
	require.NoError(t, f.Close())
	owner := fmt.Sprintf("lazy_itable_init=0,lazy_journal_init=0,root_owner=%d:%d", os.Getuid(), os.Getgid())
	system(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", owner, path)
	return path
}

// mounted is a mounted image.
type mounted struct {
	dir    string
	device string // of the loop, such as loop3
}

// mount mounts an image; it is unmounted, and its loop device freed, at the end of the test at the latest.
func mount(t testing.TB, image string, options ...string) *mounted {
	t.Helper()
	loop := strings.TrimSpace(root(t, "losetup", "--find", "--show", image))
	m := &mounted{dir: t.TempDir(), device: filepath.Base(loop)}
	defer root(t, "losetup", "--detach", loop) // takes effect when it is unmounted, or at once if mounting fails
	root(t, "mount", append(append([]string{"-t", "ext4"}, options...), loop, m.dir)...)
	t.Cleanup(func() { m.unmount(t) })
	return m
}

// unmount unmounts the image; a second call does nothing.
func (m *mounted) unmount(t testing.TB) {
	t.Helper()
	if m.dir == "" {
		return
	}
	dir := m.dir
	m.dir = ""
	var out []byte
	gone := func() bool { // a process being started elsewhere holds our files for a moment
		var err error
		out, err = command(true, "umount", dir).CombinedOutput()
		return err == nil
	}
	if !assert.Eventually(t, gone, 10*time.Second, 20*time.Millisecond) {
		t.Logf("umount %s: %s", dir, out)
		root(t, "umount", "--lazy", dir)
	}
}

// root runs a command that needs the right to mount.
func root(t testing.TB, name string, args ...string) string {
	t.Helper()
	return run(t, command(true, name, args...))
}

func system(t testing.TB, name string, args ...string) {
	t.Helper()
	run(t, command(false, name, args...))
}

func command(privileged bool, name string, args ...string) *exec.Cmd {
	if privileged && os.Geteuid() != 0 {
		name, args = "sudo", append([]string{"-n", name}, args...)
	}
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); c.Err != nil && err == nil {
		c.Path, c.Err = path, nil
	}
	return c
}

func run(t testing.TB, c *exec.Cmd) string {
	t.Helper()
	out, err := c.CombinedOutput()
	require.NoError(t, err, "loop mounts need root, or sudo that asks for no password (`sudo -v` first): %v: %s", c, out)
	return string(out)
}
