//go:build !linux

package main

import "os/exec"

// dieWithParent: only Linux offers it.
func dieWithParent(*exec.Cmd) {}
