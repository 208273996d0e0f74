package pgserver

import "syscall"

// attributes are those of a server's process. SIGQUIT is PostgreSQL's immediate shutdown: it ends the server's children
// too. A key pressed at a terminal is for us, not for the server.
func attributes(account *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: account, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
}
