//go:build !linux

package main

import (
	"fmt"
	"syscall"
)

// forbidCoreDumps keeps the process's memory out of core files.
func forbidCoreDumps() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps (RLIMIT_CORE): %w", err)
	}
	return nil
}
