package hatest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// isolatedVariable tells a process that it is isolated already.
const isolatedVariable = "RAMZBAN_TEST_ISOLATED"

// memory is where all files are. It is a file system of this process's own.
const memory = "/dev/shm"

// Isolate starts this process's program again, as root in a network and a mount namespace of its own, and does not return
// but there. It must come first in TestMain.
func Isolate() error {
	if os.Getenv(isolatedVariable) != "" {
		return settle()
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	// Mounts of the new mount namespace are private: unshare(1) sees to it.
	command := append([]string{"unshare", "--net", "--mount", "--", self}, os.Args[1:]...)
	if os.Geteuid() != 0 {
		command = append([]string{"sudo", "-n", "-E"}, command...)
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("hatest: this needs root: %w", err)
	}
	if err := os.Setenv(isolatedVariable, "1"); err != nil {
		return fmt.Errorf("hatest: %w", err)
	}
	// The process stays the same one: whoever waits for it or kills it need not know.
	return fmt.Errorf("hatest: %s: %w", program, syscall.Exec(program, command, os.Environ()))
}

// settle makes the namespaces fit to be used.
func settle() error {
	if err := syscall.Mount("tmpfs", memory, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=4g,mode=1777"); err != nil {
		return fmt.Errorf("hatest: mounting %s: %w", memory, err)
	}
	// Temporary files of the tests go where they vanish too.
	return errors.Join(os.Setenv("TMPDIR", memory), ip("link set lo up"))
}
