package pgstore

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// limitSilence makes the kernel give a TCP connection up when what was sent is not acknowledged in time: retransmission
// alone goes on for a quarter of an hour.
func limitSilence(network, _ string, conn syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadPeer.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
