package pgserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// prefix begins the names of the servers' folders.
const prefix = "ramzban-postgres-"

// Memory returns a folder of a file system in memory where there is one: fsync is on, as pgstore demands, and costs nothing.
func Memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return os.TempDir()
}

// makeDir makes a folder that the account can use. This process holds a lock on it while it lives. Another process may
// sweep the folder away before it is locked: then there is a next one.
func makeDir(parent string, account *syscall.Credential) (string, error) {
	var failed error
	for range 5 {
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return "", fmt.Errorf("pgserver: %w", err)
		}
		if err = hold(dir, account); err == nil {
			return dir, nil
		}
		failed = errors.Join(fmt.Errorf("pgserver: %w", err), os.RemoveAll(dir))
	}
	return "", failed
}

func hold(dir string, account *syscall.Credential) error {
	if _, err := lock(dir); err != nil { // never given up: it ends with the process
		return err
	}
	if account != nil {
		return os.Chown(dir, int(account.Uid), int(account.Gid))
	}
	_, err := os.Stat(dir)
	return err
}

// lock locks a folder or fails at once.
func lock(dir string) (fd int, err error) {
	if fd, err = syscall.Open(dir, syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return 0, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}

// sweep removes what killed processes left behind; their servers have ended with them.
func sweep(parent string) error {
	left, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	for _, dir := range left {
		fd, err := lock(dir)
		if err != nil {
			continue // in use, another user's, or gone
		}
		busy, err := processesIn(filepath.Join(dir, "data"))
		if err == nil && busy == 0 {
			err = os.RemoveAll(dir)
		}
		if err = errors.Join(err, syscall.Close(fd)); err != nil {
			return fmt.Errorf("pgserver: %w", err)
		}
	}
	return nil
}

// processesIn counts the processes whose working directory is dir: all of a server's have its data directory.
func processesIn(dir string) (int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return 0, fmt.Errorf("pgserver: %w", err)
	}
	n := 0
	for _, link := range links {
		switch at, err := os.Readlink(link); {
		case err == nil && strings.TrimSuffix(at, " (deleted)") == dir:
			n++
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.ESRCH):
			return 0, fmt.Errorf("pgserver: %w", err)
		}
	}
	return n, nil
}
