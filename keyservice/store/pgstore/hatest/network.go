package hatest

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// Network is one of the two that join the machines.
type Network string

// The networks. A name is also that of the bridge, and of each machine's card.
const (
	Servers Network = "servers" // among the machines: etcd, Patroni, replication
	Clients Network = "clients" // between clients and PostgreSQL
)

var subnets = map[Network]string{Servers: "10.91.1.", Clients: "10.91.2."}

// Address is the machine's on a network.
func (m *Machine) Address(on Network) string { return fmt.Sprintf("%s%d", subnets[on], m.number) }

// port is the bridge's end of the machine's cable.
func (m *Machine) port(on Network) string { return fmt.Sprintf("%s%d", on, m.number) }

// buildNetworks makes a bridge for each network. This process is on both.
func buildNetworks() error {
	var commands []string
	for network, subnet := range subnets {
		commands = append(commands,
			fmt.Sprintf("link add %s type bridge", network),
			fmt.Sprintf("address add %s254/24 dev %s", subnet, network),
			fmt.Sprintf("link set %s up", network))
	}
	return ip(commands...)
}

// plugIn gives the machine its cards.
func (m *Machine) plugIn() error {
	inside := []string{"link set lo up"}
	for network := range subnets {
		err := ip(
			fmt.Sprintf("link add %s type veth peer name %s netns %s", m.port(network), network, m.namespace),
			fmt.Sprintf("link set %s master %s up", m.port(network), network))
		if err != nil {
			return err
		}
		inside = append(inside,
			fmt.Sprintf("address add %s/24 dev %s", m.Address(network), network),
			fmt.Sprintf("link set %s up", network))
	}
	return ipIn(m.namespace, inside...)
}

// Cut takes the machine's cables out of the bridges of these networks. The machine sees no difference but silence.
func (m *Machine) Cut(from ...Network) error {
	for _, network := range from {
		if err := ip(fmt.Sprintf("link set %s nomaster", m.port(network))); err != nil {
			return err
		}
	}
	return nil
}

// Heal puts the machine's cables back.
func (m *Machine) Heal() error {
	for network := range subnets {
		if err := ip(fmt.Sprintf("link set %s master %s", m.port(network), network)); err != nil {
			return err
		}
	}
	return nil
}

// ip runs commands of ip(8) in this process's network namespace.
func ip(commands ...string) error { return batch(exec.Command("ip", "-batch", "-"), commands) }

// ipIn runs commands of ip(8) in another network namespace.
func ipIn(namespace string, commands ...string) error {
	return batch(exec.Command("nsenter", "--net="+namespace, "ip", "-batch", "-"), commands)
}

func batch(run *exec.Cmd, commands []string) error {
	run.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("hatest: ip: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
