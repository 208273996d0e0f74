//go:build !linux

package main

import "golang.org/x/sys/unix"

// How a terminal's settings are read, and written once all output has gone out and what was typed before is thrown away.
const (
	readTermios  = unix.TIOCGETA
	writeTermios = unix.TIOCSETAF
)
