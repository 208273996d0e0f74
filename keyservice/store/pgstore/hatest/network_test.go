package hatest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// leaveVariable makes this binary build networks, say so, and wait to be killed.
const leaveVariable = "RAMZBAN_TEST_HATEST_CHILD"

func TestMain(m *testing.M) {
	if err := Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Getenv(leaveVariable) == "" {
		os.Exit(m.Run())
	}
	if err := buildNetworks(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("built")
	select {}
}

// newCards makes machines that have network cards and nothing else.
func newCards(t *testing.T) []*Machine {
	t.Helper()
	require.NoError(t, buildNetworks())
	t.Cleanup(func() {
		for network := range subnets {
			require.NoError(t, ip(fmt.Sprintf("link delete %s", network)))
		}
	})
	var machines []*Machine
	for number := 1; number <= Size; number++ {
		m := newName(number)
		require.NoError(t, m.connectNetworks())
		t.Cleanup(func() {
			require.NoError(t, ip("link delete "+m.port(Servers), "link delete "+m.port(Clients)))
			require.NoError(t, unix.Close(m.network))
		})
		machines = append(machines, m)
	}
	return machines
}

// listen lets a machine accept connections on all its addresses.
func (m *Machine) listen(t *testing.T) {
	t.Helper()
	require.NoError(t, onThread(func() error {
		if err := unix.Setns(m.network, unix.CLONE_NEWNET); err != nil {
			return err
		}
		l, err := net.Listen("tcp4", "0.0.0.0:5432")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// reach connects to a machine from another one, or from this process if there is none.
func (m *Machine) reach(from *Machine, on Network) error {
	return onThread(func() error {
		if from != nil {
			if err := unix.Setns(from.network, unix.CLONE_NEWNET); err != nil {
				return err
			}
		}
		d := net.Dialer{Timeout: time.Second}
		c, err := d.Dial("tcp4", m.Address(on)+":5432")
		return errors.Join(err, closed(c))
	})
}

func closed(c net.Conn) error {
	if c == nil {
		return nil
	}
	return c.Close()
}

// TestCut: a machine that is cut from one network is still on the other, and back on both when it is healed.
func TestCut(t *testing.T) {
	machines := newCards(t)
	for _, m := range machines {
		m.listen(t)
	}
	one, two, three := machines[0], machines[1], machines[2]
	require.NoError(t, one.reach(two, Servers))
	require.NoError(t, one.reach(nil, Clients))

	require.NoError(t, one.Cut(Servers))
	require.Error(t, one.reach(two, Servers))
	require.Error(t, two.reach(one, Servers))
	require.NoError(t, one.reach(nil, Clients))
	require.NoError(t, two.reach(three, Servers))
	require.NoError(t, one.Cut(Clients))
	require.Error(t, one.reach(nil, Clients))

	require.NoError(t, one.Heal())
	require.NoError(t, one.reach(two, Servers))
	require.NoError(t, two.reach(one, Servers))
	require.NoError(t, one.reach(nil, Clients))
}

// TestNetworksAreThisProcessesOwn: nobody else ever sees them, so nothing of them is left when the process is killed.
func TestNetworksAreThisProcessesOwn(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.Command(self)
	child.Env = append(os.Environ(), leaveVariable+"=1", isolatedVariable+"=")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	said := make([]byte, 100)
	n, err := out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "built\n", string(said[:n]))
	bridges := func(of string) string {
		out, err := exec.Command("nsenter", "--net="+of, "ip", "-brief", "link", "show", "type", "bridge").CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Contains(t, bridges(fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid)), string(Servers))
	require.NotContains(t, bridges("/proc/self/ns/net"), string(Servers))
	require.NoError(t, child.Process.Kill())
	require.ErrorContains(t, child.Wait(), "killed")
}
