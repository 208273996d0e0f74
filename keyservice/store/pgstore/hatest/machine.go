package hatest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is one of the set's. Its network cards and its files outlive its processes.
type Machine struct {
	Name      string
	number    int
	dir       string
	namespace string // path of the network namespace
	network   int    // descriptor of it

	running *running // nil: switched off
}

// running is what runs on a machine.
type running struct {
	init  *os.Process
	ended chan struct{}
}

// newMachine makes a machine that is switched off.
func (s *Set) newMachine(number int) (*Machine, error) {
	m := newName(number)
	m.dir = filepath.Join(s.dir, m.Name)
	if err := m.connectNetworks(); err != nil {
		return nil, err
	}
	return m, m.configure(s.files)
}

// connectNetworks gives the machine its network namespace and its cards.
func (m *Machine) connectNetworks() (err error) {
	if m.network, err = newNamespace(); err != nil {
		return err
	}
	m.namespace = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.network)
	return m.plugIn()
}

// newName is a machine with nothing but its name and its addresses.
func newName(number int) *Machine { return &Machine{Name: fmt.Sprintf("db%d", number), number: number} }

// newNamespace makes a network namespace that lasts as long as its descriptor.
func newNamespace() (descriptor int, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		descriptor, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("hatest: making a network namespace: %w", err)
	}
	return descriptor, nil
}

// onThread runs fn on a thread that nothing else ever runs on: it ends with fn.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- fn()
	}()
	return <-done
}

// script is the first process of a machine; the others are its children.
const script = `
mount -t proc proc /proc
cd "$1"
setpriv --reuid postgres --regid postgres --clear-groups etcd --config-file etcd.yml >>etcd.log 2>&1 &
setpriv --reuid postgres --regid postgres --clear-groups patroni patroni.yml >>patroni.log 2>&1 &
wait
`

// Boot starts the machine's processes.
func (m *Machine) Boot() error {
	if m.running != nil {
		return fmt.Errorf("hatest: %s is running", m.Name)
	}
	boot := exec.Command("bash", "-c", script, "machine", m.dir)
	boot.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + m.dir, "LC_ALL=C.UTF-8"}
	boot.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC,
		Setpgid:    true, // a key pressed at a terminal is for the test
		Pdeathsig:  syscall.SIGKILL,
	}
	r := &running{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the machine's network, and Pdeathsig is when it ends
		err := unix.Setns(m.network, unix.CLONE_NEWNET)
		if err == nil {
			err = boot.Start()
		}
		r.init = boot.Process
		started <- err
		if err == nil {
			_ = boot.Wait() // it was killed
			close(r.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("hatest: starting %s: %w", m.Name, err)
	}
	m.running = r
	return nil
}

// Kill ends all of the machine's processes with SIGKILL, at once. Its kernel goes on: connections are seen to end. A
// machine that is switched off stays so.
func (m *Machine) Kill() error {
	if m.running == nil {
		return nil
	}
	err := m.running.init.Kill()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("hatest: killing %s: %w", m.Name, err)
	}
	<-m.running.ended // the kernel has ended all others of the PID namespace by then
	m.running = nil
	return nil
}

// Log returns the end of one of the machine's logs: "etcd", or "patroni", in which PostgreSQL's is too.
func (m *Machine) Log(name string) string {
	text, err := os.ReadFile(filepath.Join(m.dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	var said []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "no action. I am") { // Patroni says it at every look
			said = append(said, line)
		}
	}
	return strings.Join(said[max(0, len(said)-100):], "")
}
