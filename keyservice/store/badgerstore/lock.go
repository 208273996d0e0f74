package badgerstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDir makes the directory if need be, locks it for this process and makes sure that it can be written. The lock is
// Badger's own, an flock of the directory, so that Badger's tools respect it; the kernel drops it with the process.
func lockDir(dir string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, notWritable(dir, err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s: stop the other process or choose another directory", ErrLocked, dir)
		}
		return nil, fmt.Errorf("badgerstore: locking %s: %w", dir, err)
	}
	if err := probe(dir); err != nil {
		return nil, both(notWritable(dir, err), unlock(d))
	}
	return d, nil
}

// unlock gives the directory up, also while a process that is just being started still has a copy of the descriptor.
func unlock(d *os.File) error {
	return errors.Join(unix.Flock(int(d.Fd()), unix.LOCK_UN), d.Close())
}

// makeDir makes the directory and the way to it durable.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory: move it away or choose another directory", ErrNotWritable, dir)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return notWritable(dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return notWritable(dir, err)
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	return nil
}

// probe writes and removes a file: permissions alone do not tell, for root or on a read-only file system. Then it tries
// the files that are there.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, file.Name()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// both adds a second error, if there is one, on the same line.
func both(err, more error) error {
	if more == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, more)
}

func notWritable(dir string, err error) error {
	return fmt.Errorf("%w: %s: %s: let the service's user write to it, on a file system that is not read-only",
		ErrNotWritable, dir, oneLine(err.Error()))
}

func corrupt(dir string, err error) error {
	return fmt.Errorf("%w: %s: %s: restore it from a backup, or name an empty directory to start anew",
		ErrCorrupt, dir, oneLine(err.Error()))
}
