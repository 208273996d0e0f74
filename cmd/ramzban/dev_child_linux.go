package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets no service outlive a demonstration that was killed. A key pressed at the terminal is for the
// demonstration alone, which then ends its services in order.
func dieWithParent(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
