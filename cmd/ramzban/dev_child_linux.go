package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets no service outlive a demonstration that was killed.
func dieWithParent(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
