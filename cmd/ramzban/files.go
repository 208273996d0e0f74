package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Modes of what we write: secrets are for their owner alone.
const (
	privateFile   os.FileMode = 0o600
	publicFile    os.FileMode = 0o644
	privateFolder os.FileMode = 0o700
)

// createFile writes a new file and its folder's entry to disk; it never replaces one.
func createFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, werr := f.Write(content)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}

// replaceFile makes path hold content, private to its owner: the old content or the new one survives a crash, whole.
func replaceFile(path string, content []byte) error {
	return replaceFileWith(path, content, privateFile)
}

func replaceFileWith(path string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, werr := f.Write(content)
	if err := errors.Join(werr, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// requirePrivate refuses a file or folder that its group or others may use. One that is not there is no error here.
func requirePrivate(key, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return wrong(key, "%v: let the service's user look at it", err)
	case info.Mode().Perm()&0o077 == 0:
		return nil
	}
	mode := privateFile
	if info.IsDir() {
		mode = privateFolder
	}
	return wrong(key, "others may read %s: chmod %o it", path, mode)
}

// exists tells a missing file from one that cannot be looked at.
func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
