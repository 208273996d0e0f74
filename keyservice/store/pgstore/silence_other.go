//go:build !linux

package pgstore

import "syscall"

// limitSilence leaves it to the system how long a silent connection lives.
func limitSilence(string, string, syscall.RawConn) error { return nil }
