package main

import (
	"errors"
	"fmt"
	"strings"

	"ramzban/hsm"
	"ramzban/keyservice/backup"
	"ramzban/keyservice/store/badgerstore"
	"ramzban/keyservice/store/transfer"
)

// Exit statuses, by sysexits(3) where it has one. The systemd unit does not restart after those that starting again
// cannot mend, least of all after a wrong PIN: every try counts, and an HSM locks after a few.
const (
	exitFailure = 1
	exitDamaged = 65 // EX_DATAERR
	exitPIN     = 77 // EX_NOPERM
	exitConfig  = 78 // EX_CONFIG
)

// errConfiguration is every error that only another configuration, or another file or server named in it, can mend. A
// node that another process was started as is one: the two would end each other for ever.
var errConfiguration = errors.New("configuration")

// exits are the exit statuses and what they mean; exitFailure is the status of every other error.
var exits = []struct {
	status int
	cause  error  // nil for those that are no single error
	means  string // of serve
}{
	{0, nil, "it was told to stop, and stopped in order"},
	{exitFailure, nil, "anything else, such as a disk, a database, an HSM or an address that is not there: starting again may help"},
	{exitDamaged, badgerstore.ErrCorrupt, "the database is damaged"},
	{exitPIN, hsm.ErrPIN, "the HSM refused the PIN: correct it before starting again, wrong tries lock it"},
	{exitConfig, errConfiguration, "the configuration, or a file or server it names, must be mended first; or another process has this node's name, or the database was moved"},
}

// exitStatus returns the status that the process ends with after an error.
func exitStatus(err error) int {
	if errors.Is(err, transfer.ErrRefused) || errors.Is(err, hsm.ErrRefused) {
		return exitConfig
	}
	if errors.Is(err, errNotSigned) || errors.Is(err, backup.ErrDamaged) {
		return exitDamaged
	}
	for _, e := range exits {
		if e.cause != nil && errors.Is(err, e.cause) {
			return e.status
		}
	}
	return exitFailure
}

// copyExits are the exit statuses of a copy and what they mean, for --help.
const copyExits = `Exit statuses:
   0  the database is moved, or with --abandon the copy is given up
   1  it was cut short by an interruption, a server or a disk: the same command again goes on
  65  a database is damaged
  78  it was refused: what the message says must be mended first, the same command again does not help`

// ceremonyExits are the exit statuses of a key ceremony and what they mean, for --help.
const ceremonyExits = `Exit statuses:
   0  the ceremony was held, or nothing stands in its way
   1  it failed, and was undone unless the message says otherwise
  77  the HSM refused the PIN: correct it before trying again, wrong tries lock it
  78  it was refused: what the message says must be mended first`

// explainExits lists the exit statuses for --help.
func explainExits() string {
	lines := []string{"Exit statuses:"}
	for _, e := range exits {
		lines = append(lines, fmt.Sprintf("  %2d  %s", e.status, e.means))
	}
	return strings.Join(lines, "\n")
}
