//go:build !linux

package pgserver

import "syscall"

// attributes are those of a server's process. Only Linux offers to end it when this process is killed.
func attributes(account *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: account, Setpgid: true}
}
